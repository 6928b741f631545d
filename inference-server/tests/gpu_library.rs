//! The library for GPUs, on a machine without one: `FLOTILLA_ORT_GPU_LIBRARY` names `libonnxruntime.so` of onnxruntime-gpu with
//! its providers beside it. Without the variable these tests say so and pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]

mod common;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use common::fixture;
use flotilla_server::{
    device::{
        onnx::{
            accelerators::{Accelerators, CUDA_KEYS, TENSOR_RT_NUMBERS, TENSOR_RT_TEXTS},
            plan::{EngineFolder, Plan, Registration},
            profile::Rows,
        },
        open::{Opening, open},
    },
    failure::Reason,
    model::TensorSpec,
    settings::ExecutionProvider,
    tensor::DataType,
};

fn library() -> Option<PathBuf> {
    let library = std::env::var_os("FLOTILLA_ORT_GPU_LIBRARY").map(PathBuf::from);
    if library.is_none() {
        eprintln!("FLOTILLA_ORT_GPU_LIBRARY is not set: the library for GPUs is not tested");
    }
    library
}

/// Only where no driver is: with one, the providers work, and other tests than these are due.
#[test]
fn without_a_driver_a_provider_is_refused_and_auto_says_why_it_took_the_processor() {
    let Some(library) = library() else { return };
    if PathBuf::from("/proc/driver/nvidia/version").exists() {
        return;
    }
    let (model, accelerators) = (fixture("tiny-image").join("1/model.onnx"), Accelerators::default());
    let opening = |provider| Opening {
        library: Some(&library),
        model: &model,
        model_sha256: "0",
        provider,
        instances: 1,
        max_rows: 4,
        buckets: &[],
        accelerators: &accelerators,
        cache: None,
    };
    for provider in [ExecutionProvider::Cuda, ExecutionProvider::TensorRt] {
        let failure = open(&opening(provider)).err().expect("there is no driver");
        assert_eq!(failure.reason, Reason::ProviderUnavailable, "{failure}");
        assert!(failure.message.contains("cannot open shared object file"), "{failure}");
        eprintln!("{failure}");
    }
    let opened = open(&opening(ExecutionProvider::Auto)).unwrap();
    assert_eq!(opened.devices[0].provider(), "Cpu");
    let reason = opened.choice.unwrap().reason;
    assert!(reason.contains("Cuda failed") && reason.contains("TensorRt left out"), "{reason}");
    eprintln!("{reason}");
}

/// The provider's own table of options has every key that we set or let through: the library refuses others at the start.
#[test]
fn the_providers_know_every_key() {
    let Some(library) = library() else { return };
    let input = TensorSpec { name: "x".to_owned(), data_type: DataType::Fp32, dims: vec![None, Some(3)] };
    let plan =
        Plan::tensor_rt(&Accelerators::default(), &[input], Rows::up_to(8), Some(EngineFolder("/cache"))).unwrap();
    let (mut tensor_rt, mut cuda): (BTreeSet<String>, BTreeSet<String>) = Default::default();
    for registration in plan.registrations {
        match registration {
            Registration::TensorRt(options) => tensor_rt.extend(options.into_keys()),
            Registration::Cuda(options) => cuda.extend(options.into_keys()),
        }
    }
    tensor_rt.extend(TENSOR_RT_NUMBERS.iter().chain(&TENSOR_RT_TEXTS).map(ToString::to_string));
    cuda.extend(CUDA_KEYS.map(str::to_owned));
    for (file, keys) in
        [("libonnxruntime_providers_tensorrt.so", tensor_rt), ("libonnxruntime_providers_cuda.so", cuda)]
    {
        assert_eq!(keys.difference(&found(&library.with_file_name(file), &keys)).count(), 0, "{file}");
    }
}

/// Which of the keys stand in the file as whole words.
fn found(file: &Path, keys: &BTreeSet<String>) -> BTreeSet<String> {
    let mut grep = Command::new("grep");
    grep.args(["-aowF"]);
    for key in keys {
        grep.args(["-e", key]);
    }
    let output = grep.arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}
