//! Any file, decoded and resized: JPEG by our own decoder, PNG and WebP by those of others.
#![no_main]

use std::cell::RefCell;

use flotilla_server::{
    image::{Preprocessor, Scratch, options::Preprocessing},
    model::{Signature, TensorSpec},
    tensor::DataType,
};
use libfuzzer_sys::fuzz_target;

const SIDE: usize = 32;

struct Decoders {
    decoders: Vec<Preprocessor>,
    scratch: Scratch,
    out: Vec<f32>,
}

/// Whole and scaled decoding, with and without turning, within small limits, so that an execution is quick.
fn decoders() -> Decoders {
    let spec = |name: &str, dims: Vec<Option<usize>>| TensorSpec { name: name.to_owned(), data_type: DataType::Fp32, dims };
    let signature = Signature {
        inputs: vec![spec("x", vec![None, Some(3), Some(SIDE), Some(SIDE)])],
        outputs: vec![spec("y", vec![None, Some(1)])],
        platform: "fuzz",
    };
    let options = [
        r#"{"preset":"Clip","maxPixels":262144}"#,
        r#"{"preset":"Clip","decoder":"Scaled","orientation":"Apply","fit":"Stretch","maxPixels":262144}"#,
    ];
    let decoders = options.map(|options| {
        let options: Preprocessing = serde_json::from_str(options).expect("options");
        Preprocessor::new(options, &signature).expect("a recipe").expect("a preset")
    });
    Decoders { decoders: decoders.into(), scratch: Scratch::default(), out: vec![0.0; 3 * SIDE * SIDE] }
}

thread_local! {
    static DECODERS: RefCell<Decoders> = RefCell::new(decoders());
}

fuzz_target!(|file: &[u8]| {
    DECODERS.with_borrow_mut(|Decoders { decoders, scratch, out }| {
        for decoder in decoders {
            if decoder.decode_into(file, scratch, out).is_ok() {
                assert!(out.iter().all(|value| value.is_finite()));
            }
        }
    });
});
