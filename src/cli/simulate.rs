//! `flotilla simulate`: one load, several policies, several seeds.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::load::LoadArguments;
use super::output::{Summary, Totals};
use super::scenario::ScenarioArguments;
use super::{CliError, jobs, output, plot, print};
use crate::scaling::PolicyError;
use crate::simulate::{Arrivals, MOST_REQUESTS, PolicyKind, RunReport, Scenario};

/// Most seeds of one call.
const MOST_SEEDS: u64 = 1000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    scenario: ScenarioArguments,
    /// Which policies to compare
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = policy,
        default_value = "flotilla,hpa-cpu,hpa-queue-time,hpa-rate,kpa,keda,ray-serve,oracle,static-peak",
        value_name = "NAMES"
    )]
    policies: Vec<PolicyKind>,
    /// Another target for a policy, such as hpa-rate=120; may be given several times
    #[arg(long = "target", value_parser = target, value_name = "POLICY=VALUE")]
    targets: Vec<(PolicyKind, f64)>,
    /// Runs of each policy; each seed draws other arrivals and start-up times, the same for all policies
    #[arg(long, default_value_t = 3, value_name = "NUMBER")]
    seeds: u64,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Writes a plot of GPU-hours against the share within the objective
    #[arg(long, value_name = "FILE.svg")]
    pareto_svg: Option<PathBuf>,
    /// Writes a plot of the load and each policy's replicas over time, of the first seed
    #[arg(long, value_name = "FILE.svg")]
    timeline_svg: Option<PathBuf>,
    /// Writes every change of the number of replicas, with its reason
    #[arg(long, value_name = "FILE.csv")]
    orders_csv: Option<PathBuf>,
}

/// A policy's name.
pub(super) fn policy(name: &str) -> Result<PolicyKind, String> {
    PolicyKind::ALL.into_iter().find(|policy| policy.as_str() == name).ok_or_else(|| {
        let known: Vec<_> = PolicyKind::ALL.iter().map(|policy| policy.as_str()).collect();
        format!("`{name}` is no policy; there are {}", known.join(", "))
    })
}

fn target(text: &str) -> Result<(PolicyKind, f64), String> {
    let (name, value) = text.split_once('=').ok_or("write POLICY=VALUE, such as hpa-rate=120")?;
    let policy = policy(name)?;
    let value = value.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
    match value {
        Some(value) if policy.is_peer() => Ok((policy, value)),
        Some(_) => Err(format!("{name} has no such target; --target-queue-time-ms is Flotilla's")),
        None => Err(format!("`{text}`: the target must be a number above 0")),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    if !(1..=MOST_SEEDS).contains(&arguments.seeds) {
        let message = format!("--seeds is {}; give a number from 1 to {MOST_SEEDS}", arguments.seeds);
        return Err(CliError::Scenario(message));
    }
    let (name, load) = arguments.load.load()?;
    let drawn: Vec<(u64, Arrivals)> = (1..=arguments.seeds.min(2)).map(|seed| (seed, load.draw(seed))).collect();
    let first = &drawn[0].1;
    let scenario = arguments.scenario.scenario(&first.rate)?;
    if first.cut {
        let note = format!(
            "note: a run holds at most {MOST_REQUESTS} requests, so the load is cut after {:.0} s; a smaller \
             --rate-scale or --peak-rate plays all of it",
            first.end
        );
        writeln!(std::io::stderr(), "{note}").ok();
    }
    let targets: BTreeMap<&str, f64> =
        arguments.targets.iter().map(|(policy, value)| (policy.as_str(), *value)).collect();
    let mut questions = Vec::new();
    for seed in 1..=arguments.seeds {
        questions
            .extend(arguments.policies.iter().map(|policy| (seed, *policy, targets.get(policy.as_str()).copied())));
    }
    let began = Instant::now();
    let answers: Vec<Result<RunReport, PolicyError>> = jobs::all(&questions, "simulating", |(seed, policy, target)| {
        crate::simulate::run(&scenario, &load.draw(*seed), *policy, *target, *seed)
    });
    let took = began.elapsed().as_secs_f64();
    let mut runs: Vec<RunReport> = Vec::new();
    for answer in answers {
        runs.push(answer?);
    }
    let summaries = summaries(arguments, &scenario, &targets, &questions, &runs);
    let events: f64 = runs.iter().map(|run| run.events).sum();
    let totals = Totals {
        load: name,
        seeds: arguments.seeds,
        requests: runs.first().map_or(0.0, |run| run.requests),
        end: first.end,
        cut: first.cut,
        events,
        events_per_second: events / took.max(1e-9),
    };
    if let Some(path) = &arguments.pareto_svg {
        super::write_file(
            path,
            &plot::pareto(&totals.load, &summaries).map_err(|error| super::cannot_write(path, &*error))?,
        )?;
    }
    if let Some(path) = &arguments.timeline_svg {
        let svg = plot::timeline(&totals.load, &summaries).map_err(|error| super::cannot_write(path, &*error))?;
        super::write_file(path, &svg)?;
    }
    if let Some(path) = &arguments.orders_csv {
        super::write_file(path, &output::orders(&summaries))?;
    }
    print(&if arguments.json {
        output::json(&scenario, &totals, &summaries)
    } else {
        output::table(&scenario, &totals, &summaries)
    })
}

fn summaries(
    arguments: &Arguments,
    scenario: &Scenario,
    targets: &BTreeMap<&str, f64>,
    questions: &[(u64, PolicyKind, Option<f64>)],
    runs: &[RunReport],
) -> Vec<Summary> {
    let of = |policy: &PolicyKind| {
        let its = questions.iter().zip(runs).filter(|((_, other, _), _)| other == policy).map(|(_, run)| run.clone());
        let target = targets.get(policy.as_str()).copied().unwrap_or_else(|| policy.default_target(scenario));
        Summary { policy: *policy, target: policy.is_peer().then_some(target), runs: its.collect() }
    };
    arguments.policies.iter().map(of).collect()
}
