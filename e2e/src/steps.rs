//! Steps of load at one contender: how long until it decides, until all that it ordered answers, until it is back; and what
//! became of the requests meanwhile.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::contender::Contender;
use crate::load::{Arrivals, Connections, Load, Plan, Target};
use crate::table::Table;
use crate::timeline::{Timeline, Watch};
use crate::{Look, Outcome, Workspace, until};

/// So long after the last change nothing more is expected of a scaler: longer than the `HorizontalPodAutoscaler` takes to
/// look again (15 s), and than Flotilla does (2 s).
const SETTLED_CPU: Duration = Duration::from_secs(25);
const SETTLED_FLOTILLA: Duration = Duration::from_secs(10);
/// How long a contender may take to come to that, and to be back at its least number afterwards.
const LIMIT: Duration = Duration::from_mins(5);
/// Before the first replica goes, requests are counted for the scale-down from this long on.
const BEFORE: f64 = 2.0;
/// Requests at once, at most.
const AT_ONCE: usize = 3_000;

/// The load of a step.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Requests per second all the time, so that a scale-down has something to fail.
    pub base: f64,
    /// Requests per second besides, in the step.
    pub step: f64,
}

/// What came of a step. Times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// From the step to the first order of more.
    pub first_decision: Option<f64>,
    /// From the step until all that was ordered answered.
    pub full: Option<f64>,
    /// The most that was ordered.
    pub most: i32,
    /// From the end of the step until the least number was left.
    pub back: Option<f64>,
    /// Requests of the step and of the base.
    pub requests: usize,
    /// Of them failed before the scale-down: there were too few replicas.
    pub failed_before: usize,
    /// Of the base's failed while replicas went, and after.
    pub failed_at_scale_down: usize,
    /// The highest CPU that the `HorizontalPodAutoscaler` saw, in percent of the request.
    pub cpu_percent: Option<i32>,
}

/// Gives a contender a step of load and waits until it is back.
///
/// # Errors
/// It never decided, or did not come back.
pub async fn step(workspace: &Workspace, contender: &Contender, target: &Target, rates: Rates) -> Outcome<Step> {
    contender.rested(workspace).await?;
    let lasting = LIMIT * 2;
    let arrivals = Arrivals::Poisson;
    let base = Plan { rate: rates.base, connections: Connections::Fresh(AT_ONCE), lasting, arrivals };
    let more = Plan { rate: rates.step, connections: Connections::AtOnce(AT_ONCE), lasting, arrivals };
    let base = Load::start(target, base)?;
    let load = Load::start(target, more)?;
    let started = load.started;
    let watch = Watch::start(workspace, contender.name, contender.autoscaler(), started);
    let least = contender.replicas.0;
    settled(workspace, contender).await?;
    let ended = started.elapsed().as_secs_f64();
    let more = load.stop().await?;
    workspace.replicas(contender.name, least, LIMIT).await?;
    let base = base.stop().await?;
    let timeline = watch.end().await?;
    let going = timeline.decisions().into_iter().find(|(at, from, to)| *at > ended && to < from);
    let going = going.map_or(f64::INFINITY, |(at, ..)| at - BEFORE);
    let failed = |answers: &[crate::load::Answer], before: bool| {
        let failed = answers.iter().filter(|answer| answer.outcome.is_err());
        failed.filter(|answer| (answer.due.as_secs_f64() < going) == before).count()
    };
    Ok(Step {
        first_decision: timeline.first_increase(),
        full: timeline.full(),
        most: timeline.most(),
        back: timeline.back(ended, least).map(|at| at - ended),
        requests: base.answers.len() + more.answers.len(),
        failed_before: failed(&base.answers, true) + failed(&more.answers, true),
        failed_at_scale_down: failed(&base.answers, false),
        cpu_percent: busiest(&timeline),
    })
}

/// Waits until more than the least number is ordered, all of it answers, and nothing has changed for a while.
async fn settled(workspace: &Workspace, contender: &Contender) -> Outcome {
    let mut last = (0, Instant::now());
    let lasting = if contender.autoscaler().is_some() { SETTLED_CPU } else { SETTLED_FLOTILLA };
    until(&format!("{}: what is ordered answers and stays", contender.name), LIMIT, async || {
        let deployment = workspace.deployment(contender.name, "cpu").await?;
        let ordered = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        if ordered != last.0 || ready != ordered {
            last = (ordered, Instant::now());
        }
        let stays = ordered > contender.replicas.0 && last.1.elapsed() >= lasting;
        Ok(if stays { Look::Break(()) } else { Look::Continue(format!("{ready} of {ordered} answer")) })
    })
    .await?;
    Ok(())
}

/// The highest CPU that was seen.
pub fn busiest(timeline: &Timeline) -> Option<i32> {
    timeline.points.iter().filter_map(|point| point.cpu_percent).max()
}

/// Prints the steps of a contender, a row each.
pub fn print(title: &str, steps: &[Step]) {
    let head =
        ["step", "first decision", "all answer", "most", "back", "requests", "failed before", "at scale-down", "CPU"];
    let mut table = Table::new(title, &head);
    for (index, step) in steps.iter().enumerate() {
        table.row([
            (index + 1).to_string(),
            seconds(step.first_decision),
            seconds(step.full),
            step.most.to_string(),
            seconds(step.back),
            step.requests.to_string(),
            step.failed_before.to_string(),
            step.failed_at_scale_down.to_string(),
            step.cpu_percent.map_or_else(String::new, |cpu| format!("{cpu} %")),
        ]);
    }
    table.print();
}

/// A time in seconds for people.
pub fn seconds(time: Option<f64>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{time:.1} s"))
}

/// The nearest-rank quantile; a missing value counts as longer than any other.
pub fn quantile(values: &[Option<f64>], quantile: f64) -> Option<f64> {
    let mut known: Vec<f64> = values.iter().flatten().copied().collect();
    known.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let rank = ((values.len() as f64 * quantile).ceil() as usize).max(1);
    known.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_nearest_rank_and_never_is_the_longest() {
        let twenty: Vec<_> = (1..=20).map(|value| Some(f64::from(value))).collect();
        assert_eq!(
            (quantile(&twenty, 0.5), quantile(&twenty, 0.95), quantile(&twenty, 1.0)),
            (Some(10.0), Some(19.0), Some(20.0))
        );
        assert_eq!((quantile(&[None, Some(1.0)], 0.5), quantile(&[None, Some(1.0)], 1.0)), (Some(1.0), None));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
