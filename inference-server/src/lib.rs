//! A model server: one model, one device, KServe v2 over HTTP, batches that form while the device is busy.
//!
//! Modules in reading order, which is also the way of a request:
//!
//! - [`arguments`], [`settings`] and [`failure`]: what the server is told to do, and how it says that it can't.
//! - [`config`]: a model's own `config.pbtxt`.
//! - [`tensor`], [`model`]: the data that travels, and what a model wants and gives.
//! - [`wire`], [`protocol`]: the messages that `proto/` describes, and what both protocols say in them.
//! - [`http`], [`grpc`]: the protocols. They parse, call the engine and format.
//! - [`engine`]: the one way in. It admits or refuses, decodes images, forms batches, runs them and answers.
//! - [`image`]: from a file's bytes to the model's pixels, with Pillow's arithmetic.
//! - [`device`]: what executes a batch: ONNX Runtime, or a timer that only takes as long as one would.
//! - [`gpu`]: which GPUs there are, and how they do.
//! - [`repository`]: which models there are, and the life of each.
//! - [`metrics`], [`telemetry`], [`log`]: how the server is seen; [`outbox`] is how what it says leaves it.
//! - [`warm_up`], [`lifecycle`]: how it becomes ready, and how it starts, drains and stops.
//! - [`fetch`]: a program of its own that brings the model from an object store before the server starts.
//!
//! The server knows nothing of Kubernetes.

pub mod arguments;
pub mod config;
pub mod device;
pub mod engine;
pub mod failure;
pub mod fetch;
pub mod gpu;
pub mod grpc;
pub mod http;
pub mod image;
pub mod lifecycle;
pub mod log;
pub mod metrics;
pub mod model;
pub mod outbox;
pub mod protocol;
pub mod repository;
pub mod settings;
pub mod telemetry;
pub mod tensor;
pub mod warm_up;
pub mod wire;
