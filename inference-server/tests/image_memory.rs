//! What hostile images cost in memory: the process's peak is looked at before and after each.
//!
//! One test in a process of its own, so that nothing else moves the peak.

#![expect(clippy::unwrap_used, reason = "a test that can't make its files should fail")]

use std::fs;

use flotilla_server::{
    image::{Preprocessor, Scratch, options::Preset},
    model::{Signature, TensorSpec},
    tensor::DataType,
};

/// The most memory the process has had since the last call, in MiB; none where the system does not say.
fn peak() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    // The peak begins anew from what is in use.
    fs::write("/proc/self/clear_refs", "5").ok()?;
    Some(kibibytes >> 10)
}

fn segment(marker: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 2).unwrap().to_be_bytes();
    [&[0xff, marker], &length[..], payload].concat()
}

/// A grey JPEG of that edge whose bits are all zeros: of each block one says that the first coefficient does not change, and in
/// a sequential file another one that there are no more.
fn flat_jpeg(frame: u8, edge: u16, bytes: usize) -> Vec<u8> {
    let [high, low] = edge.to_be_bytes();
    let table = |class: u8| [&[class, 1][..], &[0; 15], &[0]].concat();
    let last = if frame == 0xc2 { 0 } else { 63 };
    [
        &[0xff, 0xd8][..],
        &segment(0xdb, &[&[0][..], &[1; 64]].concat()),
        &segment(frame, &[8, high, low, high, low, 1, 1, 0x11, 0]),
        &segment(0xc4, &table(0)),
        &segment(0xc4, &table(0x10)),
        &segment(0xda, &[1, 1, 0, 0, last, 0]),
        &vec![0; bytes],
        &[0xff, 0xd9],
    ]
    .concat()
}

/// A grey PNG of that edge, all black, with chunks before its pixels.
fn flat_png(edge: u32, level: png::Compression, chunks: &[([u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut file = vec![];
    let mut encoder = png::Encoder::new(&mut file, edge, edge);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(level);
    let mut writer = encoder.write_header().unwrap();
    for (name, data) in chunks {
        writer.write_chunk(png::chunk::ChunkType(*name), data).unwrap();
    }
    writer.write_image_data(&vec![0; edge as usize * edge as usize]).unwrap();
    writer.finish().unwrap();
    file
}

/// Zeros, so many mebibytes, as zlib packs them.
fn packed(mebibytes: usize) -> Vec<u8> {
    use std::io::Write;
    let mut packer = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::best());
    for _ in 0..mebibytes {
        packer.write_all(&vec![0; 1 << 20]).unwrap();
    }
    packer.finish().unwrap()
}

#[test]
fn a_bomb_costs_little_memory() {
    let dims = vec![None, Some(3), Some(224), Some(224)];
    let input = TensorSpec { name: "x".to_owned(), data_type: DataType::Fp32, dims };
    let signature = Signature { inputs: vec![input], outputs: vec![], platform: "test" };
    let clip = Preprocessor::new(Preset::Clip, &signature).unwrap().unwrap();
    let blocks = 7000_usize.div_ceil(8).pow(2);

    let profile = [b"bomb\0\0", packed(200).as_slice()].concat();
    let text = [b"Comment\0\0", packed(200).as_slice()].concat();
    let files = [
        // Sequential files are decoded row by row: 49 megapixels as 196 KB are slow, but cost no memory.
        ("a flat sequential JPEG", flat_jpeg(0xc0, 7000, blocks / 4 + 1), None, 8),
        ("the same with half its bits", flat_jpeg(0xc0, 7000, blocks / 9), Some("at most 512"), 2),
        // One byte a block and two bytes a coefficient.
        ("a flat progressive JPEG", flat_jpeg(0xc2, 7000, blocks / 7), None, 110),
        ("a JPEG of four gigapixels", flat_jpeg(0xc0, 65_500, 1 << 20), Some("at most 50000000"), 2),
        ("a PNG packed a thousandfold", flat_png(7000, png::Compression::High, &[]), Some("at most 512"), 2),
        ("a colour profile of 200 MiB", flat_png(64, png::Compression::High, &[(*b"iCCP", profile)]), None, 2),
        ("a text of 200 MiB", flat_png(64, png::Compression::High, &[(*b"zTXt", text)]), None, 2),
        ("metadata of 20 MiB", flat_png(64, png::Compression::High, &[(*b"eXIf", vec![0; 20 << 20])]), Some(""), 48),
    ];
    for (what, file, refusal, mebibytes) in files {
        let mut scratch = Scratch::default();
        let mut out = vec![0.0; clip.values()];
        let Some(before) = peak().and_then(|_| peak()) else {
            assert!(std::env::var_os("CI").is_none(), "the peak of memory can't be read");
            return;
        };
        let result = clip.decode_into(&file, &mut scratch, &mut out);
        let used = peak().unwrap() - before;
        let error = result.as_ref().err().map(ToString::to_string);
        match refusal {
            None => assert_eq!(error, None, "{what}"),
            Some(part) => assert!(error.as_ref().is_some_and(|error| error.contains(part)), "{what}: {error:?}"),
        }
        assert!(used <= mebibytes, "{what} ({} bytes) took {used} MiB, and {mebibytes} are its bound", file.len());
    }
}
