//! The one way in: every protocol calls [`Engine::infer`] and nothing else.
//!
//! ```text
//! caller    infer: check, admit, copy into the batch ----------+                        answer
//! decoders         files in their order -> decode -> copy -----+--> batch --> device --+
//! clock            gives up whoever has waited too long                       (a thread each)
//! ```
//!
//! Everything that waits is behind one lock ([`shared`], [`state`]); who is served next, when a batch runs and how long a wait
//! would be are decided by pure functions ([`order`], [`batch`], [`forecast`]). Admission bounds everything behind it.

mod answer;
pub mod batch;
pub mod forecast;
mod forming;
mod hands;
pub mod order;
pub mod request;
mod shared;
mod state;
mod ticket;
mod worker;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use self::{
    batch::Policy,
    forming::Layout,
    hands::Hand,
    request::{NamedTensor, Payload, Work},
    shared::{Draft, Limits, Pulse, Shared},
    ticket::{Content, Ticket},
    worker::Worker,
};
use crate::{
    device::Device,
    image::Preprocessor,
    metrics::{BatchTimes, Failed, Metrics, Rejected},
    model::Signature,
};

/// How long a request may wait when neither its client nor the model's configuration says.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
/// How long an execution may take before its callers stop waiting for it, and liveness takes the device for hung.
const EXECUTION_TIMEOUT: Duration = Duration::from_mins(2);

/// The longest wait that a client may ask for.
pub const MAX_TIMEOUT: Duration = Duration::from_hours(24);
/// The lowest priority less one: a limit on how far a request may let others pass.
const MAX_LEVEL: u32 = 63;
/// Rows that may wait, for each request that may.
const QUEUE_ROWS: usize = 4;

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
}

/// One model on one or more devices.
pub struct Engine {
    config: EngineConfig,
    signature: Arc<Signature>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    decoders: usize,
    draining: AtomicBool,
}

impl Engine {
    /// Starts the threads; every device is one instance of the same model.
    ///
    /// # Errors
    /// When the system gives no thread, or there is no device.
    pub fn start(devices: Vec<Box<dyn Device>>, config: EngineConfig, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        Self::start_within(devices, config, metrics, EXECUTION_TIMEOUT)
    }

    fn start_within(
        devices: Vec<Box<dyn Device>>,
        mut config: EngineConfig,
        metrics: Arc<Metrics>,
        execution: Duration,
    ) -> std::io::Result<Self> {
        let first = devices.first().ok_or_else(|| std::io::Error::other("an engine needs a device"))?;
        let signature = Arc::new(first.signature().clone());
        let preprocessor = match &config.images {
            Images::Decoded(preprocessor) => Some(Arc::clone(preprocessor)),
            Images::Refused | Images::Ignored => None,
        };
        // A model of tensors needs a thread that copies while the device runs.
        let decoders = if preprocessor.is_some() { config.decode_threads.max(1) } else { 1 };
        fit(&mut config, &signature);
        let layout = Layout {
            blank: blank(&signature, preprocessor.as_deref()),
            is_batched: signature.is_batched(),
            signature: Arc::clone(&signature),
            max_rows: config.policy.max_rows,
            buckets: config.buckets.clone(),
        };
        let limits = Limits {
            requests: config.max_queue_size,
            rows: config.max_queue_size.saturating_mul(QUEUE_ROWS),
            decoded: decoders,
            execution,
        };
        let shared = Arc::new(Shared::new(layout, config.policy, limits, devices.len(), decoders));
        // From here on an error closes what was started.
        let engine = Self { config, signature, shared, metrics, decoders, draining: AtomicBool::new(false) };
        for index in 0..decoders {
            let preprocessor = preprocessor.clone();
            Hand { shared: Arc::clone(&engine.shared), preprocessor, metrics: Arc::clone(&engine.metrics) }
                .start(index)?;
        }
        for (instance, device) in devices.into_iter().enumerate() {
            let (shared, metrics) = (Arc::clone(&engine.shared), Arc::clone(&engine.metrics));
            Worker { instance, device, shared, metrics }.start()?;
        }
        let shared = Arc::clone(&engine.shared);
        let keep_time = move || {
            let _pulse = Pulse(&shared);
            shared.keep_time();
        };
        thread::Builder::new().name("clock".to_owned()).spawn(keep_time)?;
        Ok(engine)
    }

