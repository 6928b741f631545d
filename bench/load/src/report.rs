//! What a run comes to, in numbers.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::run::Outcome;

/// One line of JSON. Times are in microseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Requests that were answered rightly.
    pub answered: usize,
    /// From the first request's due time to the last answer.
    pub seconds: f64,
    /// Answers a second.
    pub per_second: f64,
    /// From when requests were due to their answers' last byte.
    pub latency: Quantiles,
    /// From when requests were due to when they were sent: the generator's own part, and the wait for a place.
    pub late: Quantiles,
    /// Requests that had another end, by what it was.
    pub errors: BTreeMap<String, usize>,
    /// Connections that were made.
    pub connections: usize,
    /// Processor time of the generator itself, to the hundredth of a second: near `seconds`, it was the limit.
    pub cpu_seconds: f64,
}

/// Of a number of times, in microseconds; zero where there are none.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half of them are at most this.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// Ninety-nine of a hundred.
    pub p99: f64,
    /// All.
    pub max: f64,
}

impl Report {
    /// Sums up.
    #[expect(clippy::cast_precision_loss, reason = "some millions of requests")]
    pub fn new(outcome: Outcome, elapsed: Duration, cpu_seconds: f64) -> Self {
        let (answered, seconds) = (outcome.latencies.len(), elapsed.as_secs_f64());
        Self {
            answered,
            seconds,
            per_second: answered as f64 / seconds,
            latency: Quantiles::of(outcome.latencies),
            late: Quantiles::of(outcome.late),
            errors: outcome.errors,
            connections: outcome.connections,
            cpu_seconds,
        }
    }
}

/// User and system time of this process so far, all threads, in seconds; the kernel counts hundredths.
pub fn own_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name is in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

impl Quantiles {
    /// The nearest rank: the smallest time that at least that part of all times does not exceed.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(rank).copied().unwrap_or_default().as_secs_f64() * 1e6
        };
        Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_goes_on() {
        let before = own_cpu_seconds();
        while own_cpu_seconds() < before + 0.02 {
            std::hint::black_box((0..10_000).sum::<u64>());
        }
    }

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let of = |times: &[u64]| Quantiles::of(times.iter().map(|time| Duration::from_micros(*time)).collect());
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), Quantiles { p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 });
        assert_eq!(of(&[7]), Quantiles { p50: 7.0, p90: 7.0, p99: 7.0, max: 7.0 });
        assert_eq!(of(&[2, 1]), Quantiles { p50: 1.0, p90: 2.0, p99: 2.0, max: 2.0 });
        assert_eq!(of(&[]), Quantiles::default());
    }
}
