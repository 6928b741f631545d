//! What executes a batch. A device is owned by one thread and knows nothing of requests.

pub mod engine_cache;
pub mod fitted;
mod input;
mod mapped;
pub mod onnx;
pub mod open;
pub mod probe;
pub mod timer;

use std::time::Duration;

pub use self::input::{BatchInput, Values, aligned, is_aligned};
use crate::{model::Signature, tensor::Tensor};

/// What an execution gave, and how long its parts took.
#[derive(Debug)]
pub struct Executed {
    /// One tensor for each of the model's outputs, in the model's order.
    pub outputs: Vec<Tensor>,
    /// Handing the inputs over.
    pub input: Duration,
    /// Executing.
    pub infer: Duration,
    /// Taking the outputs.
    pub output: Duration,
}

/// Why an execution failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// Executes batches of one model.
pub trait Device: Send {
    /// The tensors it takes and gives.
    fn signature(&self) -> &Signature;

    /// The execution provider that really runs, as the info metric names it.
    fn provider(&self) -> &'static str;

    /// Whether each size of a batch has kernels of its own, which are chosen or built when it first runs.
    fn has_kernels_by_size(&self) -> bool {
        true
    }

    /// Executes one batch. The inputs are in the model's order.
    ///
    /// # Errors
    /// When the execution fails; the device stays usable.
    fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError>;
}
