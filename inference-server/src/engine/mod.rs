//! The one way in: every protocol calls [`Engine::infer`] and nothing else.
//!
//! ```text
//! caller    infer: check, admit, copy into the batch ----------+                        answer
//! decoders         files in their order -> decode -> copy -----+--> batch --> device --+
//! clock            gives up whoever has waited too long                       (a thread each)
//! ```
//!
//! A device that takes less time than a change of threads runs on its caller's thread ([`shared`]); all else stays the same.
//!
//! Everything that waits is behind one lock ([`shared`], [`state`]); who is served next, when a batch runs and how long a wait
//! would be are decided by pure functions ([`order`], [`batch`], [`forecast`]). Admission bounds everything behind it.

mod answer;
pub mod batch;
mod call;
pub mod forecast;
mod forming;
mod hands;
mod layout;
pub mod order;
pub mod request;
mod shared;
mod sleepers;
mod state;
mod ticket;
mod worker;

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub use self::call::{Answer, Call, DEFAULT_TIMEOUT, EngineConfig, Images, InferError, MAX_TIMEOUT, Timing};
use self::{
    hands::Hand,
    layout::Layout,
    request::Work,
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

/// How long an execution may take before its callers stop waiting for it, and liveness takes the device for hung.
const EXECUTION_TIMEOUT: Duration = Duration::from_mins(2);

/// The lowest priority less one: a limit on how far a request may let others pass.
const MAX_LEVEL: u32 = 63;
/// Rows that may wait, for each request that may.
const QUEUE_ROWS: usize = 4;

/// One model on one or more devices.
pub struct Engine {
    config: EngineConfig,
    signature: Arc<Signature>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    decoders: usize,
    /// The only device, where there is but one: a caller may run a quick batch itself.
    only: Option<Arc<Worker>>,
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
        let workers = devices.into_iter().enumerate().map(|(instance, device)| {
            let (shared, metrics) = (Arc::clone(&shared), Arc::clone(&metrics));
            Arc::new(Worker { instance, device: Mutex::new(device), shared, metrics })
        });
        let workers: Vec<_> = workers.collect();
        let only = if let [only] = &*workers { Some(Arc::clone(only)) } else { None };
        // From here on an error closes what was started.
        let engine = Self { config, signature, shared, metrics, decoders, only, draining: AtomicBool::new(false) };
        for index in 0..decoders {
            let preprocessor = preprocessor.clone();
            Hand { shared: Arc::clone(&engine.shared), preprocessor, metrics: Arc::clone(&engine.metrics) }
                .start(index)?;
        }
        for worker in workers {
            worker.start()?;
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
            Ok((ticket, start)) => {
                if let (Some(start), Some(worker)) = (start, &self.only) {
                    worker.execute_lent(start);
                }
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
