//! A page of text becomes a [`Snapshot`], or a typed error; never a zero that was not on the page.
//!
//! Pages come from servers that run a user's image, so they are not trusted: their size, lines and series are capped,
//! lines of families that nobody needs are dropped before the parser sees them, and a page with one bad line among
//! the needed ones is refused as a whole, since half of its counters would look like a drop in load.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use prometheus_parse::{Sample, Scrape, Value};

use super::snapshot::{BatchTotal, Failures, Histogram, ServerInfo, Snapshot};

/// Longest line.
pub const LINE_LIMIT: usize = 4 << 10;
/// Most series on a page, needed or not.
pub const SERIES_LIMIT: usize = 10_000;
/// Longest label value that is kept.
const LABEL_LIMIT: usize = 128;

/// The families that are read, and the type that each must have.
const FAMILIES: [(&str, &str); 19] = [
    ("nv_inference_request_success", "counter"),
    ("nv_inference_request_failure", "counter"),
    ("nv_inference_count", "counter"),
    ("nv_inference_exec_count", "counter"),
    ("nv_inference_queue_duration_us", "counter"),
    ("nv_inference_compute_input_duration_us", "counter"),
    ("nv_inference_compute_infer_duration_us", "counter"),
    ("nv_inference_compute_output_duration_us", "counter"),
    ("nv_inference_pending_request_count", "gauge"),
    ("nv_cache_num_hits_per_model", "counter"),
    (QUEUE, "histogram"),
    ("flotilla_queue_oldest_seconds", "gauge"),
    ("flotilla_pending_images", "gauge"),
    ("flotilla_images_rejected_total", "counter"),
    ("flotilla_device_busy_seconds_total", "counter"),
    ("flotilla_device_batches_total", "counter"),
    ("flotilla_device_batch_seconds_total", "counter"),
    ("flotilla_server_info", "gauge"),
    ("process_start_time_seconds", "gauge"),
];
const QUEUE: &str = "flotilla_queue_duration_seconds";

/// Why a page was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not text.
    #[error("the page is not UTF-8 text; is another server listening on the metrics port?")]
    NotText,
    /// Text, but not of metrics.
    #[error("the page has none of the expected metrics; is another server listening on the metrics port?")]
    NotMetrics,
    /// The page stops in the middle of a line.
    #[error("the page ends in the middle of a line")]
    Truncated,
    /// A line is too long.
    #[error("line {line} has {bytes} bytes, the limit is {LINE_LIMIT}")]
    LineTooLong {
        /// Which line.
        line: usize,
        /// How long it is.
        bytes: usize,
    },
    /// There are too many series.
    #[error("the page has more than {SERIES_LIMIT} series; remove labels with many values from the server's metrics")]
    TooManySeries,
    /// The page tells of several models, and none is the service's.
    #[error("the page has no model {wanted:?}, but {found}; spec.model.name has to be the name that the server knows")]
    OtherModels {
        /// The service's model.
        wanted: String,
        /// Some of the models that it does tell of.
        found: String,
    },
    /// A needed series is not there.
    #[error(
        "the page has no {name}; servers have to export Triton's counters of time and its gauge of pending requests"
    )]
    Missing {
        /// The series' name.
        name: &'static str,
    },
    /// A family has another type than its name says.
    #[error("{name} is of type {found:?}, expected {expected:?}")]
    WrongType {
        /// The family.
        name: &'static str,
        /// The type that it must have.
        expected: &'static str,
        /// The type that it has.
        found: String,
    },
    /// Lines of needed families can't be read.
    #[error("{lines} lines of needed metrics can't be read")]
    Malformed {
        /// How many.
        lines: usize,
    },
    /// A series is there twice.
    #[error("{name} has the same labels twice")]
    Duplicate {
        /// The series' name.
        name: String,
    },
    /// A value is none that the series can have.
    #[error("{name} is {value}, which is no count, time or size")]
    BadValue {
        /// The series' name.
        name: String,
        /// Its value.
        value: String,
    },
}

