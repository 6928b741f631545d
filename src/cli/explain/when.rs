//! What holds a number, and what would change it, in words.

use crate::cli::words::{or_dash, ordinal, rate, time};
use crate::explain::{Explanation, FewerWhen, HeldBy, MoreWhen};

/// What keeps the number from rising or falling, a line each.
pub(super) fn holds(decision: &Explanation) -> String {
    let lines: Vec<String> = decision.holds.iter().map(|held| hold(held, decision)).collect();
    if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") }
}

fn hold(held: &HeldBy, decision: &Explanation) -> String {
    let count = held.replicas.unwrap_or_default();
    let left = held.seconds.map_or_else(String::new, |seconds| format!("; {} to go", time(seconds)));
    let (window, bounds) = (decision.bounds.stabilization_window, &decision.bounds);
    match held.term.as_str() {
        "Metrics" if decision.inputs.ready == 0 => "metrics: no replica is ready, so nothing is known".to_owned(),
        "Metrics" => {
            format!("metrics: {count} of {} replicas are not measured, so none is removed", decision.inputs.ready)
        }
        "Scheduler" => format!("scheduler: no node takes {}, so no more are ordered", replicas(count)),
        "Failing" => format!("failing: {} fail to start and are not expected", replicas(count)),
        "Maximum" => format!("maximum: {} would be needed, maxReplicas is {}", replicas(count), bounds.max_replicas),
        "StepLimit" if count >= decision.replicas => format!("step limit: at most {} in 15 s", replicas(count)),
        "StepLimit" => format!("step limit: at least {} for 15 s", replicas(count)),
        "Starting" => format!("starting: {count} start, or have just started, and will take the queue"),
        "Imbalance" => "imbalance: some replicas get far more than their share; others would not help".to_owned(),
        "Capacity" => "capacity: what a replica takes is not known yet".to_owned(),
        "Panic" => format!("panic: twice as much came as the replicas take, so none is removed for a minute{left}"),
        "Settling" => format!("settling: {} became ready a moment ago, so none is removed", replicas(count)),
        "Rollout" => "rollout: an update is under way, so none is removed".to_owned(),
        "Window" if held.replicas.is_none() => {
            format!("window: the load has not been watched for {} yet{left}", time(window))
        }
        "Window" => format!("window: {} were asked for within {}{left}", replicas(count), time(window)),
        "RecurringPeaks" => format!("peaks: {} were asked for, and peaks come back{left}", replicas(count)),
        other => format!("{other}{left}"),
    }
}

/// At which numbers another would be decided.
pub(super) fn changes(decision: &Explanation) -> String {
    if decision.inputs.measured == 0 {
        return "nothing before a replica is measured; minReplicas and maxReplicas apply at once".to_owned();
    }
    let more = match &decision.changes.more {
        None => format!("no more: maxReplicas is {}", decision.bounds.max_replicas),
        Some(_) if decision.inputs.unschedulable > 0 => {
            "no more are ordered before a node takes what was ordered".to_owned()
        }
        Some(more) => more_when(more, decision),
    };
    let fewer = match &decision.changes.fewer {
        None => format!("no fewer: minReplicas is {}", decision.bounds.min_replicas),
        Some(fewer) => fewer_when(fewer, decision),
    };
    format!("{more}\n{fewer}")
}

fn more_when(more: &MoreWhen, decision: &Explanation) -> String {
    let queue = format!(
        "most replicas' requests wait for longer than {}, with more than {} images waiting at each, {} times in a row",
        time(more.queue_time_above),
        more.pending_above,
        more.rounds
    );
    let nth = ordinal(more.replicas);
    match more.arrivals_above {
        Some(above) => format!(
            "a {nth} replica is ordered when arrivals exceed {} ({} now),\nor when {queue}",
            rate(above),
            or_dash(decision.inputs.arrivals, rate)
        ),
        None if decision.model.capacity_per_replica.is_none() => {
            format!("a {nth} replica is ordered when {queue};\nwhich arrivals need one is not known yet")
        }
        None => format!(
            "a {nth} replica is ordered when {queue};\nno arrivals alone order one: while nothing waits, the replicas \
             take what arrives"
        ),
    }
}

fn fewer_when(fewer: &FewerWhen, decision: &Explanation) -> String {
    let nth = ordinal(decision.replicas);
    match fewer.arrivals_below {
        Some(below) => format!(
            "the {nth} is removed when they stay below {} for {}, in {} at the soonest",
            rate(below),
            time(fewer.lasting),
            time(fewer.soonest)
        ),
        None if decision.model.capacity_per_replica.is_none() => {
            format!(
                "the {nth} is removed when nothing arrives for {}, in {} at the soonest",
                time(fewer.lasting),
                time(fewer.soonest)
            )
        }
        None => format!("the {nth} stays at any arrivals: a slow replica has it in its place"),
    }
}

/// So many replicas.
pub(super) fn replicas(count: u32) -> String {
    if count == 1 { "1 replica".to_owned() } else { format!("{count} replicas") }
}
