//! Everything the server measures, and the page that shows it.
//!
//! `nv_inference_*` means exactly what Triton means by it, so that dashboards and autoscalers made for Triton stay right;
//! what Triton does not measure has names of our own. All series carry `model` and `version`.

pub mod host;
mod summary;

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    Counter, CounterVec, Encoder, Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec,
    IntGauge, Opts, Registry, TextEncoder, core::Collector, proto::MetricFamily,
};

use self::summary::Summary;
use crate::repository::LoadReport;

/// From one millisecond to ten seconds in doublings: the queue target is tens of milliseconds, an overload seconds.
const WAIT_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24];
/// A small photo decodes in a millisecond, twelve megapixels in two hundred.
const DECODE_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
/// Batches are filled by doubling.
const BATCH_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The handles, resolved once.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is the metric whose help text says what it is")]
pub struct Metrics {
    registrar: Registrar,
    pub request_success: IntCounter,
    request_failure: IntCounterVec,
    pub inference_count: IntCounter,
    pub exec_count: IntCounter,
    pub request_duration_us: IntCounter,
    pub queue_duration_us: IntCounter,
    pub compute_input_duration_us: IntCounter,
    pub compute_infer_duration_us: IntCounter,
    pub compute_output_duration_us: IntCounter,
    pub pending_requests: IntGauge,
    pub queue_duration: Histogram,
    request_duration: Histogram,
    pub queue_oldest: Gauge,
    pub pending_images: IntGauge,
    requests_rejected: IntCounterVec,
    images_rejected: IntCounter,
    pub batch_size: Histogram,
    pub decode_duration: Histogram,
    pub device_busy: Counter,
    device_batches: IntCounterVec,
    device_batch_seconds: CounterVec,
    batches: Mutex<BTreeMap<usize, Executions>>,
    summaries: Option<[Summary; 5]>,
    last_inference: AtomicU64,
}

/// Why a request was turned away without an answer from the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The queue has its most requests, or the bodies in memory their most bytes.
    QueueFull,
    /// It waited longer than its timeout.
    Timeout,
    /// The server is about to stop.
    Draining,
}

/// Triton's reasons for a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// It waited longer than its timeout.
    Rejected,
    /// Its caller went away.
    Canceled,
    /// The device failed.
    Backend,
    /// Anything else, such as an image that can't be decoded.
    Other,
}

/// The executions of one batch size, for the statistics extension.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchTimes {
    /// How many.
    pub count: u64,
    /// Their time for inputs.
    pub input: Duration,
    /// Their time in the device.
    pub infer: Duration,
    /// Their time for outputs.
    pub output: Duration,
}

/// The executions of one batch size and its series, found once: to find them takes longer than to count.
#[derive(Debug)]
struct Executions {
    times: BatchTimes,
    count: IntCounter,
    seconds: Counter,
}

impl Metrics {
    /// All metrics of one model.
    ///
    /// # Errors
    /// When two metrics have one name, which a test rules out.
    pub fn new(model: &str, version: &str) -> Result<Self, Error> {
        Self::with_tags(model, version, &BTreeMap::new())
    }