/// Reads a page of the server that serves `model`.
///
/// # Errors
/// Says what is wrong with the page; nothing of it is used then.
pub fn parse(page: &[u8], model: &str) -> Result<Snapshot, ParseError> {
    let page = std::str::from_utf8(page).map_err(|_| ParseError::NotText)?;
    let lines = needed_lines(page)?;
    let expected = lines.iter().filter(|line| !line.starts_with('#')).count();
    if expected == 0 {
        return Err(ParseError::NotMetrics);
    }
    if !page.ends_with('\n') {
        return Err(ParseError::Truncated);
    }
    let scrape = read(lines)?;
    let understood: usize = scrape.samples.iter().map(lines_of).sum();
    if understood != expected {
        return Err(ParseError::Malformed { lines: expected.abs_diff(understood) });
    }
    check(&scrape.samples)?;
    collect(&of_model(scrape.samples, model)?)
}

/// What the page says of one model, and what it says of no model. Where it tells of one model only, that one it is: a
/// service that is being renamed has servers of both names.
fn of_model(samples: Vec<Sample>, wanted: &str) -> Result<Vec<Sample>, ParseError> {
    let model = |sample: &Sample| sample.labels.get("model").map(str::to_owned);
    let found: BTreeSet<String> =
        samples.iter().filter(|sample| sample.metric == "nv_inference_count").filter_map(model).collect();
    let chosen = match found.first() {
        Some(only) if found.len() == 1 => only,
        Some(_) => found.get(wanted).ok_or_else(|| ParseError::OtherModels {
            wanted: wanted.to_owned(),
            found: found.iter().take(3).map(|name| name.chars().take(63).collect()).collect::<Vec<String>>().join(", "),
        })?,
        None => return Ok(samples),
    };
    Ok(samples.into_iter().filter(|sample| model(sample).is_none_or(|name| name == *chosen)).collect())
}

/// The parser's samples. Reading from memory can't fail, and the time of the scrape is the caller's, not the page's.
#[expect(clippy::default_trait_access, reason = "the type of the time is the parser's own and of no interest here")]
fn read(lines: Vec<&str>) -> Result<Scrape, ParseError> {
    let lines = lines.into_iter().map(|line| Ok(line.to_owned()));
    Scrape::parse_at(lines, Default::default()).map_err(|_| ParseError::NotText)
}

/// The lines that matter: samples and types of the needed families.
fn needed_lines(page: &str) -> Result<Vec<&str>, ParseError> {
    let mut lines = Vec::new();
    let mut series = 0;
    for (number, line) in (1..).zip(page.lines()) {
        if line.len() > LINE_LIMIT {
            return Err(ParseError::LineTooLong { line: number, bytes: line.len() });
        }
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            if words.next() == Some("TYPE")
                && let Some((name, expected)) = words.next().and_then(family)
            {
                let found = words.next().unwrap_or_default();
                if found != expected {
                    return Err(ParseError::WrongType { name, expected, found: found.chars().take(32).collect() });
                }
                lines.push(line);
            }
        } else if !line.trim().is_empty() {
            series += 1;
            if series > SERIES_LIMIT {
                return Err(ParseError::TooManySeries);
            }
            let name = line.split(|character: char| character == '{' || character.is_whitespace()).next();
            if name.is_some_and(|name| family(name).is_some() || histogram_part(name).is_some()) {
                lines.push(line);
            }
        }
    }
    Ok(lines)
}

fn family(name: &str) -> Option<(&'static str, &'static str)> {
    FAMILIES.into_iter().find(|(known, _)| *known == name)
}

/// `_bucket`, `_sum` or `_count` of the one histogram.
fn histogram_part(name: &str) -> Option<&str> {
    name.strip_prefix(QUEUE).filter(|part| matches!(*part, "_bucket" | "_sum" | "_count"))
}

fn lines_of(sample: &Sample) -> usize {
    if let Value::Histogram(buckets) = &sample.value { buckets.len() } else { 1 }
}