    /// Answers one request. Dropping the future abandons it.
    ///
    /// # Errors
    /// When the request is wrong, can't be admitted, waits too long or fails in the device.
    pub async fn infer(&self, call: Call) -> Result<Answer, InferError> {
        let Call { payload, arrived, timeout, priority } = call;
        let image_input = if matches!(self.config.images, Images::Refused) { None } else { Some(0) };
        let max_rows = if self.signature.is_batched() { self.config.max_request_rows } else { 1 };
        let (work, rows) = request::arrange(payload, &self.config.model, &self.signature, image_input, max_rows)
            .map_err(InferError::Invalid)?;
        let content = match (work, &self.config.images) {
            (Work::Tensors(tensors), _) => Content::Tensors(tensors),
            (Work::Images(files), Images::Decoded(_)) => Content::Images(files),
            (Work::Images(_), Images::Ignored | Images::Refused) => Content::Blank,
        };
        let timeout = timeout.unwrap_or(self.config.default_timeout).min(MAX_TIMEOUT);
        let draft = Draft {
            content: (content, rows),
            arrived,
            deadline: arrived + timeout,
            level: self.level(priority),
            decoders: self.decoders,
        };
        let result = match self.shared.submit(draft) {
            Ok(ticket) => {
                let mut departure = Departure { engine: self, ticket: Some(&ticket) };
                let shares = poll_fn(|context| ticket.poll(context)).await;
                departure.ticket = None;
                shares.and_then(|shares| answer::answer(shares, &ticket, &self.signature))
            }
            Err(error) => Err(error),
        };
        self.count(&result, rows, arrived);
        result
    }

    /// As Triton has it: 0, or a priority beyond the lowest, is the default.
    fn level(&self, priority: u64) -> u32 {
        let is_known = (1..=self.config.priority_levels).contains(&priority);
        let priority = if is_known { priority } else { self.config.default_priority };
        u32::try_from(priority.saturating_sub(1)).unwrap_or(u32::MAX).min(MAX_LEVEL)
    }

    fn count(&self, result: &Result<Answer, InferError>, rows: usize, arrived: Instant) {
        match result {
            Ok(answer) => {
                let Timing { queue, compute_input, compute, compute_output, .. } = answer.timing;
                let batch = BatchTimes { count: 1, input: compute_input, infer: compute, output: compute_output };
                self.metrics.succeeded(arrived.elapsed(), queue, batch);
            }
            Err(InferError::QueueFull { .. }) => self.metrics.reject(Rejected::QueueFull, rows),
            Err(InferError::Timeout) => {
                self.metrics.reject(Rejected::Timeout, rows);
                self.metrics.fail(Failed::Rejected);
            }
            Err(InferError::Backend(_)) => self.metrics.fail(Failed::Backend),
            Err(InferError::Invalid(_) | InferError::TooLarge(_) | InferError::Stopped | InferError::Draining) => {
                self.metrics.fail(Failed::Other);
            }
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
        self.shared.is_alive()
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
        let waiting = self.shared.snapshot();
        self.metrics.pending_requests.set(i64::try_from(waiting.requests).unwrap_or(i64::MAX));
        self.metrics.pending_images.set(i64::try_from(waiting.rows).unwrap_or(i64::MAX));
        // The batching delay is no sign of load; it is left out here as in the histogram.
        self.metrics.queue_oldest.set(waiting.oldest.saturating_sub(self.config.policy.max_delay).as_secs_f64());
        &self.metrics
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Makes the limits agree with each other and with the model.
fn fit(config: &mut EngineConfig, signature: &Signature) {
    if !signature.is_batched() {
        config.policy.max_rows = 1;
        config.buckets.clear();
    }
    config.buckets.retain(|bucket| *bucket > 0);
    config.policy.max_rows = config.policy.max_rows.max(1);
    if let Some(largest) = config.buckets.iter().max() {
        config.policy.max_rows = config.policy.max_rows.min(*largest);
    }
    config.max_request_rows = config.max_request_rows.max(1);
}

/// The shape of one image for each input, or of a row that the device does not look at.
fn blank(signature: &Signature, preprocessor: Option<&Preprocessor>) -> Vec<Vec<usize>> {
    match preprocessor {
        Some(preprocessor) => vec![preprocessor.shape(1)],
        None => signature.inputs.iter().map(|spec| spec.dims.iter().map(|dim| dim.unwrap_or(1)).collect()).collect(),
    }
}

/// Counts a caller that goes away before its request has an answer.
struct Departure<'a> {
    engine: &'a Engine,
    ticket: Option<&'a Ticket>,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.engine.shared.leave(ticket);
            self.engine.metrics.fail(Failed::Canceled);
        }
    }
}

#[cfg(test)]
mod tests;
