use std::{fs, path::PathBuf};

use proptest::prelude::*;

use super::{
    options::{Decoder, Filter, Fit, Orientation, Preset},
    *,
};
use crate::{model::TensorSpec, tensor::DataType};

/// One file of each kind: formats, samplings, scans, depths.
const FILES: [&str; 23] = [
    "wide.png",
    "high.png",
    "small.png",
    "same.png",
    "strip.png",
    "large.png",
    "gray.png",
    "alpha.png",
    "palette.png",
    "bits.png",
    "deep.png",
    "rounds.png",
    "lossless.webp",
    "lossy.webp",
    "photo.jpg",
    "full.jpg",
    "half.jpg",
    "restart.jpg",
    "progressive.jpg",
    "luma.jpg",
    "ink.jpg",
    "components.jpg",
    "turned.jpg",
];

fn preprocessor(options: impl Into<Preprocessing>) -> Preprocessor {
    let dims = vec![None, Some(3), Some(32), Some(32)];
    let input = TensorSpec { name: "x".to_owned(), data_type: DataType::Fp32, dims };
    let signature = Signature { inputs: vec![input], outputs: vec![], platform: "test" };
    Preprocessor::new(options, &signature).unwrap().unwrap()
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/fixtures/images").join(name))
        .unwrap()
}

/// Red, green and blue of each pixel, before they become the model's numbers.
fn pixels(preprocessor: &Preprocessor, file: &[u8], scratch: &mut Scratch) -> Result<Vec<u8>, ImageError> {
    let mut pixels = vec![0; 32 * 32 * 3];
    preprocessor.rows_into(file, scratch, &mut |row, values| {
        for (place, value) in values.iter().enumerate() {
            pixels[(row * 32 + place % 32) * 3 + place / 32] = *value;
        }
    })?;
    Ok(pixels)
}

/// What Pillow made of a file.
fn golden(name: &str) -> Vec<u8> {
    let file = fixture(name);
    let mut reader = ::png::Decoder::new(std::io::Cursor::new(file.as_slice()));
    reader.set_transformations(::png::Transformations::EXPAND);
    let mut reader = reader.read_info().unwrap();
    let mut samples = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut samples).unwrap();
    match reader.output_color_type().0 {
        ::png::ColorType::Grayscale => samples.iter().flat_map(|sample| [*sample; 3]).collect(),
        ::png::ColorType::Rgba => {
            samples.as_chunks::<4>().0.iter().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
        }
        _ => samples,
    }
}

#[test]
fn pixels_are_pillow_s_to_the_bit() {
    let mut scratch = Scratch::default();
    for file in FILES.iter().filter(|file| **file != "turned.jpg") {
        for (preset, name) in [(Preset::Clip, "clip"), (Preset::ImageNet, "imagenet")] {
            let pixels = pixels(&preprocessor(preset), &fixture(file), &mut scratch).unwrap();
            let golden = golden(&format!("{}.{name}.expected.png", file.split('.').next().unwrap()));
            assert!(pixels == golden, "{file} for {name}");
        }
    }
}

#[test]
fn options_give_what_pillow_gives_with_the_same() {
    let clip = Preprocessing::from(Preset::Clip);
    for (name, options) in [
        ("scaled", Preprocessing { decoder: Decoder::Scaled, ..clip }),
        ("upright", Preprocessing { orientation: Orientation::Apply, ..clip }),
        ("stretched", Preprocessing { fit: Some(Fit::Stretch), filter: Some(Filter::Lanczos), ..clip }),
    ] {
        let pixels = pixels(&preprocessor(options), &fixture("turned.jpg"), &mut Scratch::default()).unwrap();
        assert!(pixels == golden(&format!("turned.{name}.expected.png")), "{name}");
    }
}

#[test]
fn values_are_planes_of_normalised_channels() {
    let clip = preprocessor(Preset::Clip);
    assert_eq!((clip.shape(2), clip.values()), (vec![2, 3, 32, 32], 3 * 32 * 32));
    let mut scratch = Scratch::default();
    for file in ["photo.jpg", "gray.png"] {
        let pixels = pixels(&clip, &fixture(file), &mut scratch).unwrap();
        let mut values = vec![f32::NAN; clip.values()];
        clip.decode_into(&fixture(file), &mut scratch, &mut values).unwrap();
        let (mean, deviation) = ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);
        for (place, value) in values.iter().enumerate() {
            let (channel, pixel) = (place / 1024, place % 1024);
            let expected = (f64::from(pixels[pixel * 3 + channel]) / 255.0 - mean[channel]) / deviation[channel];
            assert!((f64::from(*value) - expected).abs() < 1e-6, "{file} {place}: {value} for {expected}");
        }
    }
}