    /// All metrics of one model with labels of its own, which get an underscore before their name as Triton gives them.
    ///
    /// # Errors
    /// When a label's name can't be one.
    #[expect(clippy::too_many_lines, reason = "a list of metrics with their help texts, without a branch")]
    pub fn with_tags(model: &str, version: &str, tags: &BTreeMap<String, String>) -> Result<Self, Error> {
        let labels: HashMap<String, String> = tags
            .iter()
            .map(|(name, value)| (format!("_{name}"), value.clone()))
            .chain([("model".to_owned(), model.to_owned()), ("version".to_owned(), version.to_owned())])
            .collect();
        let registrar = Registrar { registry: Registry::new(), labels };
        let r = &registrar;
        let metrics = Self {
            request_success: counter(r, "nv_inference_request_success", "Number of successful inference requests")?,
            request_failure: counters(
                r,
                "nv_inference_request_failure",
                "Number of failed inference requests, by reason",
                "reason",
            )?,
            inference_count: counter(
                r,
                "nv_inference_count",
                "Number of inferences performed (a batch of n counts n)",
            )?,
            exec_count: counter(r, "nv_inference_exec_count", "Number of model executions")?,
            request_duration_us: counter(
                r,
                "nv_inference_request_duration_us",
                "Cumulative duration of successful requests, from the body's last byte to the answer",
            )?,
            queue_duration_us: counter(
                r,
                "nv_inference_queue_duration_us",
                "Cumulative time of successful requests between the batch queue and the execution",
            )?,
            compute_input_duration_us: counter(
                r,
                "nv_inference_compute_input_duration_us",
                "Cumulative time of handing inputs to the device, the whole batch's for each request",
            )?,
            compute_infer_duration_us: counter(
                r,
                "nv_inference_compute_infer_duration_us",
                "Cumulative time of executing, the whole batch's for each request",
            )?,
            compute_output_duration_us: counter(
                r,
                "nv_inference_compute_output_duration_us",
                "Cumulative time of taking outputs from the device, the whole batch's for each request",
            )?,
            pending_requests: int_gauge(
                r,
                "nv_inference_pending_request_count",
                "Requests admitted and not yet executing",
            )?,
            queue_duration: histogram(
                r,
                "flotilla_queue_duration_seconds",
                "Time from a request's last byte to its execution, less its own decoding and the batching delay",
                &WAIT_BUCKETS,
            )?,
            request_duration: histogram(
                r,
                "flotilla_request_duration_seconds",
                "Time of successful requests from the body's last byte to the model's answer",
                &WAIT_BUCKETS,
            )?,
            queue_oldest: gauge(
                r,
                "flotilla_queue_oldest_seconds",
                "Age of the oldest waiting request by the clock of the queue histogram, 0 when none waits",
            )?,
            pending_images: int_gauge(
                r,
                "flotilla_pending_images",
                "Images admitted and not yet executing, in the decode queue or in the batch queue",
            )?,
            requests_rejected: counters(
                r,
                "flotilla_requests_rejected_total",
                "Requests turned away, by reason",
                "reason",
            )?,
            images_rejected: counter(r, "flotilla_images_rejected_total", "Images in requests turned away")?,
            batch_size: histogram(r, "flotilla_batch_size", "Images in an execution", &BATCH_BUCKETS)?,
            decode_duration: histogram(
                r,
                "flotilla_decode_duration_seconds",
                "Time of decoding and resizing one image",
                &DECODE_BUCKETS,
            )?,
            device_busy: r.add(Counter::with_opts(
                r.opts("flotilla_device_busy_seconds_total", "Time the device was executing"),
            ))?,
            device_batches: counters(
                r,
                "flotilla_device_batches_total",
                "Executions, by the number of images in them",
                "batch_size",
            )?,
            device_batch_seconds: r.add(CounterVec::new(
                r.opts(
                    "flotilla_device_batch_seconds_total",
                    "Time the device was executing, by the number of images in the execution",
                ),
                &["batch_size"],
            ))?,
            batches: Mutex::default(),
            summaries: None,
            last_inference: AtomicU64::new(0),
            registrar,
        };
        for reason in [Failed::Rejected, Failed::Canceled, Failed::Backend, Failed::Other] {
            metrics.request_failure.with_label_values(&[reason.label()]);
        }
        for reason in [Rejected::QueueFull, Rejected::Timeout, Rejected::Draining] {
            metrics.requests_rejected.with_label_values(&[reason.label()]);
        }
        Ok(metrics)
    }

    /// Adds the metric that tells what is running; called once, when the model is ready.
    ///
    /// # Errors
    /// When it was called before.
    pub fn set_info(&self, provider: &str, model_sha256: &str) -> Result<(), Error> {
        let registrar = &self.registrar;
        let opts = registrar
            .opts("flotilla_server_info", "What is running; always 1")
            .const_label("provider", provider)
            .const_label("model_sha256", model_sha256)
            .const_label("server_version", env!("CARGO_PKG_VERSION"));
        registrar.add(IntGauge::with_opts(opts)).map(|info| info.set(1))
    }

    /// Adds the metrics that tell how long the model took to become ready; called once.
    ///
    /// # Errors
    /// When it was called before.
    pub fn set_load(&self, report: &LoadReport) -> Result<(), Error> {
        let registrar = &self.registrar;
        gauge(registrar, "nv_model_load_duration_secs", "Model load time in seconds")?
            .set(report.total().as_secs_f64());
        let opts = registrar.opts("flotilla_model_load_seconds", "Parts of the model's load time");
        let phases = registrar.add(GaugeVec::new(opts, &["phase"]))?;
        for (phase, time) in report.phases() {
            phases.with_label_values(&[phase]).set(time.as_secs_f64());
        }
        Ok(())
    }

