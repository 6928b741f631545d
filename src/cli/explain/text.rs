//! An explanation in words: for people, and pure. Every number comes from the decision; nothing is computed here.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::Report;
use super::when::{changes, holds, replicas};
use crate::api::scaling::{PAUSED, ScalingMode};
use crate::cli::top::pods_table;
use crate::cli::words::{age, number, or_dash, rate, table, time};
use crate::explain::Explanation;

/// The whole report.
pub(super) fn text(report: &Report, now: Timestamp) -> String {
    let mut text = head(report, now);
    if let Some(decision) = &report.decision {
        section(&mut text, "Inputs", &inputs(decision));
        section(&mut text, "Model of a replica", &model(decision));
        section(&mut text, "Replicas that each part of the law asks for (* decided)", &terms(decision));
        section(&mut text, "What holds", &holds(decision));
        section(&mut text, "What would change it", &changes(decision));
        section(&mut text, "Replicas", &pods(decision));
    } else {
        section(&mut text, "What is known", &known(report));
    }
    section(&mut text, "Changes, newest first", &history(report, now));
    text
}

/// A decision in a line.
pub(super) fn line(report: &Report, now: Timestamp) -> String {
    let Some(decision) = &report.decision else {
        let (replicas, reason) = report.outcome();
        return format!("{now:.0}   {replicas} replicas   {reason}   (from the status)\n");
    };
    let inputs = &decision.inputs;
    let shown_only = report.shown_only().map_or_else(String::new, |word| format!(" ({word})"));
    format!(
        "{:.0}   {} replicas   {}{shown_only}   {} of {} a replica   {} waited of {}\n",
        decision.decided_at,
        decision.replicas,
        decision.reason,
        or_dash(inputs.arrivals, rate),
        or_dash(decision.model.capacity_per_replica, rate),
        or_dash(inputs.queue_time, time),
        time(inputs.target_queue_time),
    )
}

fn section(text: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        writeln!(text, "\n{title}:").ok();
        for line in body.lines() {
            writeln!(text, "{}", format!("  {line}").trim_end()).ok();
        }
    }
}

fn head(report: &Report, now: Timestamp) -> String {
    let mut rows = vec![("Name", report.name.clone()), ("Namespace", report.namespace.clone())];
    if let Some(decision) = &report.decision {
        let change = match (decision.replicas == decision.ordered, report.shown_only()) {
            (true, _) => String::new(),
            (false, None) => format!(" ({} were ordered)", decision.ordered),
            (false, Some(_)) => format!(" ({} are ordered)", decision.ordered),
        };
        rows.push(("Decision", format!("{}{change}: {}", replicas(decision.replicas), decision.reason)));
        rows.push(("", decision.message.clone()));
        let operator = report.operator.as_deref().unwrap_or_default();
        rows.push(("Decided", format!("{} ago, by the operator {operator}", age(decision.decided_at, now))));
        if let Some(who) = acted_on(report) {
            rows.push(("Acted on", who.to_owned()));
        } else if let Some(rival) = &decision.conflict {
            rows.push((
                "Conflict",
                format!("HorizontalPodAutoscaler {rival} writes the replicas, so Flotilla does not"),
            ));
        }
    } else {
        let (wanted, reason) = report.outcome();
        rows.push(("Decision", format!("{wanted} replicas: {reason}")));
        let fallback = report.fallback.as_deref().unwrap_or_default();
        rows.push(("Told by", "the service's status, rounded and up to 30 s old".to_owned()));
        rows.push(("Because", fallback.to_owned()));
    }
    if let Some(obstacle) = &report.obstacle {
        rows.push(("Not ready", format!("{}: {}", obstacle.reason, obstacle.message)));
    }
    rows.into_iter().fold(String::new(), |mut text, (name, value)| {
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        writeln!(text, "{name:11}{value}").ok();
        text
    })
}

/// By whom a decision is acted on, where it is not by Flotilla.
fn acted_on(report: &Report) -> Option<&'static str> {
    report.shown_only().map(|word| match word {
        PAUSED => "by nobody: scaling.paused is true, replicas stay as they are",
        "Advisory" => "by nobody: scaling.mode is Advisory, replicas follow spec.replicas",
        _ => "by whoever writes spec.replicas: scaling.mode is External",
    })
}

fn inputs(decision: &Explanation) -> String {
    let inputs = &decision.inputs;
    let rising =
        if inputs.trend > 0.0 { format!(", rising by {} each second", rate(inputs.trend)) } else { String::new() };
    let states = [
        ("ready", inputs.ready),
        ("measured", inputs.measured),
        ("missing", inputs.missing),
        ("slow", inputs.slow),
        ("starting", inputs.starting),
        ("failing", inputs.failing),
        ("without a node", inputs.unschedulable),
    ];
    let states = states.iter().filter(|(name, count)| *count > 0 || matches!(*name, "ready" | "measured" | "starting"));
    let states: Vec<String> = states.map(|(name, count)| format!("{count} {name}")).collect();
    table(&rows([
        ("arrivals", format!("{}{rising}", or_dash(inputs.arrivals, rate))),
        (
            "expected",
            format!(
                "{} in {}, when a replica ordered now answers",
                or_dash(inputs.expected, rate),
                time(inputs.startup)
            ),
        ),
        (
            "queue time",
            format!(
                "{} mean, {} p95, target {}",
                or_dash(inputs.queue_time, time),
                or_dash(inputs.queue_time_p95, time),
                target(decision)
            ),
        ),
        ("pending", format!("{} images", or_dash(inputs.pending, number))),
        ("replicas", format!("{} ordered, {}", decision.ordered, states.join(", "))),
    ]))
}