/// Every value finite and not negative, every series once, every histogram rising.
fn check(samples: &[Sample]) -> Result<(), ParseError> {
    let mut seen = HashSet::with_capacity(samples.len());
    for sample in samples {
        let name = || sample.metric.clone();
        let numbers: Vec<f64> = match &sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => vec![*value],
            Value::Histogram(buckets) => buckets.iter().map(|bucket| bucket.count).collect(),
            Value::Summary(_) => Vec::new(),
        };
        if let Some(bad) = numbers.iter().find(|number| !number.is_finite() || **number < 0.0) {
            return Err(ParseError::BadValue { name: name(), value: bad.to_string() });
        }
        if !seen.insert((&sample.metric, sample.labels.to_string())) {
            return Err(ParseError::Duplicate { name: name() });
        }
        if let Value::Histogram(buckets) = &sample.value {
            if buckets.windows(2).any(|pair| pair[0].less_than.total_cmp(&pair[1].less_than).is_ge()) {
                return Err(ParseError::Duplicate { name: name() });
            }
            if buckets.windows(2).any(|pair| pair[0].count > pair[1].count) {
                return Err(ParseError::BadValue { name: name(), value: "a histogram that falls".to_owned() });
            }
        }
    }
    Ok(())
}

fn collect(samples: &[Sample]) -> Result<Snapshot, ParseError> {
    let page = Page(samples);
    if !samples.iter().any(|sample| sample.metric.starts_with("nv_") || sample.metric.starts_with("flotilla_")) {
        return Err(ParseError::NotMetrics);
    }
    let failed = |reason| page.sum_where("nv_inference_request_failure", "reason", reason);
    let microseconds = |name| page.sum(name).map(|value| value / 1e6);
    let pending_requests = page.sum("nv_inference_pending_request_count");
    let pending_images = page.sum("flotilla_pending_images");
    if pending_requests.is_none() && pending_images.is_none() {
        return Err(ParseError::Missing { name: "nv_inference_pending_request_count" });
    }
    Ok(Snapshot {
        requests_completed: page.need("nv_inference_request_success")?,
        images_completed: page.need("nv_inference_count")?,
        executions: page.need("nv_inference_exec_count")?,
        failures: Failures { rejected: failed("REJECTED"), canceled: failed("CANCELED"), backend: failed("BACKEND") },
        queue_seconds: page.need("nv_inference_queue_duration_us")? / 1e6,
        compute_seconds: [
            "nv_inference_compute_input_duration_us",
            "nv_inference_compute_infer_duration_us",
            "nv_inference_compute_output_duration_us",
        ]
        .into_iter()
        .filter_map(microseconds)
        .sum(),
        requests_cached: page.sum("nv_cache_num_hits_per_model"),
        pending_requests,
        pending_images,
        images_rejected: page.sum("flotilla_images_rejected_total"),
        queue: page.queue()?,
        oldest_wait: page.largest("flotilla_queue_oldest_seconds").map(seconds),
        device_busy_seconds: page.sum("flotilla_device_busy_seconds_total"),
        batches: page.batches()?,
        process_start_seconds: page.largest("process_start_time_seconds"),
        server: page.server(),
    })
}

/// Questions to the samples of a page; a family of several versions and GPUs is summed.
struct Page<'a>(&'a [Sample]);

