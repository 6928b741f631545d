//! The device layer on the real ONNX Runtime. Without its library these tests say so; where it is required, they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]

mod common;

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use common::{fixture, library};
use flotilla_server::{
    device::{
        BatchInput, Device, Values,
        onnx::{Onnx, accelerators::Accelerators, library::Library, plan::Plan},
        open::{Opened, Opening, open},
        probe,
    },
    failure::Reason,
    settings::{Cache, ExecutionProvider},
    tensor::{Data, DataType},
    warm_up::{sizes, warm_up},
};

fn model(name: &str) -> PathBuf {
    fixture(name).join("1/model.onnx")
}

fn opening<'a>(library: &'a Path, model: &'a Path, accelerators: &'a Accelerators) -> Opening<'a> {
    Opening {
        library: Some(library),
        model,
        model_sha256: "0",
        provider: ExecutionProvider::Auto,
        instances: 1,
        max_rows: 4,
        buckets: &[],
        accelerators,
        cache: None,
    }
}

/// The outputs are the library's own memory: it must not be the input's, nor be used again for the next batch.
#[test]
fn an_output_stays_what_it_was() {
    let Some(library) = library() else { return };
    let library = Library::load(Some(&library)).unwrap();
    let mut device = Onnx::open(&library, &model("types"), &Plan::cpu(1)).unwrap();
    let mut inputs = probe::sample(device.signature(), 2);
    // Bytes that are a value of every type: 63 is 0.62 as FP32.
    fill(&mut inputs, 63);
    let first = device.run(&inputs).unwrap().outputs;
    let before = first.clone();
    fill(&mut inputs, 7);
    let second = device.run(&inputs).unwrap().outputs;
    drop(inputs);
    drop(device);
    let bytes = |tensor: &flotilla_server::tensor::Tensor| match &tensor.data {
        Data::Fixed(bytes) => bytes.to_vec(),
        Data::Strings(strings) => strings.concat(),
    };
    let copied: Vec<Vec<u8>> = before.iter().map(bytes).collect();
    assert_eq!(first.iter().map(bytes).collect::<Vec<_>>(), copied);
    assert_ne!(second.iter().map(bytes).collect::<Vec<_>>(), copied, "another input gives another output");
    let fp32 = first.iter().find(|tensor| tensor.data_type.name() == "FP32").unwrap();
    assert_eq!(bytes(fp32), [63; 4].repeat(fp32.shape.iter().product()));
}

/// Fills every input in place; a truth value has but two.
fn fill(inputs: &mut [BatchInput], byte: u8) {
    for input in inputs {
        let byte = if input.data_type == DataType::Bool { byte % 2 } else { byte };
        if let Values::Own(bytes) = &mut input.values {
            bytes.fill(byte);
        }
    }
}

#[test]
fn auto_says_why_it_took_the_processor_and_instances_are_alike() {
    let Some(library) = library() else { return };
    let (model, accelerators) = (model("tiny-image"), Accelerators::default());
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache { path: folder.path().join("cache"), is_persistent: true, max_mebibytes: 1 };
    let opening = Opening { instances: 2, cache: Some(&cache), ..opening(&library, &model, &accelerators) };
    let Opened { mut devices, choice } = open(&opening).unwrap();
    assert_eq!(choice.unwrap().reason, "the library has nothing but the CPU");
    assert_eq!(devices.len(), 2);
    assert!(devices.iter().all(|device| device.provider() == "Cpu"));
    let signature = devices[0].signature().clone();
    let warmed = warm_up(&mut devices, &sizes(4, &[], signature.is_batched(), true), &AtomicBool::new(false)).unwrap();
    assert_eq!(warmed.iter().map(|size| size.rows).collect::<Vec<_>>(), [4, 2, 1, 4, 2, 1]);
    let inputs = probe::sample(&signature, 3);
    let answers: Vec<_> = devices.iter_mut().map(|device| device.run(&inputs).unwrap().outputs).collect();
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn what_can_not_be_had_is_refused_by_name() {
    let Some(library) = library() else { return };
    let (model, accelerators) = (model("tiny-image"), Accelerators::default());
    for (provider, name) in [(ExecutionProvider::Cuda, "Cuda"), (ExecutionProvider::TensorRt, "TensorRt")] {
        let refused = open(&Opening { provider, ..opening(&library, &model, &accelerators) });
        let failure = refused.err().expect("there is no such provider in the library for processors");
        assert_eq!(failure.reason, Reason::ProviderUnavailable, "{failure}");
        assert!(failure.message.starts_with(&format!("the execution provider {name} can't be used")), "{failure}");
    }
    // A cache that can't be written would cost minutes at every start, in silence.
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = Cache { path: file.path().to_path_buf(), is_persistent: true, max_mebibytes: 1 };
    let refused = open(&Opening { cache: Some(&cache), ..opening(&library, &model, &accelerators) });
    let failure = refused.err().expect("a file is no folder");
    assert_eq!(failure.reason, Reason::SettingsInvalid, "{failure}");
    assert!(failure.message.contains("the cache at"), "{failure}");
}