/// The target, and the user's where that can't be met.
fn target(decision: &Explanation) -> String {
    let (used, asked) = (decision.inputs.target_queue_time, decision.bounds.target_queue_time);
    if (used - asked).abs() < 1e-9 {
        time(used)
    } else {
        format!("{} ({} can't be met: half an execution's fixed cost is more)", time(used), time(asked))
    }
}

fn model(decision: &Explanation) -> String {
    let model = &decision.model;
    let source = match model.capacity_source.as_str() {
        "BatchLine" => "the line, at the target",
        "Saturation" => "what replicas complete while their queue never empties",
        "SingleBatchSize" => "the speed at the only batch size seen so far",
        "Observed" => "what the replicas complete while nothing waits",
        "Unknown" => "not known yet",
        other => other,
    };
    let line = match (model.alpha, model.tau0) {
        (Some(alpha), Some(tau0)) => {
            format!("alpha {} an image, tau0 {} an execution", time(alpha), time(tau0))
        }
        _ => "- (needs executions of two batch sizes)".to_owned(),
    };
    table(&rows([
        ("execution", line),
        ("capacity", format!("{} a replica: {source}", or_dash(model.capacity_per_replica, rate))),
        ("full speed", format!("{} a replica", or_dash(model.full_speed_per_replica, rate))),
    ]))
}

fn terms(decision: &Explanation) -> String {
    let (terms, bounds) = (&decision.terms, &decision.bounds);
    let count = |count: Option<u32>| or_dash(count, |count: u32| count.to_string());
    let slow = (terms.in_place_of_slow > 0).then_some(terms.in_place_of_slow);
    let remembered = decision.changes.fewer.as_ref().map_or(bounds.stabilization_window, |fewer| fewer.lasting);
    let rows = [
        ("Demand", "demand", count(terms.demand), "for what arrives now".to_owned()),
        ("Trend", "trend", count(terms.expected), "for what is expected".to_owned()),
        ("Backlog", "backlog", count(terms.backlog), "to work off what waits, in time".to_owned()),
        ("Growth", "growth", count(terms.growth), "for a queue that grows against the model".to_owned()),
        ("SlowReplica", "slow replica", or_dash(slow, |slow| format!("+{slow}")), "in place of a slow one".to_owned()),
        ("DeadBand", "dead band", count(terms.with_air), "with 5 % of air: fewer are not removed".to_owned()),
        (
            "Release",
            "release",
            count(terms.release),
            format!(
                "to wait for {} with one less: fewer are not removed",
                time(0.9 * decision.inputs.target_queue_time)
            ),
        ),
        ("Window", "window", count(terms.window), format!("the most in {}", time(bounds.stabilization_window))),
        ("RecurringPeaks", "peaks", count(terms.remembered_peak), format!("the most in {}", time(remembered))),
        ("Minimum", "minimum", bounds.min_replicas.to_string(), "minReplicas".to_owned()),
        ("Maximum", "maximum", bounds.max_replicas.to_string(), "maxReplicas".to_owned()),
        ("StepLimit", "step limit", format!("{}..{}", terms.fewest_now, terms.most_now), "in 15 s".to_owned()),
    ];
    let mark = |term: &str| if term == decision.decided_by { "*" } else { "" };
    let mut lines: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(term, name, count, why)| vec![mark(term).to_owned(), name.to_owned(), count, why])
        .collect();
    if lines.iter().all(|line| line.first().is_some_and(String::is_empty)) {
        let word = words(&decision.decided_by);
        lines.push(vec!["*".to_owned(), word.to_owned(), decision.replicas.to_string(), decision.message.clone()]);
    }
    table(&lines)
}

/// The part of the law in words, where it asks for no number of its own.
fn words(term: &str) -> &str {
    match term {
        "Panic" => "panic",
        "Settling" => "settling",
        "Starting" => "starting",
        "Failing" => "failing",
        "Scheduler" => "scheduler",
        "Rollout" => "rollout",
        "Metrics" => "metrics",
        "Capacity" => "capacity",
        "Imbalance" => "imbalance",
        other => other,
    }
}

fn pods(decision: &Explanation) -> String {
    if decision.pods.is_empty() {
        return "none is ready".to_owned();
    }
    pods_table(&decision.pods)
}

/// What the status alone tells.
fn known(report: &Report) -> String {
    let Some(status) = &report.status else { return "nothing yet: the service is new".to_owned() };
    let (min, max) = report.bounds;
    let quantity = |quantity: &Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        or_dash(quantity.as_ref(), |quantity| format!("{}/s", quantity.0))
    };
    let paused = if report.paused { ", paused" } else { "" };
    let mut lines = vec![("mode", format!("{}{paused}", report.mode)), ("replicas", format!("{min} to {max}"))];
    if report.mode != ScalingMode::External.as_str() {
        lines.push(("arrivals", quantity(&status.arrivals_per_second)));
        lines.push(("capacity", format!("{} a replica", quantity(&status.capacity_per_replica))));
        let queue = or_dash(status.queue_time_milliseconds, |wait| format!("{wait} ms"));
        lines.push(("queue time", format!("{queue}, target {} ms", report.target)));
    }
    table(&rows(lines))
}

fn history(report: &Report, now: Timestamp) -> String {
    let events = report.status.iter().flat_map(|status| &status.history);
    let mut rows = vec![["AGE", "FROM", "TO", "REASON"].map(str::to_owned).to_vec()];
    rows.extend(events.map(|event| {
        let reason = if event.advised { format!("{} (advised)", event.reason) } else { event.reason.clone() };
        vec![age(event.time.0, now), event.from.to_string(), event.to.to_string(), reason]
    }));
    if rows.len() == 1 { "none yet".to_owned() } else { table(&rows) }
}

fn rows<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> Vec<Vec<String>> {
    rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
}
