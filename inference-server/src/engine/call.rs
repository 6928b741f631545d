//! What protocols hand to the engine, what they get back, and what the engine is told at its start.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    batch::Policy,
    request::{NamedTensor, Payload},
};
use crate::image::Preprocessor;

/// How long a request may wait when neither its client nor the model's configuration says.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest wait that a client may ask for.
pub const MAX_TIMEOUT: Duration = Duration::from_hours(24);

/// What images in a request are for this model.
#[derive(Debug, Clone)]
pub enum Images {
    /// An error: the model takes tensors only.
    Refused,
    /// Pixels for the model's first and only input.
    Decoded(Arc<Preprocessor>),
    /// Counted and not looked at, by a device that only takes time.
    Ignored,
}

/// What the engine is told.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The model's name, for messages.
    pub model: String,
    /// The limits of a batch.
    pub policy: Policy,
    /// The most requests that may wait.
    pub max_queue_size: usize,
    /// What images are.
    pub images: Images,
    /// Threads that decode.
    pub decode_threads: usize,
    /// The batch sizes that the device takes; smaller batches are padded up. Empty: it takes any.
    pub buckets: Vec<usize>,
    /// The most rows in one request.
    pub max_request_rows: usize,
    /// How many priorities there are.
    pub priority_levels: u64,
    /// The priority of a request that asks for none.
    pub default_priority: u64,
    /// How long a request may wait when its client does not say.
    pub default_timeout: Duration,
}

/// One request.
#[derive(Debug)]
pub struct Call {
    /// What the client sent.
    pub payload: Payload,
    /// When the last byte was read.
    pub arrived: Instant,
    /// How long it may wait, by the client's wish; none for the model's default.
    pub timeout: Option<Duration>,
    /// 1 is the highest; 0 is the model's default.
    pub priority: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The request can't be meant for this model.
    #[error("{0}")]
    Invalid(String),
    /// An image is larger than the server decodes.
    #[error("{0}")]
    TooLarge(String),
    /// The queue has its most requests, or its wait is longer than this one's timeout.
    #[error("Exceeds maximum queue size")]
    QueueFull {
        /// When another attempt has a chance.
        retry_after: Duration,
    },
    /// The request waited longer than its timeout.
    #[error("Request timeout expired")]
    Timeout,
    /// The server is about to stop.
    #[error("the server is shutting down")]
    Draining,
    /// The device failed.
    #[error("{0}")]
    Backend(String),
    /// The device is gone.
    #[error("the device has stopped; the server must be restarted")]
    Stopped,
}

/// What the model gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The model's outputs in its order.
    pub outputs: Vec<NamedTensor>,
    /// The rows of the batch that the request was in.
    pub batch_rows: usize,
    /// Where the time went.
    pub timing: Timing,
}

/// The phases of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Decoding its images.
    pub decode: Duration,
    /// Waiting for the device after it was able to run.
    pub queue: Duration,
    /// Handing its batch's inputs over.
    pub compute_input: Duration,
    /// Executing its batch.
    pub compute: Duration,
    /// Taking its batch's outputs.
    pub compute_output: Duration,
    /// When its first execution began and its last one ended.
    pub executed: Option<[Instant; 2]>,
}
