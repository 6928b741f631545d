//! The one way in: every protocol calls [`Engine::infer`] and nothing else.
//!
//! ```text
//! infer -> admit -> decode pool (images only) -> assembler -> worker -> answer
//! caller   board    OS threads                   OS thread    OS thread that owns the device
//! ```
//!
//! Admission bounds everything behind it: the board holds at most `maxQueueSize` waiting requests, of at most `maxBatchSize`
//! rows each, and the channels between the stages have room for twice as many, because an abandoned request leaves the board
//! before the pipeline meets it.

mod assembler;
pub mod batch;
mod decode;
mod pipeline;
pub mod request;
mod vitals;
mod waiting;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender, bounded};
use tokio::sync::oneshot;

use self::{
    assembler::Assembler,
    batch::Policy,
    decode::DecodePool,
    pipeline::{Batch, Content, Entry},
    request::{NamedTensor, Payload, Work},
    vitals::Vitals,
    waiting::Board,
    worker::Worker,
};
use crate::{
    device::Device,
    image::Preprocessor,
    metrics::{Failed, Metrics, Rejected},
    model::Signature,
};

/// How long a request may wait when neither its client nor the model's configuration says.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
/// How long an execution may take before its callers stop waiting for it, and liveness takes the device for hung.
const EXECUTION_TIMEOUT: Duration = Duration::from_mins(2);

/// What a request hears that finds the queue full.
const QUEUE_FULL: InferError = InferError::QueueFull { retry_after: Duration::from_secs(1) };

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
    /// The queue has its most requests.
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
}

/// One model on one or more devices.
pub struct Engine {
    config: EngineConfig,
    signature: Arc<Signature>,
    board: Arc<Board>,
    entries: Sender<Entry>,
    decoders: Option<DecodePool>,
    metrics: Arc<Metrics>,
    vitals: Arc<Vitals>,
    draining: AtomicBool,
}

impl Engine {
    /// Starts the threads; every device is one instance of the same model.
    ///
    /// # Errors
    /// When the system gives no thread, or there is no device.
    pub fn start(
        devices: Vec<Box<dyn Device>>,
        mut config: EngineConfig,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let first = devices.first().ok_or_else(|| std::io::Error::other("an engine needs a device"))?;
        let signature = Arc::new(first.signature().clone());
        if !signature.is_batched() {
            config.policy.max_rows = 1;
        }
        let board = Arc::new(Board::new(config.max_queue_size));
        let capacity = 2 * config.max_queue_size;
        let (entries, ready) = bounded(capacity);
        let (batches, to_run) = bounded::<Batch>(devices.len());
        let (finished, idle) = bounded(2 * devices.len());
        let vitals = Arc::new(Vitals::new(devices.len()));
        let preprocessor = match &config.images {
            Images::Decoded(preprocessor) => Some(Arc::clone(preprocessor)),
            Images::Refused | Images::Ignored => None,
        };
        let decoders = preprocessor
            .as_ref()
            .map(|how| DecodePool::start(config.decode_threads, capacity, how, &entries, &metrics, &vitals))
            .transpose()?;
        Assembler {
            policy: config.policy,
            signature: Arc::clone(&signature),
            preprocessor,
            entries: ready,
            finished: idle,
            batches,
            devices: devices.len(),
            vitals: Arc::clone(&vitals),
        }
        .start()?;
        for (instance, device) in devices.into_iter().enumerate() {
            Worker {
                instance,
                device,
                signature: Arc::clone(&signature),
                board: Arc::clone(&board),
                metrics: Arc::clone(&metrics),
                batches: to_run.clone(),
                finished: finished.clone(),
                vitals: Arc::clone(&vitals),
            }
            .start()?;
        }
        let draining = AtomicBool::new(false);
        Ok(Self { config, signature, board, entries, decoders, metrics, vitals, draining })
    }

