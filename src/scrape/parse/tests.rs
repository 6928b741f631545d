//! Pages of real servers, and pages that lie.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use prometheus_parse::{Scrape, Value};
use proptest::prelude::*;

use super::*;
use crate::scrape::snapshot::{BatchTotal, Failures};

const TRITON: &str = include_str!("../testdata/triton-under-load.txt");
const FLOTILLA: &str = include_str!("../testdata/flotilla.txt");

#[test]
fn a_page_of_a_real_triton_is_read() {
    let snapshot = parse(TRITON.as_bytes(), "clip").unwrap();
    assert_eq!((snapshot.requests_completed, snapshot.images_completed, snapshot.executions), (3533.0, 3547.0, 810.0));
    assert_eq!(snapshot.pending_requests, Some(1.0));
    assert!((snapshot.queue_seconds - 19.657_178).abs() < 1e-9);
    assert!((snapshot.compute_seconds - (6.601_683 + 21.650_044 + 4.803_061)).abs() < 1e-9);
    assert_eq!(snapshot.failures, Failures::default());
    // What Triton does not say is absent, not zero.
    assert_eq!((snapshot.pending_images, snapshot.queue, snapshot.oldest_wait), (None, None, None));
    assert_eq!((snapshot.server, snapshot.process_start_seconds), (None, None));
    for page in ["triton-after-checks.txt", "triton-under-load-2s-later.txt"] {
        let path = format!("{}/src/scrape/testdata/{page}", std::env::var("CARGO_MANIFEST_DIR").unwrap());
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
    let page: String =
        TRITON.lines().filter(|line| !line.contains("pending")).fold(String::new(), |page, line| page + line + "\n");
    assert_eq!(parse(page.as_bytes(), "clip").unwrap_err().category(), "missing_series");
}

/// A page of a real Triton 2.51.0 with two models under load.
#[test]
fn of_several_models_the_services_own_counts() {
    const TWO: &str = include_str!("../testdata/triton-two-models.txt");
    let count = |model: &str| parse(TWO.as_bytes(), model).map(|page| (page.images_completed, page.pending_requests));
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
    let page = on("gpu_uuid=\"GPU-a\",version=\"1\"") + &on("gpu_uuid=\"GPU-b\",version=\"1\"") + &on("version=\"2\"");
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

/// What was read of a page: names, labels but for the bound, bound, value.
type Read = Vec<(String, BTreeMap<String, String>, Option<u64>, u64)>;

fn read_here(page: &str) -> Read {
    let lines = needed_lines(page).unwrap();
    assert_eq!(lines.malformed, 0, "{page}");
    let mut read: Read = lines
        .samples
        .iter()
        .map(|Needed { family, sample }| {
            let mut labels: BTreeMap<String, String> =
                sample.labels().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let bound = (*family == Family::QueueBucket).then(|| labels.remove("le")).flatten();
            let bound = bound.map(|bound| bound.parse::<f64>().unwrap().to_bits());
            (sample.name.to_owned(), labels, bound, sample.value.to_bits())
        })
        .collect();
    read.sort();
    read
}

fn read_by_prometheus_parse(page: &str) -> Read {
    let scrape = Scrape::parse(page.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let mut read = Read::new();
    for sample in scrape.samples {
        let labels: BTreeMap<String, String> =
            sample.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        match sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => {
                read.push((sample.metric, labels, None, value.to_bits()));
            }
            Value::Histogram(buckets) => read.extend(buckets.into_iter().map(|bucket| {
                let name = format!("{}_bucket", sample.metric);
                (name, labels.clone(), Some(bucket.less_than.to_bits()), bucket.count.to_bits())
            })),
            Value::Summary(_) => unreachable!("no family is one"),
        }
    }
    read.retain(|(name, ..)| Family::of(name).is_some());
    read.sort();
    read
}

/// A line of some family, needed or not, without the signs in labels that prometheus-parse can't read.
fn any_line() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => prop::sample::select(vec![
            "nv_inference_count", "nv_inference_request_failure", "flotilla_queue_duration_seconds_bucket",
            "flotilla_queue_duration_seconds_sum", "flotilla_device_batches_total", "process_start_time_seconds",
        ]).prop_map(str::to_owned),
        1 => "[a-z_][a-z0-9_]{0,20}",
    ];
    let labels = prop::collection::btree_map("[a-z_]{1,8}", "[a-zA-Z0-9 .:/_+-]{0,12}", 0..4);
    let value = prop_oneof![
        any::<f64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| format!("{value:e}")),
        any::<u32>().prop_map(|value| value.to_string()),
        prop::sample::select(vec!["NaN", "+Inf", "-Inf", "1e9", "0x10", "1_000", "", "seven"]).prop_map(str::to_owned),
    ];
    (name, labels, any::<u16>(), value, any::<bool>(), any::<bool>()).prop_map(
        |(name, labels, bound, value, timed, comma)| {
            let bound = name.ends_with("_bucket").then(|| format!("le=\"{}\"", f64::from(bound) / 64.0));
            let others =
                labels.iter().filter(|(name, _)| *name != "le").map(|(name, value)| format!("{name}=\"{value}\""));
            let labels: Vec<String> = others.chain(bound).collect();
            let labels = match (labels.is_empty(), comma) {
                (true, _) => String::new(),
                (false, true) => format!("{{{},}}", labels.join(",")),
                (false, false) => format!("{{{}}}", labels.join(",")),
            };
            format!("{name}{labels} {value}{}", if timed { " 1795329185447" } else { "" })
        },
    )
}

proptest! {
    /// Line by line: what one of the two can't read, the other can't, and what both read is the same to the bit.
    #[test]
    fn lines_are_read_as_prometheus_parse_reads_them(line in any_line()) {
        let page = format!("# TYPE flotilla_queue_duration_seconds histogram\n{line}\n");
        let malformed = needed_lines(&page).unwrap().malformed;
        let theirs = read_by_prometheus_parse(&page);
        if malformed > 0 {
            prop_assert!(theirs.is_empty(), "{theirs:?}");
        } else {
            prop_assert_eq!(read_here(&page), theirs);
        }
    }

    /// Pages of real servers, some of their lines gone, doubled or in another order.
    #[test]
    fn pages_are_read_as_prometheus_parse_reads_them(
        page in prop::sample::select(vec![TRITON, FLOTILLA, include_str!("../testdata/flotilla-under-load.txt")]),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let lines: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        let types = "# TYPE flotilla_queue_duration_seconds histogram\n";
        let picked = picks.iter().fold(types.to_owned(), |page, pick| page + *pick.get(&lines) + "\n");
        prop_assert_eq!(read_here(&picked), read_by_prometheus_parse(&picked));
    }

    /// Whatever comes in, a page or an error goes out.
    #[test]
    fn no_page_brings_it_down(page in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = parse(&page, "timer");
        let mut spoilt = FLOTILLA.as_bytes().to_vec();
        for (at, byte) in page.iter().enumerate().take(20) {
            let place = (at * 997 + usize::from(*byte)) % spoilt.len();
            spoilt[place] = *byte;
        }
        let _ = parse(&spoilt, "timer");
    }
}