#[test]
fn a_file_that_is_cut_off_is_an_error_and_nothing_worse() {
    let options = Preprocessing { orientation: Orientation::Apply, fit: Some(Fit::Stretch), ..Preset::Clip.into() };
    let clip = preprocessor(options);
    let mut scratch = Scratch::default();
    for name in FILES {
        let file = fixture(name);
        for end in (0..file.len()).step_by(1 + file.len() / 25) {
            let result = pixels(&clip, &file[..end], &mut scratch);
            // The last bytes may be a checksum, an end marker, or bits that say what the rest is without them.
            assert!(result.is_err() || end > file.len() * 3 / 4, "{name} cut at {end} of {}", file.len());
        }
        assert!(pixels(&clip, &file, &mut scratch).is_ok(), "{name} after its parts");
    }
}

#[test]
fn what_can_t_be_is_refused_with_words() {
    let clip = preprocessor(Preset::Clip);
    let photo = fixture("photo.jpg");
    let frame = photo.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = photo.clone();
        file[frame + at..frame + at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let scans = |count: usize| {
        let file = fixture("progressive.jpg");
        let scan = file.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
        let end = scan + 2 + file[scan + 2..].windows(2).position(|two| two[0] == 0xff && two[1] != 0).unwrap();
        let refined: Vec<u8> = file[scan..end].to_vec();
        [&file[..scan], &refined.repeat(count), &[0xff, 0xd9]].concat()
    };
    let mut bomb = fixture("wide.png");
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    let mut webp = fixture("lossy.webp");
    webp[26..30].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
    for (what, file, part) in [
        ("nothing", vec![], "the file is empty"),
        ("text", b"hello".to_vec(), "no JPEG, PNG or WebP"),
        ("a GIF", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec(), "no JPEG, PNG or WebP"),
        ("a marker alone", vec![0xff, 0xd8], "cut off"),
        ("only ones", vec![0xff; 5000], "no JPEG, PNG or WebP"),
        ("a JPEG of gigapixels", changed(5, &[0xff, 0xff, 0xff, 0xff]), "at most 50000000 are decoded"),
        ("a JPEG of many pixels in few bytes", changed(5, &[0x12, 0, 0x24, 0]), "at most 512 a byte"),
        ("a JPEG without rows", changed(5, &[0, 0]), "no pixels"),
        ("a JPEG of 12 bits", changed(4, &[12]), "other than 8 bits"),
        ("a JPEG of two components", changed(9, &[2]), "wrong length"),
        ("a JPEG with a sampling of 0", changed(11, &[0]), "sampling or table"),
        ("a JPEG with a table that is not there", changed(12, &[3]), "quantisation table is missing"),
        ("an arithmetic-coded JPEG", changed(1, &[0xc9]), "arithmetic-coded"),
        ("a lossless JPEG", changed(1, &[0xc3]), "lossless"),
        ("a progressive frame with a scan of all", changed(1, &[0xc2]), "scan's header"),
        ("a hundred scans", scans(100), "more than 32 scans"),
        ("a PNG of gigapixels", bomb, "65536 x 65536 pixels"),
        ("a WebP of many pixels", webp, "at most 50000000 are decoded"),
    ] {
        let message = pixels(&clip, &file, &mut Scratch::default()).unwrap_err().to_string();
        assert!(message.contains(part), "{what}: {message:?} should say {part:?}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

proptest! {
    /// Whatever a file is changed to, it is an image or an error; a panic fails the test.
    #[test]
    fn changed_bytes_make_no_decoder_panic(
        name in prop::sample::select(&FILES[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        is_turned in any::<bool>(),
        is_scaled in any::<bool>(),
    ) {
        let mut file = fixture(name);
        for (place, value) in changes {
            let place = place.index(file.len());
            file[place] = value;
        }
        let options = Preprocessing {
            orientation: if is_turned { Orientation::Apply } else { Orientation::Ignore },
            decoder: if is_scaled { Decoder::Scaled } else { Decoder::Exact },
            max_pixels: 1 << 20,
            ..Preset::Clip.into()
        };
        drop(pixels(&preprocessor(options), &file, &mut Scratch::default()));
    }
}