    /// Answers one request. Dropping the future abandons it.
    ///
    /// # Errors
    /// When the request is wrong, can't be admitted, waits too long or fails in the device.
    pub async fn infer(&self, call: Call) -> Result<Answer, InferError> {
        let Call { payload, arrived, timeout, .. } = call;
        let timeout = timeout.unwrap_or(self.config.default_timeout).min(DEFAULT_TIMEOUT);
        let image_input = if matches!(self.config.images, Images::Refused) { None } else { Some(0) };
        let (work, rows) =
            request::arrange(payload, &self.config.model, &self.signature, image_input, self.config.policy.max_rows)
                .map_err(InferError::Invalid)?;
        let Some(ticket) = self.board.admit(rows, arrived, self.config.decode_threads) else {
            self.metrics.reject(Rejected::QueueFull, rows);
            return Err(QUEUE_FULL);
        };
        // Counts the caller that goes away: nothing after the answer is awaited, so only an unfinished wait is dropped.
        let mut departure = Departure { metrics: &self.metrics, ticket: Some(&ticket) };
        let (reply, answer) = oneshot::channel();
        let accepted = match (work, &self.decoders) {
            (Work::Images(files), Some(pool)) => pool.submit(ticket.clock(), files, reply).is_ok(),
            (work, _) => {
                let content = match work {
                    Work::Tensors(tensors) => Content::Tensors(tensors),
                    Work::Images(_) => Content::Blank,
                };
                let entry = Entry { clock: ticket.clock(), reply, rows, content, ready: Instant::now() };
                self.entries.try_send(entry).is_ok()
            }
        };
        let result = if accepted {
            self.wait(&ticket, answer, arrived + timeout).await
        } else if self.is_alive() {
            Err(QUEUE_FULL)
        } else {
            Err(InferError::Stopped)
        };
        departure.ticket = None;
        match &result {
            Err(InferError::QueueFull { .. }) => self.metrics.reject(Rejected::QueueFull, rows),
            Err(InferError::Timeout) => {
                self.metrics.reject(Rejected::Timeout, rows);
                self.metrics.fail(Failed::Rejected);
            }
            Err(InferError::Invalid(_) | InferError::TooLarge(_) | InferError::Stopped) => {
                self.metrics.fail(Failed::Other);
            }
            Ok(_) | Err(InferError::Draining | InferError::Backend(_)) => {}
        }
        result
    }

    async fn wait(
        &self,
        ticket: &waiting::Ticket,
        mut answer: oneshot::Receiver<Result<Answer, InferError>>,
        deadline: Instant,
    ) -> Result<Answer, InferError> {
        tokio::select! {
            result = &mut answer => return result.unwrap_or(Err(InferError::Stopped)),
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
        if ticket.leave() {
            return Err(InferError::Timeout);
        }
        match tokio::time::timeout(EXECUTION_TIMEOUT, answer).await {
            Ok(result) => result.unwrap_or(Err(InferError::Stopped)),
            Err(_) => Err(InferError::Backend("the execution takes too long".to_owned())),
        }
    }

    /// Whether a new request may begin; asked when its headers are read, so that what has begun to arrive is still served.
    ///
    /// # Errors
    /// When the server is about to stop.
    pub fn begin(&self) -> Result<(), InferError> {
        if self.draining.load(Ordering::Acquire) {
            // How many images it would have brought is not known before its body is read.
            self.metrics.reject(Rejected::Draining, 1);
            return Err(InferError::Draining);
        }
        Ok(())
    }

    /// From now on no request begins.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the threads are there and the device does not hang.
    pub fn is_alive(&self) -> bool {
        self.vitals.is_alive(EXECUTION_TIMEOUT)
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What the engine was told.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The metrics, with their gauges brought up to date.
    pub fn metrics(&self) -> &Metrics {
        let waiting = self.board.snapshot(Instant::now());
        self.metrics.pending_requests.set(i64::try_from(waiting.requests).unwrap_or(i64::MAX));
        self.metrics.pending_images.set(i64::try_from(waiting.images).unwrap_or(i64::MAX));
        // The batching delay is no sign of load; it is left out here as in the histogram.
        self.metrics.queue_oldest.set(waiting.oldest.saturating_sub(self.config.policy.max_delay).as_secs_f64());
        &self.metrics
    }
}

/// Counts a caller that goes away before its request has started.
struct Departure<'a> {
    metrics: &'a Metrics,
    ticket: Option<&'a waiting::Ticket>,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some_and(waiting::Ticket::leave) {
            self.metrics.fail(Failed::Canceled);
        }
    }
}

#[cfg(test)]
mod tests;
