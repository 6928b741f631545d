//! The config.pbtxt that Triton gets for a model that brings none.
//!
//! Inputs and outputs are left out: Triton's onnxruntime backend reads them from the model. What needs their names and
//! shapes, a warm-up and TensorRT's profiles, can't be written from here: such a model brings its own config.pbtxt.

use super::text_format::TextFormat;
use crate::api::runtime::ExecutionProvider;
use crate::resources::digest;
use crate::resources::server_pod::CACHE_MOUNT;
use crate::service::ValidatedService;

/// Requests that wait in Triton at most; what comes beyond them is answered with 503.
const MAX_QUEUE_SIZE: u32 = 1024;

/// The file's text. Its digest is a part of the ConfigMap's name: a change here replaces the pods of every such service.
pub(super) fn text(service: &ValidatedService) -> String {
    let runtime = &service.runtime;
    let on_gpu = service.gpu.is_some() && runtime.execution_provider != ExecutionProvider::Cpu;
    let mut config = TextFormat::default();
    config.comment("Written by Flotilla; a config.pbtxt in the model's own folder takes its place.");
    config.string("name", &service.model.name);
    config.string("platform", "onnxruntime_onnx");
    config.string("backend", "onnxruntime");
    config.number("max_batch_size", runtime.max_batch_size);
    config.message("dynamic_batching", |batching| {
        batching.number("max_queue_delay_microseconds", runtime.max_queue_delay.as_micros());
        batching.message("default_queue_policy", |policy| policy.number("max_queue_size", MAX_QUEUE_SIZE));
    });
    config.message("instance_group", |group| {
        group.number("count", runtime.instances);
        group.name("kind", if on_gpu { "KIND_GPU" } else { "KIND_CPU" });
    });
    if on_gpu && runtime.execution_provider == ExecutionProvider::TensorRt {
        config.message("optimization", |optimization| {
            optimization.message("execution_accelerators", |accelerators| tensor_rt(accelerators, service));
        });
    }
    config.finish()
}

/// The accelerator with its parameters; the names are the onnxruntime backend's.
fn tensor_rt(accelerators: &mut TextFormat, service: &ValidatedService) {
    accelerators.message("gpu_execution_accelerator", |accelerator| {
        accelerator.string("name", "tensorrt");
        parameter(accelerator, "precision_mode", "FP16");
        if service.runtime.cache.is_some() {
            let folder = engine_folder(service);
            for (key, value) in [
                ("trt_engine_cache_enable", "true"),
                ("trt_engine_cache_path", &folder),
                ("trt_timing_cache_enable", "true"),
                ("trt_timing_cache_path", &folder),
            ] {
                parameter(accelerator, key, value);
            }
        }
    });
}

/// A folder of the cache for this image and this model's source: the names of the files that the backend writes tell neither
/// TensorRT's version nor the weights, and an engine of other weights would answer for them.
fn engine_folder(service: &ValidatedService) -> String {
    let model = &service.model;
    let of = format!("{}\n{:?}\n{}", service.runtime.image, model.source, model.path);
    format!("{CACHE_MOUNT}/triton-{}", &digest::of_text(&of)[..16])
}

fn parameter(accelerator: &mut TextFormat, key: &str, value: &str) {
    accelerator.message("parameters", |parameter| {
        parameter.string("key", key);
        parameter.string("value", value);
    });
}