    /// Adds Triton's quantiles of the last minute; called once, before the first request.
    ///
    /// # Errors
    /// When it was called before.
    pub fn add_summaries(&mut self) -> Result<(), Error> {
        let add = |part: &str, help: &str| {
            let opts = self.registrar.opts(&format!("nv_inference_{part}_summary_us"), help);
            self.registrar.add(Summary::new(&opts))
        };
        self.summaries = Some([
            add("request", "Summary of inference request duration in microseconds")?,
            add("queue", "Summary of inference queuing duration in microseconds")?,
            add("compute_input", "Summary of compute input duration in microseconds")?,
            add("compute_infer", "Summary of compute inference duration in microseconds")?,
            add("compute_output", "Summary of inference compute output duration in microseconds")?,
        ]);
        Ok(())
    }

    /// Counts an answered request: its time in all, in the queue, and its batch's for inputs, execution and outputs.
    pub fn succeeded(&self, request: Duration, queue: Duration, batch: BatchTimes) {
        let times = [request, queue, batch.input, batch.infer, batch.output].map(micros);
        self.request_success.inc();
        self.request_duration.observe(request.as_secs_f64());
        let counters = [
            &self.request_duration_us,
            &self.queue_duration_us,
            &self.compute_input_duration_us,
            &self.compute_infer_duration_us,
            &self.compute_output_duration_us,
        ];
        for (counter, time) in counters.into_iter().zip(times) {
            counter.inc_by(time);
        }
        for (summary, time) in self.summaries.iter().flatten().zip(times) {
            summary.observe(time);
        }
    }

    /// Counts a request turned away.
    pub fn reject(&self, reason: Rejected, images: usize) {
        self.requests_rejected.with_label_values(&[reason.label()]).inc();
        self.images_rejected.inc_by(images as u64);
    }

    /// Counts a failed request.
    pub fn fail(&self, reason: Failed) {
        self.request_failure.with_label_values(&[reason.label()]).inc();
    }

    /// How many requests failed so far.
    pub fn failures(&self) -> u64 {
        [Failed::Rejected, Failed::Canceled, Failed::Backend, Failed::Other]
            .iter()
            .map(|reason| self.request_failure.with_label_values(&[reason.label()]).get())
            .sum()
    }

    /// Counts one execution.
    pub fn executed(&self, rows: usize, times: BatchTimes) {
        let seconds = times.infer.as_secs_f64();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_inference.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.exec_count.inc();
        self.inference_count.inc_by(rows as u64);
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most 1024 rows")]
        self.batch_size.observe(rows as f64);
        self.device_busy.inc_by(seconds);
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let executions = batches.entry(rows).or_insert_with(|| Executions {
            times: BatchTimes::default(),
            count: self.device_batches.with_label_values(&[&rows.to_string()]),
            seconds: self.device_batch_seconds.with_label_values(&[&rows.to_string()]),
        });
        executions.count.inc_by(times.count);
        executions.seconds.inc_by(seconds);
        let sum = &mut executions.times;
        sum.count += times.count;
        sum.input += times.input;
        sum.infer += times.infer;
        sum.output += times.output;
    }

    /// When the last execution ended, in milliseconds since the Unix epoch; 0 before the first.
    pub fn last_inference_milliseconds(&self) -> u64 {
        self.last_inference.load(Ordering::Relaxed)
    }

    /// The executions so far by batch size.
    pub fn batches(&self) -> BTreeMap<usize, BatchTimes> {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.iter().map(|(rows, executions)| (*rows, executions.times)).collect()
    }
}

/// The page of several models in the text format, version 0.0.4: a family's name once, the models' lines below it.
pub fn render<'a>(models: impl IntoIterator<Item = &'a Metrics>) -> String {
    let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for mut family in models.into_iter().flat_map(|metrics| metrics.registrar.registry.gather()) {
        match families.entry(family.name().to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(family);
            }
            Entry::Occupied(mut entry) => entry.get_mut().mut_metric().extend(family.take_metric()),
        }
    }
    let families: Vec<MetricFamily> = families.into_values().collect();
    let mut page = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&families, &mut page) {
        tracing::error!(%error, "the metrics can't be written");
    }
    String::from_utf8(page).unwrap_or_default()
}

/// The part of the page that needs no model: when the process started.
pub fn process_page(started: SystemTime) -> String {
    let seconds = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    format!(
        "# HELP process_start_time_seconds Start time of the process since the Unix epoch in seconds.\n\
         # TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {seconds:.3}\n"
    )
}

impl Rejected {
    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Timeout => "timeout",
            Self::Draining => "draining",
        }
    }
}

