//! What was measured of an operator with a fleet, and its table.

use std::time::Duration;

use prometheus_parse::{HistogramCount, Scrape, Value};
use serde::Serialize;

use super::server::Asked;
use crate::Outcome;
use crate::process::ProcessorTime;
use crate::table::Table;

/// One operator at one interval.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Which operator.
    pub operator: String,
    /// Seconds between two scrapes of a pod.
    pub interval_seconds: u64,
    /// For how long.
    pub seconds: f64,
    /// Pages that the fleet gave in that time.
    pub pages: u64,
    /// The same, of what the interval asks for.
    pub pages_of_due: f64,
    /// Bytes of a page.
    pub page_bytes: f64,
    /// New connections of the fleet in that time.
    pub connections: u64,
    /// The share of scrapes that came an interval after the one before, within a tenth of it.
    pub on_time: f64,
    /// Seconds: the age of the newest measurement that was decided on; half and 99 of 100.
    pub decision_age: [Option<f64>; 2],
    /// Seconds between decisions for the same service on different measurements.
    pub decision_interval: [Option<f64>; 2],
    /// Visits a second.
    pub visits_per_second: f64,
    /// Mutating requests that the API server counted, leases excepted.
    pub writes: Vec<(String, u64)>,
    /// Cores that the operator took.
    pub operator_cores: f64,
    /// Of them in the kernel.
    pub operator_cores_in_kernel: f64,
    /// MiB resident at the end.
    pub resident: f64,
    /// MiB resident at most since its start.
    pub peak_resident: f64,
    /// Cores that the fleet's one process took.
    pub fleet_cores: f64,
    /// Cores that API server and etcd took.
    pub api_cores: f64,
    /// Of two loads: the machine's over the last minute, at the end.
    pub load: f64,
}

/// What was counted at one moment.
pub struct Moment {
    /// The operator's metrics.
    pub page: String,
    /// The fleet's.
    pub asked: Asked,
    /// Processor time of the operator, of the fleet, and of API server and etcd.
    pub processor: [ProcessorTime; 3],
}

impl Measured {
    /// What happened between two moments; writes and memory are filled in by the caller.
    ///
    /// # Errors
    /// The operator's page can't be read.
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn between(
        before: &Moment,
        after: &Moment,
        interval: Duration,
        lasted: Duration,
        pods: usize,
    ) -> Outcome<Self> {
        let asked = after.asked.since(&before.asked);
        let seconds = lasted.as_secs_f64();
        let cores = |index: usize| -> ProcessorTime {
            let (Some(now), Some(then)) = (after.processor.get(index), before.processor.get(index)) else {
                return ProcessorTime::default();
            };
            let took = now.since(*then);
            ProcessorTime { user: took.user / seconds, system: took.system / seconds }
        };
        let visits = |page: &str| crate::cluster::metric(page, "flotilla_operator_reconciles_total", &[]);
        let of = |name: &str| -> Outcome<[Option<f64>; 2]> {
            let delta = difference(&histogram(&before.page, name)?, &histogram(&after.page, name)?);
            Ok([quantile(&delta, 0.5), quantile(&delta, 0.99)])
        };
        Ok(Self {
            operator: String::new(),
            interval_seconds: interval.as_secs(),
            seconds,
            pages: asked.pages,
            pages_of_due: asked.pages as f64 / (pods as f64 * seconds / interval.as_secs_f64()),
            page_bytes: asked.bytes as f64 / asked.pages.max(1) as f64,
            connections: asked.connections,
            on_time: asked.on_time(interval),
            decision_age: of("flotilla_operator_decision_age_seconds")?,
            decision_interval: of("flotilla_operator_decision_interval_seconds")?,
            visits_per_second: (visits(&after.page) - visits(&before.page)) / seconds,
            writes: Vec::new(),
            operator_cores: cores(0).total(),
            operator_cores_in_kernel: cores(0).system,
            resident: 0.0,
            peak_resident: 0.0,
            fleet_cores: cores(1).total(),
            api_cores: cores(2).total(),
            load: 0.0,
        })
    }
}

