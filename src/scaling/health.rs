//! Which replicas are far slower than the others of their class: a throttled or failing device, or a server that still
//! compiles. They serve what they can, but they say nothing of the others' speed or queues, and do not count as capacity.

use std::collections::BTreeMap;

use super::capacity::BatchLine;
use super::fresh::Fresh;
use super::view::View;
use super::whole;

/// A replica whose executions take this many times longer than the median's, batch by batch, is slow.
const SLOW: f64 = 5.0;

/// Marks the slow ones; a class whose line is not known has none.
pub(super) fn mark_slow(view: &mut View<'_>, line: impl Fn(&str) -> Option<BatchLine>) {
    let mut by_class: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut lines: BTreeMap<&str, Option<BatchLine>> = BTreeMap::new();
    for fresh in &view.fresh {
        lines.entry(fresh.class).or_insert_with(|| line(fresh.class));
    }
    let times_slower = |fresh: &Fresh<'_>| times_slower(fresh, lines.get(fresh.class).copied()??);
    for fresh in &view.fresh {
        by_class.entry(fresh.class).or_default().extend(times_slower(fresh));
    }
    for ratios in by_class.values_mut() {
        ratios.sort_by(f64::total_cmp);
    }
    // The lower median: of two, the quicker one is what can be expected.
    let median =
        |class: &str| by_class.get(class).and_then(|ratios| ratios.get(ratios.len().checked_sub(1)? / 2).copied());
    let slow: Vec<bool> = view
        .fresh
        .iter()
        .map(|fresh| {
            let usual = median(fresh.class).unwrap_or(1.0).max(1.0);
            times_slower(fresh).is_some_and(|ratio| ratio > SLOW * usual)
        })
        .collect();
    view.slow = whole(slow.iter().filter(|slow| **slow).count());
    for (fresh, is_slow) in view.fresh.iter_mut().zip(slow) {
        fresh.is_slow = is_slow;
    }
}

/// How many times longer than the line says its executions took.
fn times_slower(fresh: &Fresh<'_>, line: BatchLine) -> Option<f64> {
    let batches = &fresh.measurement.batches;
    let took: f64 = batches.iter().map(|batch| batch.seconds).sum();
    let expected: f64 = batches.iter().map(|batch| batch.executions * (line.alpha * batch.size + line.tau0)).sum();
    (expected > 0.0).then_some(took / expected)
}
