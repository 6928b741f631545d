//! What an image costs from its file's bytes to the model's input: one thread, files of the tests.
//!
//! ```text
//! cargo bench -p flotilla-server --bench image
//! bench/preprocessing                             # large photos, beside Pillow and OpenCV
//! ```

#![expect(clippy::expect_used, reason = "a benchmark that can't run should end")]

use std::{fs, hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use flotilla_server::{
    image::{
        Preprocessor, Scratch,
        options::{Decoder, Preprocessing, Preset},
    },
    model::{Signature, TensorSpec},
    tensor::DataType,
};

fn images(criterion: &mut Criterion) {
    let dims = vec![None, Some(3), Some(224), Some(224)];
    let input = TensorSpec { name: "image".to_owned(), data_type: DataType::Fp32, dims };
    let signature = Signature { inputs: vec![input], outputs: vec![], platform: "none" };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    for (name, decoder) in [
        ("turned.jpg", Decoder::Exact),
        ("turned.jpg", Decoder::Scaled),
        ("progressive.jpg", Decoder::Exact),
        ("large.png", Decoder::Exact),
        ("lossy.webp", Decoder::Exact),
    ] {
        let options = Preprocessing { decoder, ..Preset::Clip.into() };
        let clip = Preprocessor::new(options, &signature).expect("options that fit").expect("a preset");
        let file = fs::read(folder.join(name)).expect("a file of the tests");
        let (mut scratch, mut out) = (Scratch::default(), vec![0.0; clip.values()]);
        criterion.bench_function(&format!("{name} {decoder:?}"), |bencher| {
            bencher.iter(|| clip.decode_into(black_box(&file), &mut scratch, &mut out).expect("an image"));
        });
    }
}

criterion_group!(benches, images);
criterion_main!(benches);
