//! `flotilla sweep`: every other autoscaler with its best target, on every load.
//!
//! Flotilla runs with its defaults. Each peer runs over a grid of targets, which is then refined until its GPU-hours are
//! as near to Flotilla's as its target allows, so that equal cost is compared with equal cost.

mod cases;
mod table;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use self::cases::{Case, cases, grid};
use super::{CliError, jobs};
use crate::scaling::PolicyError;
use crate::simulate::{Estimate, PolicyKind, RunReport};

/// Rounds in which targets are refined.
const ROUNDS: u32 = 4;
/// GPU-hours are equal within this part.
const EQUAL_HOURS: f64 = 0.02;
/// Points of share from which on a peer is better.
const BETTER_POINTS: f64 = 0.5;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// CSV files of arrivals; the generated loads are always played
    #[arg(long = "trace", value_name = "FILE")]
    traces: Vec<PathBuf>,
    /// Median start-up times
    #[arg(long, value_delimiter = ',', default_value = "20,90", value_name = "SECONDS")]
    startup_seconds: Vec<f64>,
    /// Runs of each setting
    #[arg(long, default_value_t = 5, value_name = "NUMBER")]
    seeds: u64,
    /// Where the table goes, as Markdown
    #[arg(long, value_name = "FILE.md")]
    markdown: PathBuf,
    /// Where every setting that was tried goes
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,
}

/// One setting of one policy in one case.
struct Tried {
    policy: PolicyKind,
    target: f64,
    runs: Vec<RunReport>,
}

impl Tried {
    fn hours(&self) -> f64 {
        Estimate::over(&self.runs, |run| run.gpu_hours).mean
    }

    fn share(&self) -> Estimate {
        Estimate::over(&self.runs, |run| run.slo_share * 100.0)
    }

    /// How many points more of share than another, seed by seed.
    fn better_than(&self, other: &Self) -> Estimate {
        Estimate::of(
            self.runs.iter().zip(&other.runs).map(|(mine, theirs)| (mine.slo_share - theirs.slo_share) * 100.0),
        )
    }

    fn costs_as_much_as(&self, other: &Self) -> bool {
        (self.hours() / other.hours() - 1.0).abs() <= EQUAL_HOURS
    }

    /// Whether it is better at the same cost or less, by more than chance.
    fn beats(&self, other: &Self) -> bool {
        let better = self.better_than(other);
        self.hours() <= other.hours() * (1.0 + EQUAL_HOURS)
            && better.mean > BETTER_POINTS
            && better.mean - better.half_width > 0.0
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let mut results = Results::default();
    let began = Instant::now();
    for case in &cases(&arguments.traces, &arguments.startup_seconds)? {
        results.add(case, &try_all(case, arguments.seeds)?);
        // After each case, so that a sweep that is ended early was not in vain.
        super::write_file(&arguments.markdown, &results.text(arguments.seeds, began.elapsed().as_secs_f64()))?;
        if let Some(path) = &arguments.csv {
            super::write_file(path, &format!("{}{}", table::CSV_HEADER, results.csv))?;
        }
    }
    Ok(())
}

/// What is known after some of the cases.
#[derive(Default)]
struct Results {
    markdown: String,
    csv: String,
    losses: Vec<String>,
    events: f64,
}

impl Results {
    fn add(&mut self, case: &Case, tried: &[Tried]) {
        self.events += tried.iter().flat_map(|tried| &tried.runs).map(|run| run.events).sum::<f64>();
        table::case(&mut self.markdown, case, tried, &mut self.losses);
        for tried in tried {
            table::csv_row(&mut self.csv, case, tried);
        }
    }

    fn text(&self, seeds: u64, seconds: f64) -> String {
        let (millions, speed) = (self.events / 1e6, self.events / seconds.max(1e-9) / 1e6);
        let mut text = format!(
            "{seeds} seeds a setting; {seconds:.0} s in all, {millions:.0} million events, {speed:.2} million a second.\n\n\
             ## Where a peer is better\n\n"
        );
        if self.losses.is_empty() {
            text.push_str("Nowhere, by more than half a point of share, at GPU-hours within 2 % or fewer.\n");
        }
        text.push_str(&self.losses.concat());
        write!(text, "\n## The whole table\n{}", self.markdown).ok();
        text
    }
}

fn try_all(case: &Case, seeds: u64) -> Result<Vec<Tried>, CliError> {
    let name = format!("{} at {:.0} s", case.name, case.startup);
    let first = PolicyKind::ALL
        .iter()
        .flat_map(|policy| grid(*policy, &case.scenario).into_iter().map(|target| (*policy, target)));
    let mut tried = try_these(case, seeds, &first.collect::<Vec<_>>(), &name)?;
    for _ in 0..ROUNDS {
        let hours = tried[0].hours();
        let peers = PolicyKind::ALL.iter().filter(|policy| policy.is_peer());
        let next: Vec<_> = peers.filter_map(|policy| Some((*policy, between(&tried, *policy, hours)?))).collect();
        tried.extend(try_these(case, seeds, &next, &name)?);
    }
    Ok(tried)
}

/// The target between the two whose GPU-hours are next above and next below the wanted ones.
fn between(tried: &[Tried], policy: PolicyKind, hours: f64) -> Option<f64> {
    let mut its: Vec<(f64, f64)> =
        tried.iter().filter(|tried| tried.policy == policy).map(|tried| (tried.target, tried.hours())).collect();
    its.sort_by(|one, other| one.0.total_cmp(&other.0));
    let crossing =
        its.windows(2).filter(|pair| (pair[0].1 - hours) * (pair[1].1 - hours) <= 0.0 && pair[1].0 > pair[0].0);
    crossing
        .max_by(|one, other| (one[1].0 / one[0].0).total_cmp(&(other[1].0 / other[0].0)))
        .map(|pair| (pair[0].0 * pair[1].0).sqrt())
}

fn try_these(case: &Case, seeds: u64, settings: &[(PolicyKind, f64)], name: &str) -> Result<Vec<Tried>, CliError> {
    let drawn: Vec<_> = (1..=seeds).map(|seed| (seed, case.load.draw(seed))).collect();
    let questions: Vec<_> =
        settings.iter().flat_map(|(policy, target)| drawn.iter().map(move |drawn| (*policy, *target, drawn))).collect();
    let answers = jobs::all(&questions, name, |(policy, target, (seed, arrivals))| {
        crate::simulate::run(&case.scenario, arrivals, *policy, policy.is_peer().then_some(*target), *seed)
    });
    let mut runs = answers.into_iter().map(|run| run.map(|run| RunReport { timeline: Vec::new(), ..run }));
    let mut tried = Vec::new();
    for (policy, target) in settings {
        let its: Result<Vec<RunReport>, PolicyError> = runs.by_ref().take(drawn.len()).collect();
        tried.push(Tried { policy: *policy, target: *target, runs: its? });
    }
    Ok(tried)
}
