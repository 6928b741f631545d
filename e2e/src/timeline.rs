//! How a service's replicas follow a load: looked at four times a second, as the API server shows them.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::{Outcome, Workspace};

const INTERVAL: Duration = Duration::from_millis(250);
/// Looks that are kept: a quarter of an hour.
const MOST: usize = 3_600;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Seconds since the start.
    pub at: f64,
    /// Replicas that the Deployment asks for.
    pub ordered: i32,
    /// Replicas that answer.
    pub ready: i32,
    /// CPU as the `HorizontalPodAutoscaler` shows it, in percent of what is requested.
    pub cpu_percent: Option<i32>,
}

/// Replicas over time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Timeline {
    /// In the order of time.
    pub points: Vec<Point>,
}

/// A timeline that is being written.
pub struct Watch {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Timeline>,
}

impl Watch {
    /// Begins; `autoscaler` is the `HorizontalPodAutoscaler` of the service, where it has one.
    pub fn start(workspace: &Workspace, service: &str, autoscaler: Option<&str>, started: Instant) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let (workspace, service) = (workspace.clone(), service.to_owned());
        let autoscaler = autoscaler.map(str::to_owned);
        let task = tokio::spawn(async move {
            let mut timeline = Timeline::default();
            let mut interval = tokio::time::interval(INTERVAL);
            let mut is_last = false;
            while !is_last && timeline.points.len() < MOST {
                tokio::select! {
                    // What it was stopped for is seen, too.
                    _ = &mut stopped => is_last = true,
                    _ = interval.tick() => {}
                }
                // A look that fails is left out: the next one is a moment away.
                timeline.points.extend(look(&workspace, &service, autoscaler.as_deref(), started).await.ok());
            }
            timeline
        });
        Self { stop, task }
    }

    /// Ends.
    ///
    /// # Errors
    /// Nothing was seen.
    pub async fn end(self) -> Outcome<Timeline> {
        // Where the other end is gone, the timeline is full.
        let _ = self.stop.send(());
        let timeline = self.task.await?;
        ensure!(!timeline.points.is_empty(), "the API server never showed the Deployment");
        Ok(timeline)
    }
}

async fn look(workspace: &Workspace, service: &str, autoscaler: Option<&str>, started: Instant) -> Outcome<Point> {
    let deployment: Deployment = workspace.deployment(service, "cpu").await?;
    let cpu_percent = match autoscaler {
        Some(name) => cpu_percent(&workspace.api::<HorizontalPodAutoscaler>().get(name).await?),
        None => None,
    };
    Ok(Point {
        at: started.elapsed().as_secs_f64(),
        ordered: deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1),
        ready: deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0),
        cpu_percent,
    })
}

/// The CPU that a `HorizontalPodAutoscaler` decides on, in percent of what is requested.
pub fn cpu_percent(autoscaler: &HorizontalPodAutoscaler) -> Option<i32> {
    let metrics = autoscaler.status.as_ref()?.current_metrics.as_ref()?;
    metrics.iter().find_map(|metric| metric.resource.as_ref()?.current.average_utilization)
}

impl Timeline {
    /// The changes of what is ordered: when, from, to.
    pub fn decisions(&self) -> Vec<(f64, i32, i32)> {
        let pairs = self.points.windows(2).filter_map(|pair| <&[Point; 2]>::try_from(pair).ok());
        pairs
            .filter(|[before, after]| before.ordered != after.ordered)
            .map(|[before, after]| (after.at, before.ordered, after.ordered))
            .collect()
    }

    /// When more were ordered for the first time.
    pub fn first_increase(&self) -> Option<f64> {
        self.decisions().into_iter().find(|(_, from, to)| to > from).map(|(at, ..)| at)
    }

    /// The most that were ordered.
    pub fn most(&self) -> i32 {
        self.points.iter().map(|point| point.ordered).max().unwrap_or(0)
    }

    /// When as many answered as were ever ordered, if more ever were.
    pub fn full(&self) -> Option<f64> {
        self.first_increase()?;
        let most = self.most();
        self.points.iter().find(|point| point.ready >= most).map(|point| point.at)
    }

    /// When, after `from` and after an order of more, no more than `least` were ordered and answered any longer.
    pub fn back(&self, from: f64, least: i32) -> Option<f64> {
        self.first_increase()?;
        let later = self.points.iter().filter(|point| point.at >= from);
        later.filter(|point| point.ordered <= least && point.ready <= least).map(|point| point.at).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_says_when_what_was_decided_and_when_it_was_there() {
        let seen = [(0.0, 1, 1), (1.0, 1, 1), (2.0, 2, 1), (3.0, 4, 2), (4.0, 4, 4), (9.0, 2, 4), (10.0, 1, 1)];
        let points = seen.map(|(at, ordered, ready)| Point { at, ordered, ready, cpu_percent: None }).to_vec();
        let timeline = Timeline { points };
        assert_eq!(timeline.decisions(), [(2.0, 1, 2), (3.0, 2, 4), (9.0, 4, 2), (10.0, 2, 1)]);
        assert_eq!((timeline.first_increase(), timeline.most(), timeline.full()), (Some(2.0), 4, Some(4.0)));
        assert_eq!((timeline.back(0.5, 1), timeline.back(5.0, 1)), (Some(1.0), Some(10.0)));
    }

    #[test]
    fn where_nothing_happens_nothing_is_said() {
        let still = Point { at: 0.0, ordered: 1, ready: 1, cpu_percent: Some(3) };
        let timeline = Timeline { points: vec![still, Point { at: 1.0, ..still }] };
        assert_eq!((timeline.decisions(), timeline.first_increase()), (vec![], None));
        assert_eq!((timeline.full(), timeline.back(0.0, 1)), (None, None), "there was nowhere to come back from");
    }
}