/// Prints what was measured as a table with a column each.
pub fn print(title: &str, all: &[Measured]) {
    let head: Vec<String> = all.iter().map(|one| format!("{}, {} s", one.operator, one.interval_seconds)).collect();
    let head: Vec<&str> = std::iter::once("what").chain(head.iter().map(String::as_str)).collect();
    let mut table = Table::new(title, &head);
    let mut row = |what: &str, cell: &dyn Fn(&Measured) -> String| {
        table.row(std::iter::once(what.to_owned()).chain(all.iter().map(cell)));
    };
    let pair = |pair: [Option<f64>; 2]| {
        pair.map(|value| value.map_or("-".to_owned(), |value| format!("{value:.2}"))).join(", ")
    };
    row("pages a second", &|one| {
        format!("{:.0}", f64::from(u32::try_from(one.pages).unwrap_or(u32::MAX)) / one.seconds)
    });
    row("of those due", &|one| format!("{:.2} %", one.pages_of_due * 100.0));
    row("on time, within a tenth of the interval", &|one| format!("{:.2} %", one.on_time * 100.0));
    row("bytes a page", &|one| format!("{:.0}", one.page_bytes));
    row("new connections", &|one| one.connections.to_string());
    row("age of the newest measurement at a decision, p50, p99", &|one| format!("{} s", pair(one.decision_age)));
    row("between decisions, p50, p99", &|one| format!("{} s", pair(one.decision_interval)));
    row("visits a second", &|one| format!("{:.0}", one.visits_per_second));
    row("writes", &|one| one.writes.iter().map(|(_, count)| count).sum::<u64>().to_string());
    row("operator: cores", &|one| format!("{:.2}", one.operator_cores));
    row("of them in the kernel", &|one| format!("{:.2}", one.operator_cores_in_kernel));
    row("operator: memory, at most", &|one| format!("{:.0}, {:.0} MiB", one.resident, one.peak_resident));
    row("the fleet's process: cores", &|one| format!("{:.2}", one.fleet_cores));
    row("API server and etcd: cores", &|one| format!("{:.2}", one.api_cores));
    row("load average", &|one| format!("{:.0}", one.load));
    row("for", &|one| format!("{:.0} s", one.seconds));
    table.print();
}

/// Upper bound and how many were at or below it.
fn histogram(page: &str, name: &str) -> Outcome<Vec<(f64, f64)>> {
    let scrape = Scrape::parse(page.lines().map(|line| Ok(line.to_owned())))?;
    let found = scrape.samples.into_iter().find(|sample| sample.metric == name).map(|sample| sample.value);
    let Some(Value::Histogram(buckets)) = found else { return Err(format!("the operator has no {name}").into()) };
    Ok(buckets.into_iter().map(|HistogramCount { less_than, count }| (less_than, count)).collect())
}

fn difference(before: &[(f64, f64)], after: &[(f64, f64)]) -> Vec<(f64, f64)> {
    after.iter().zip(before).map(|((bound, now), (_, then))| (*bound, now - then)).collect()
}

/// The quantile, linear within its bucket; none without values, infinite beyond the last bound.
fn quantile(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let rank = quantile * buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let (mut lower, mut below) = (0.0, 0.0);
    buckets.iter().find_map(|&(bound, count)| {
        if count >= rank && count > below {
            let within = (rank - below) / (count - below) * (bound - lower);
            return Some(if bound.is_finite() { lower + within } else { bound });
        }
        (lower, below) = (bound, count);
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_of_what_came_between_two_pages() {
        let page = |counts: [u32; 3]| {
            let [first, second, all] = counts;
            format!(
                "# TYPE a histogram\na_bucket{{le=\"1\"}} {first}\na_bucket{{le=\"2\"}} {second}\na_bucket{{le=\"+Inf\"}} {all}\na_sum 1\na_count {all}\n"
            )
        };
        let of =
            |before, after| difference(&histogram(&page(before), "a").unwrap(), &histogram(&page(after), "a").unwrap());
        let delta = of([100, 100, 100], [110, 120, 120]);
        assert_eq!((quantile(&delta, 0.5), quantile(&delta, 0.75)), (Some(1.0), Some(1.5)));
        assert_eq!(quantile(&of([1, 1, 1], [1, 1, 1]), 0.5), None);
        assert_eq!(quantile(&of([0, 0, 0], [0, 0, 5]), 0.5), Some(f64::INFINITY));
    }
}
