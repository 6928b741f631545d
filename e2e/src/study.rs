//! The study's step 8 again: 600 requests by 30 users at servers that compute on a limited processor, from 2 to at most 6
//! replicas; once for each contender, one after the other.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use serde::Serialize;

use crate::contender::Contender;
use crate::timeline::{Timeline, Watch};
use crate::{Look, Outcome, Workspace, closed_loop, until};

/// What the study sent.
pub const REQUESTS: usize = 600;
/// By how many users at once.
pub const USERS: usize = 30;
/// How long the replicas may take to go, after the window.
const BACK: Duration = Duration::from_mins(4);
/// The window where none is given, in both.
const DEFAULT_WINDOW: Duration = Duration::from_mins(5);

/// One request. Times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// Since the start.
    pub sent: f64,
    /// Until the answer.
    pub latency: f64,
    /// What went wrong, if anything.
    pub error: Option<String>,
}

/// What was told of a decision.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// Seconds since the start.
    pub at: f64,
    /// The reason and the note.
    pub text: String,
}

/// One contender's run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Who.
    pub name: String,
    /// Replicas over time, until they were back.
    pub timeline: Timeline,
    /// Every request, by when it was sent.
    pub requests: Vec<Request>,
    /// The Events of whoever decides.
    pub events: Vec<Told>,
    /// When the last was answered, in seconds since the start.
    pub load_seconds: f64,
    /// The least number of replicas.
    pub least: i32,
}

impl Run {
    /// A quantile of the latencies of answered requests, in seconds.
    pub fn latency(&self, quantile: f64) -> Option<f64> {
        let latencies: Vec<_> = self
            .requests
            .iter()
            .filter(|request| request.error.is_none())
            .map(|request| Some(request.latency))
            .collect();
        crate::steps::quantile(&latencies, quantile)
    }

    /// Requests that were not answered.
    pub fn failed(&self) -> usize {
        self.requests.iter().filter(|request| request.error.is_some()).count()
    }

    /// From the end of the load until the least number was left, in seconds.
    pub fn back(&self) -> Option<f64> {
        self.timeline.back(self.load_seconds, self.least).map(|at| at - self.load_seconds)
    }
}

/// Runs it for one contender, in a workspace of its own.
///
/// # Errors
/// It did not start, or did not come back.
pub async fn run(workspace: &Workspace, contender: &Contender, name: &str) -> Outcome<Run> {
    let target = contender.start(workspace).await?;
    let (started, clock) = (Instant::now(), Timestamp::now());
    let watch = Watch::start(workspace, contender.name, contender.autoscaler(), started);
    let report = closed_loop::run(&target, USERS, REQUESTS).await?;
    let load_seconds = started.elapsed().as_secs_f64();
    let least = contender.replicas.0;
    let limit = contender.window.unwrap_or(DEFAULT_WINDOW) + BACK;
    until(&format!("{name}: back at {least}"), limit, async || {
        let deployment = workspace.deployment(contender.name, "cpu").await?;
        let ordered = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let there = deployment.status.and_then(|status| status.replicas).unwrap_or(0);
        let back = ordered == least && there == least;
        Ok(if back { Look::Break(()) } else { Look::Continue(format!("{ordered} ordered, {there} there")) })
    })
    .await?;
    let timeline = watch.end().await?;
    let events = told(workspace, contender, clock).await?;
    let requests = report.answers.into_iter().map(|answer| Request {
        sent: answer.due.as_secs_f64(),
        latency: answer.latency.as_secs_f64(),
        error: answer.outcome.err(),
    });
    Ok(Run { name: name.to_owned(), timeline, requests: requests.collect(), events, load_seconds, least })
}

/// The Events of the `HorizontalPodAutoscaler` or of the `InferenceService`, from the start on.
async fn told(workspace: &Workspace, contender: &Contender, start: Timestamp) -> Outcome<Vec<Told>> {
    let kind = if contender.autoscaler().is_some() { "HorizontalPodAutoscaler" } else { "InferenceService" };
    let mut told = Vec::new();
    for event in workspace.api::<Event>().list(&ListParams::default()).await? {
        let is_of_it = event.regarding.and_then(|regarding| regarding.kind).is_some_and(|of| of == kind);
        let time = event.event_time.map(|time| time.0);
        let time =
            time.or_else(|| event.deprecated_first_timestamp.or(event.metadata.creation_timestamp).map(|time| time.0));
        let Some(at) = time.map(|time| time.duration_since(start).as_secs_f64()).filter(|_| is_of_it) else { continue };
        // Whole seconds, where the one who tells it has no finer ones.
        if at > -1.0 {
            told.push(Told {
                at,
                text: format!("{}: {}", event.reason.unwrap_or_default(), event.note.unwrap_or_default()),
            });
        }
    }
    told.sort_by(|one, other| one.at.total_cmp(&other.at));
    Ok(told)
}