impl<'a> Page<'a> {
    fn series(&self, name: &'a str) -> impl Iterator<Item = (&'a Sample, f64)> {
        self.0.iter().filter(move |sample| sample.metric == name).filter_map(|sample| match sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => Some((sample, value)),
            Value::Histogram(_) | Value::Summary(_) => None,
        })
    }

    fn sum(&self, name: &'a str) -> Option<f64> {
        self.series(name).map(|(_, value)| value).reduce(|sum, value| sum + value)
    }

    fn need(&self, name: &'static str) -> Result<f64, ParseError> {
        self.sum(name).ok_or(ParseError::Missing { name })
    }

    fn largest(&self, name: &'a str) -> Option<f64> {
        self.series(name).map(|(_, value)| value).reduce(f64::max)
    }

    fn sum_where(&self, name: &'a str, label: &str, wanted: &str) -> f64 {
        self.series(name).filter(|(sample, _)| sample.labels.get(label) == Some(wanted)).map(|(_, value)| value).sum()
    }

    fn queue(&self) -> Result<Option<Histogram>, ParseError> {
        let wrong = |found: &str| ParseError::WrongType { name: QUEUE, expected: "histogram", found: found.to_owned() };
        if self.0.iter().any(|sample| sample.metric == "flotilla_queue_duration_seconds_bucket") {
            return Err(wrong("untyped"));
        }
        let mut bounds: Vec<(f64, f64)> = Vec::new();
        for sample in self.0.iter().filter(|sample| sample.metric == QUEUE) {
            let Value::Histogram(buckets) = &sample.value else { return Err(wrong("a single value")) };
            for bucket in buckets {
                match bounds.iter_mut().find(|(bound, _)| bound.total_cmp(&bucket.less_than).is_eq()) {
                    Some((_, count)) => *count += bucket.count,
                    None => bounds.push((bucket.less_than, bucket.count)),
                }
            }
        }
        if bounds.is_empty() {
            return Ok(None);
        }
        bounds.sort_by(|left, right| left.0.total_cmp(&right.0));
        Ok(Some(Histogram {
            buckets: bounds,
            sum: self.need("flotilla_queue_duration_seconds_sum")?,
            count: self.need("flotilla_queue_duration_seconds_count")?,
        }))
    }

    fn batches(&self) -> Result<BTreeMap<u32, BatchTotal>, ParseError> {
        let mut batches: BTreeMap<u32, BatchTotal> = BTreeMap::new();
        let size = |sample: &Sample| {
            let label = sample.labels.get("batch_size").unwrap_or_default();
            label.parse::<u32>().map_err(|_| ParseError::BadValue {
                name: format!("the label batch_size of {}", sample.metric),
                value: label.chars().take(32).collect(),
            })
        };
        for (sample, executions) in self.series("flotilla_device_batches_total") {
            batches.entry(size(sample)?).or_default().executions += executions;
        }
        for (sample, seconds) in self.series("flotilla_device_batch_seconds_total") {
            batches.entry(size(sample)?).or_default().seconds += seconds;
        }
        Ok(batches)
    }

    fn server(&self) -> Option<ServerInfo> {
        let (sample, _) = self.series("flotilla_server_info").next()?;
        let label = |name| sample.labels.get(name).unwrap_or_default().chars().take(LABEL_LIMIT).collect();
        Some(ServerInfo {
            provider: label("provider"),
            model_sha256: label("model_sha256"),
            version: label("server_version"),
        })
    }
}

impl ParseError {
    /// A bounded name for metrics.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::NotText | Self::NotMetrics => "not_metrics",
            Self::Truncated => "truncated",
            Self::LineTooLong { .. } | Self::TooManySeries => "too_large",
            Self::Missing { .. } | Self::OtherModels { .. } => "missing_series",
            Self::WrongType { .. } | Self::Malformed { .. } | Self::Duplicate { .. } | Self::BadValue { .. } => {
                "malformed"
            }
        }
    }
}