impl Failed {
    fn label(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Canceled => "CANCELED",
            Self::Backend => "BACKEND",
            Self::Other => "OTHER",
        }
    }
}

/// A duration as Triton counts it.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Makes metrics that carry the model's labels. They are part of each metric and not of the registry, which would put them in
/// an order that changes from start to start.
#[derive(Debug)]
struct Registrar {
    registry: Registry,
    labels: HashMap<String, String>,
}

impl Registrar {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_labels(self.labels.clone())
    }

    fn add<M: Collector + Clone + 'static>(&self, metric: Result<M, Error>) -> Result<M, Error> {
        let metric = metric?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn counter(r: &Registrar, name: &str, help: &str) -> Result<IntCounter, Error> {
    r.add(IntCounter::with_opts(r.opts(name, help)))
}

fn counters(r: &Registrar, name: &str, help: &str, label: &str) -> Result<IntCounterVec, Error> {
    r.add(IntCounterVec::new(r.opts(name, help), &[label]))
}

fn gauge(r: &Registrar, name: &str, help: &str) -> Result<Gauge, Error> {
    r.add(Gauge::with_opts(r.opts(name, help)))
}

fn int_gauge(r: &Registrar, name: &str, help: &str) -> Result<IntGauge, Error> {
    r.add(IntGauge::with_opts(r.opts(name, help)))
}

fn histogram(r: &Registrar, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
    let opts = HistogramOpts { common_opts: r.opts(name, help), buckets: buckets.to_vec() };
    r.add(Histogram::with_opts(opts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_triton_s_lines_before_the_first_request() {
        let metrics = Metrics::new("clip", "1").unwrap();
        metrics.set_info("Cpu", "abc").unwrap();
        let page = render([&metrics]);
        for line in [
            r#"nv_inference_request_success{model="clip",version="1"} 0"#,
            r#"nv_inference_request_failure{model="clip",reason="REJECTED",version="1"} 0"#,
            r#"nv_inference_pending_request_count{model="clip",version="1"} 0"#,
            r#"flotilla_requests_rejected_total{model="clip",reason="queue_full",version="1"} 0"#,
            r#"flotilla_queue_duration_seconds_bucket{model="clip",version="1",le="10.24"} 0"#,
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        assert!(page.contains(r#"flotilla_server_info{model="clip",model_sha256="abc",provider="Cpu""#));
    }

    #[test]
    fn an_execution_is_counted_once_and_by_its_size() {
        let metrics = Metrics::new("clip", "1").unwrap();
        let times = BatchTimes { count: 1, infer: Duration::from_millis(500), ..BatchTimes::default() };
        metrics.executed(4, times);
        metrics.executed(4, times);
        let page = render([&metrics]);
        assert!(page.contains(r#"nv_inference_count{model="clip",version="1"} 8"#));
        assert!(page.contains(r#"nv_inference_exec_count{model="clip",version="1"} 2"#));
        assert!(page.contains(r#"flotilla_device_batches_total{batch_size="4",model="clip",version="1"} 2"#));
        assert!(page.contains(r#"flotilla_device_batch_seconds_total{batch_size="4",model="clip",version="1"} 1"#));
        assert_eq!(metrics.batches()[&4].count, 2);
    }
    #[test]
    fn summaries_are_there_for_those_who_ask() {
        let mut metrics = Metrics::new("clip", "1").unwrap();
        assert!(!render([&metrics]).contains("_summary_us"));
        metrics.add_summaries().unwrap();
        let batch = BatchTimes { infer: Duration::from_micros(70), ..BatchTimes::default() };
        metrics.succeeded(Duration::from_micros(100), Duration::from_micros(20), batch);
        let page = render([&metrics]);
        for line in [
            "# TYPE nv_inference_request_summary_us summary",
            r#"nv_inference_request_summary_us{model="clip",version="1",quantile="0.999"} 100"#,
            r#"nv_inference_queue_summary_us_sum{model="clip",version="1"} 20"#,
            r#"nv_inference_compute_infer_summary_us_count{model="clip",version="1"} 1"#,
            r#"nv_inference_compute_infer_duration_us{model="clip",version="1"} 70"#,
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_page_of_two_models_names_each_family_once() {
        let models = ["a", "b"].map(|model| Metrics::new(model, "1").unwrap());
        let page = render(&models);
        for line in [r#"nv_inference_count{model="a",version="1"} 0"#, r#"nv_inference_count{model="b",version="1"} 0"#]
        {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        assert_eq!(page.matches("# TYPE nv_inference_count counter").count(), 1);
    }
}
