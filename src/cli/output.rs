//! What is told: for people, and as JSON or YAML for programs; and the tables of the simulator's runs.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::CliError;
use crate::simulate::{Estimate, PolicyKind, RunReport, Scenario};

/// How a verb that talks to a cluster tells what it found.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct FormatArguments {
    /// How it is told
    #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
    output: Format,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// For whom.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Format {
    /// People.
    Text,
    /// Programs.
    Json,
    /// Both.
    Yaml,
}

impl FormatArguments {
    pub(super) fn format(self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

impl Format {
    /// As JSON or YAML: a document each time.
    pub(super) fn write(self, value: &impl Serialize) -> Result<String, CliError> {
        let text = match self {
            Self::Yaml => {
                serde_saphyr::to_string(value).map(|text| format!("---\n{text}")).map_err(|error| error.to_string())
            }
            Self::Json | Self::Text => {
                serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
            }
        };
        text.map_err(|error| CliError::Cluster(format!("the answer can't be written: {error}")))
    }
}

/// All runs of one policy.
pub(super) struct Summary {
    pub(super) policy: PolicyKind,
    pub(super) target: Option<f64>,
    pub(super) runs: Vec<RunReport>,
}

/// What all policies share.
pub(super) struct Totals {
    pub(super) load: String,
    pub(super) seeds: u64,
    pub(super) requests: f64,
    pub(super) end: f64,
    pub(super) cut: bool,
    pub(super) events: f64,
    pub(super) events_per_second: f64,
}

impl Summary {
    /// The mean and interval of a figure.
    pub(super) fn estimate(&self, figure: impl Fn(&RunReport) -> f64) -> Estimate {
        Estimate::over(&self.runs, figure)
    }

    /// The mean over the runs that have the figure.
    fn optional(&self, figure: impl Fn(&RunReport) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.runs.iter().filter_map(figure).collect();
        (!values.is_empty()).then(|| Estimate::of(values).mean)
    }
}

/// A table.
pub(super) fn table(scenario: &Scenario, totals: &Totals, summaries: &[Summary]) -> String {
    let mut text = format!(
        "{}: {:.0} requests in {:.0} s, {} seed(s); wait of at most {:.0} ms; a replica takes {:.1}/s within the \
         target of {:.0} ms, {:.1}/s at most\n\n",
        totals.load,
        totals.requests,
        totals.end,
        totals.seeds,
        scenario.slo_wait.as_secs_f64() * 1e3,
        scenario.capacity(),
        scenario.target_queue_time.as_secs_f64() * 1e3,
        scenario.server.full_speed(),
    );
    let header = [
        "policy",
        "target",
        "in SLO %",
        "+-",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "GPU-h",
        "+-",
        "cost",
        "under",
        "over",
        "actions",
        "reversals",
        "decides",
        "90 %",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for summary in summaries {
        let share = summary.estimate(|run| run.slo_share * 100.0);
        let hours = summary.estimate(|run| run.gpu_hours);
        let mean = |figure: fn(&RunReport) -> f64| summary.estimate(figure).mean;
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1} s"));
        rows.push([
            summary.policy.as_str().to_owned(),
            summary.target.map_or("-".to_owned(), |target| {
                format!("{target:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
            }),
            format!("{:.2}", share.mean),
            format!("{:.2}", share.half_width),
            format!("{:.1}", mean(|run| run.wait_p50) * 1e3),
            format!("{:.1}", mean(|run| run.wait_p95) * 1e3),
            format!("{:.1}", mean(|run| run.wait_p99) * 1e3),
            format!("{:.3}", hours.mean),
            format!("{:.3}", hours.half_width),
            format!("{:.3}", mean(|run| run.cost)),
            format!("{:.0}", mean(|run| run.under_provision)),
            format!("{:.0}", mean(|run| run.over_provision)),
            format!("{:.1}", mean(|run| run.actions)),
            format!("{:.1}", mean(|run| run.reversals)),
            seconds(summary.optional(|run| run.step.first_decision)),
            seconds(summary.optional(|run| run.step.ninety_percent)),
        ]);
    }
    text.push_str(&aligned(&rows));
    let legend = "\nunder and over: replicas missing and too many times seconds; decides and 90 %: the largest rise of need until the\n\
        first order, and until nine tenths of it are ready; +- is half the 95 % interval over the seeds.";
    writeln!(text, "{legend}\n{:.0} events, {:.2} million a second.", totals.events, totals.events_per_second / 1e6)
        .ok();
    text
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if column == 0 {
                write!(text, "{cell:width$}").ok()
            } else {
                write!(text, "  {cell:>width$}").ok()
            };
        }
        text.push('\n');
    }
    text
}

/// Every change of the number of replicas, as CSV.
pub(super) fn orders(summaries: &[Summary]) -> String {
    let mut text = String::from("policy,seed,second,before,after,reason\n");
    for summary in summaries {
        for (seed, run) in (1..).zip(&summary.runs) {
            for order in &run.orders {
                let name = summary.policy.as_str();
                writeln!(text, "{name},{seed},{:.1},{},{},{}", order.at, order.before, order.after, order.why).ok();
            }
        }
    }
    text
}

/// One JSON object.
pub(super) fn json(scenario: &Scenario, totals: &Totals, summaries: &[Summary]) -> String {
    let policies: Vec<Value> = summaries.iter().map(policy_json).collect();
    let whole = json!({
        "load": totals.load,
        "seeds": totals.seeds,
        "requests": totals.requests,
        "durationSeconds": totals.end,
        "cut": totals.cut,
        "events": totals.events,
        "eventsPerSecond": totals.events_per_second,
        "sloWaitSeconds": scenario.slo_wait.as_secs_f64(),
        "targetQueueTimeSeconds": scenario.target_queue_time.as_secs_f64(),
        "capacityPerReplica": scenario.capacity(),
        "policies": policies,
    });
    format!("{whole:#}\n")
}

fn policy_json(summary: &Summary) -> Value {
    let mean = |figure: fn(&RunReport) -> f64| summary.estimate(figure).mean;
    let half = |figure: fn(&RunReport) -> f64| summary.estimate(figure).half_width;
    json!({
        "name": summary.policy.as_str(),
        "target": summary.target,
        "sloShare": mean(|run| run.slo_share),
        "gpuHours": mean(|run| run.gpu_hours),
        "cost": mean(|run| run.cost),
        "waitP50Seconds": mean(|run| run.wait_p50),
        "waitP95Seconds": mean(|run| run.wait_p95),
        "waitP99Seconds": mean(|run| run.wait_p99),
        "actions": mean(|run| run.actions),
        "reversals": mean(|run| run.reversals),
        "refused": mean(|run| run.refused),
        "underProvisionReplicaSeconds": mean(|run| run.under_provision),
        "overProvisionReplicaSeconds": mean(|run| run.over_provision),
        "firstDecisionSeconds": summary.optional(|run| run.step.first_decision),
        "ninetyPercentSeconds": summary.optional(|run| run.step.ninety_percent),
        "interval95": {
            "sloShare": half(|run| run.slo_share),
            "gpuHours": half(|run| run.gpu_hours),
            "waitP95Seconds": half(|run| run.wait_p95),
        },
    })
}