/// A time of the page; an absurd one is cut, so that it can't overflow.
fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.clamp(0.0, 1e6))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const TRITON: &str = include_str!("testdata/triton-under-load.txt");
    const FLOTILLA: &str = include_str!("testdata/flotilla.txt");

    #[test]
    fn a_page_of_a_real_triton_is_read() {
        let snapshot = parse(TRITON.as_bytes(), "clip").unwrap();
        assert_eq!(
            (snapshot.requests_completed, snapshot.images_completed, snapshot.executions),
            (3533.0, 3547.0, 810.0)
        );
        assert_eq!(snapshot.pending_requests, Some(1.0));
        assert!((snapshot.queue_seconds - 19.657_178).abs() < 1e-9);
        assert!((snapshot.compute_seconds - (6.601_683 + 21.650_044 + 4.803_061)).abs() < 1e-9);
        assert_eq!(snapshot.failures, Failures::default());
        // What Triton does not say is absent, not zero.
        assert_eq!((snapshot.pending_images, snapshot.queue, snapshot.oldest_wait), (None, None, None));
        assert_eq!((snapshot.server, snapshot.process_start_seconds), (None, None));
        for page in ["triton-after-checks.txt", "triton-under-load-2s-later.txt"] {
            let path = format!("{}/src/scrape/testdata/{page}", env!("CARGO_MANIFEST_DIR"));
            assert!(parse(&std::fs::read(path).unwrap(), "clip").is_ok(), "{page}");
        }
    }

    #[test]
    fn a_page_of_our_own_server_is_read() {
        let snapshot = parse(FLOTILLA.as_bytes(), "timer").unwrap();
        assert_eq!((snapshot.pending_images, snapshot.images_rejected), (Some(40.0), Some(60.0)));
        assert_eq!(snapshot.failures, Failures { rejected: 30.0, canceled: 2.0, backend: 0.0 });
        let queue = snapshot.queue.unwrap();
        assert_eq!((queue.count, queue.sum, queue.buckets.len()), (1200.0, 24.0, 6));
        assert_eq!(snapshot.batches[&32], BatchTotal { executions: 50.0, seconds: 8.5 });
        assert_eq!(snapshot.oldest_wait, Some(Duration::from_millis(35)));
        assert_eq!(snapshot.server.unwrap().model_sha256, "ab12");
    }

    #[test]
    fn a_bad_page_is_refused_as_a_whole_with_what_is_wrong() {
        let changed = |from: &str, to: &str| {
            assert!(FLOTILLA.contains(from), "{from}");
            FLOTILLA.replace(from, to).into_bytes()
        };
        let many = (0..20_000).fold(FLOTILLA.to_owned(), |mut page, number| {
            writeln!(page, "user_metric{{user=\"{number}\"}} 1").unwrap();
            page
        });
        let half = &FLOTILLA[..FLOTILLA.find("2400").unwrap() + 2];
        let count = "nv_inference_count{model=\"timer\",version=\"1\"}";
        for (page, category, message) in [
            (b"\xff\xfe".to_vec(), "not_metrics", "not UTF-8"),
            (Vec::new(), "not_metrics", "none of the expected"),
            (b"<!doctype html>\n<p>It works".to_vec(), "not_metrics", "none of the expected"),
            (b"go_goroutines 12\nprocess_start_time_seconds 5\n".to_vec(), "not_metrics", "none of the expected"),
            (half.as_bytes().to_vec(), "truncated", "in the middle of a line"),
            (changed(" 2400\n", " NaN\n"), "malformed", "nv_inference_count is NaN"),
            (changed(" 2400\n", " +Inf\n"), "malformed", "nv_inference_count is inf"),
            (changed(" 2400\n", " -4\n"), "malformed", "nv_inference_count is -4"),
            (changed(" 2400\n", " many\n"), "malformed", "1 lines of needed metrics can't be read"),
            (changed(&format!("{count} 2400"), count), "malformed", "1 lines"),
            (changed("} 0.035", "} NaN"), "malformed", "flotilla_queue_oldest_seconds is NaN"),
            (changed("le=\"0.04\"} 1100", "le=\"0.04\"} 5"), "malformed", "a histogram that falls"),
            (changed("le=\"0.04\"", "le=\"0.02\""), "malformed", "the same labels twice"),
            (
                changed("# TYPE nv_inference_count counter", "# TYPE nv_inference_count gauge"),
                "malformed",
                "of type \"gauge\"",
            ),
            (changed("# TYPE flotilla_queue_duration_seconds histogram\n", ""), "malformed", "of type \"untyped\""),
            (changed(&format!("{count} 2400\n"), &format!("{count} 2400\n{count} 2400\n")), "malformed", "twice"),
            (changed(&format!("{count} 2400\n"), ""), "missing_series", "no nv_inference_count"),
            (changed("batch_size=\"16\"} 50", "batch_size=\"x\"} 50"), "malformed", "batch_size of flotilla_device"),
            (many.into_bytes(), "too_large", "more than 10000 series"),
            (
                changed("version=\"1\"} 2400", &format!("v=\"{}\"}} 2400", "x".repeat(5000))),
                "too_large",
                "the limit is 4096",
            ),
        ] {
            let error = parse(&page, "timer").unwrap_err();
            assert!(error.category() == category && error.to_string().contains(message), "{category}: {error}");
        }
    }

    #[test]
    fn pages_without_a_pending_gauge_are_refused() {
        let page: String = TRITON
            .lines()
            .filter(|line| !line.contains("pending"))
            .fold(String::new(), |page, line| page + line + "\n");
        assert_eq!(parse(page.as_bytes(), "clip").unwrap_err().category(), "missing_series");
    }

    /// A page of a real Triton 2.51.0 with two models under load.
    #[test]
    fn of_several_models_the_services_own_counts() {
        const TWO: &str = include_str!("testdata/triton-two-models.txt");
        let count =
            |model: &str| parse(TWO.as_bytes(), model).map(|page| (page.images_completed, page.pending_requests));
        assert_eq!(count("timer"), Ok((182.0, Some(7.0))));
        assert_eq!(count("other"), Ok((74.0, Some(8.0))));
        let error = parse(TWO.as_bytes(), "clip").unwrap_err();
        assert_eq!(error.category(), "missing_series");
        assert!(error.to_string().contains("no model \"clip\", but other, timer"), "{error}");
        // A page of one model is the service's, whatever the name: pods of before a change of the name are still measured.
        assert!(parse(TRITON.as_bytes(), "renamed").is_ok());
    }

    /// Triton repeats each series for each GPU and for each version of the model.
    #[test]
    fn versions_and_gpus_of_the_model_are_summed() {
        let on = |labels: &str| {
            let lines = TRITON.lines().filter(|line| line.starts_with("nv_inference"));
            lines.map(|line| line.replace("version=\"1\"", labels) + "\n").collect::<String>()
        };
        let page =
            on("gpu_uuid=\"GPU-a\",version=\"1\"") + &on("gpu_uuid=\"GPU-b\",version=\"1\"") + &on("version=\"2\"");
        let snapshot = parse(page.as_bytes(), "clip").unwrap();
        assert_eq!((snapshot.images_completed, snapshot.pending_requests), (3.0 * 3547.0, Some(3.0)));
    }

    /// Without its counters of time (`--metrics-config counter_latencies=false`) Triton says nothing of waiting.
    #[test]
    fn a_triton_without_counters_of_time_is_refused() {
        let lines = TRITON.lines().filter(|line| !line.contains("duration_us"));
        let page = lines.fold(String::new(), |page, line| page + line + "\n");
        let error = parse(page.as_bytes(), "clip").unwrap_err();
        assert!(error.to_string().contains("no nv_inference_queue_duration_us; servers have to"), "{error}");
    }

    #[test]
    #[ignore = "prints a time; run with --release --ignored --nocapture"]
    fn time_of_a_small_and_a_large_page() {
        let large = (0..).map(|number| format!("some_other_metric{{name=\"pool-{number}\"}} {number}\n"));
        let large: String = std::iter::once(FLOTILLA.to_owned()).chain(large.take(1200)).collect();
        for page in [TRITON, FLOTILLA, large.as_str()] {
            let began = std::time::Instant::now();
            (0..1000).for_each(|_| assert!(std::hint::black_box(parse(page.as_bytes(), "clip")).is_ok()));
            println!("{} bytes: {:?}", page.len(), began.elapsed() / 1000);
        }
    }
}
