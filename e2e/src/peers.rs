//! Steps of load at Flotilla and at a `HorizontalPodAutoscaler` on CPU, at the same time on the same node.
//!
//! The timer device takes no CPU, as a GPU does not: there the `HorizontalPodAutoscaler` never moves, which is a finding.
//! So that it has a fair chance, its own steps are at servers whose work is on the processor, within a limit.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde::Serialize;

use crate::contender::{Contender, Device, Scaler, Share};
use crate::load::{Arrivals, Connections, Load, Plan};
use crate::steps::{Rates, Step, busiest, print, quantile, seconds, step};
use crate::table::Table;
use crate::timeline::{Watch, cpu_percent};
use crate::{Look, Outcome, Workspace, until, with_namespace};

/// For how long fewer replicas must do, in both.
pub const WINDOW: Duration = Duration::from_secs(30);
/// Percent of the requested CPU at which the `HorizontalPodAutoscaler` holds the fleet.
const ON_CPU: Scaler = Scaler::Cpu { target: 70 };
/// What the timer device takes is 188 images a second; within Flotilla's target, a good half of it.
const TIMER: Rates = Rates { base: 10.0, step: 300.0 };
/// What a server of the processor has; it answers some ten photos a second with that.
const SHARE: Share = Share { requested: 100, limit: 200 };
const PROCESSOR: Rates = Rates { base: 1.0, step: 20.0 };
/// How long a HorizontalPodAutoscaler sees the timer device's load: eight of its sync periods.
const UNMOVED: Duration = Duration::from_mins(2);

/// The results.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Flotilla's steps, at the timer device.
    pub flotilla: Vec<Step>,
    /// The steps of the `HorizontalPodAutoscaler`, at the processor.
    pub cpu: Vec<Step>,
    /// What the `HorizontalPodAutoscaler` made of Flotilla's load at the timer device.
    pub unmoved: Unmoved,
}

/// A `HorizontalPodAutoscaler` in front of a device that takes no CPU.
#[derive(Debug, Serialize)]
pub struct Unmoved {
    /// The most that it ordered.
    pub most: i32,
    /// The highest CPU that it saw, in percent of the request.
    pub cpu_percent: Option<i32>,
    /// Requests that were sent.
    pub requests: usize,
    /// Requests that failed, or were turned away.
    pub failed: usize,
    /// Seconds that those took which were answered: the median.
    pub latency: Option<f64>,
}

/// Measures; each contender goes on to its next step once it is back, whatever the other does.
///
/// # Errors
/// A contender did not do what it should in time.
pub async fn measure(flotilla_steps: usize, cpu_steps: usize) -> Outcome<Measured> {
    let mut measured = None;
    with_namespace(async |workspace| {
        let unmoved = unmoved(workspace).await?;
        let (flotilla, cpu) = tokio::try_join!(
            steps(workspace, contender("flotilla", Scaler::Flotilla, Device::Timer), TIMER, flotilla_steps),
            steps(workspace, contender("cpu", ON_CPU, Device::Processor(SHARE)), PROCESSOR, cpu_steps),
        )?;
        measured = Some(Measured { flotilla, cpu, unmoved });
        Ok(())
    })
    .await?;
    measured.ok_or_else(|| "there is no result".into())
}

fn contender(name: &'static str, scaler: Scaler, device: Device) -> Contender {
    Contender { name, scaler, device, replicas: (1, 5), window: Some(WINDOW) }
}

async fn steps(workspace: &Workspace, contender: Contender, rates: Rates, count: usize) -> Outcome<Vec<Step>> {
    let target = contender.start(workspace).await?;
    let mut steps = Vec::with_capacity(count);
    for number in 1..=count {
        let step = step(workspace, &contender, &target, rates).await;
        steps.push(step.map_err(|error| format!("step {number} of {}: {error}", contender.name))?);
    }
    Ok(steps)
}

/// The load of Flotilla's steps at a timer device that a `HorizontalPodAutoscaler` on CPU watches.
async fn unmoved(workspace: &Workspace) -> Outcome<Unmoved> {
    let contender = contender("unmoved", ON_CPU, Device::Timer);
    let target = contender.start(workspace).await?;
    let plan = Plan {
        rate: TIMER.step,
        connections: Connections::AtOnce(3_000),
        lasting: UNMOVED * 3,
        arrivals: Arrivals::Poisson,
    };
    let load = Load::start(&target, plan)?;
    let watch = Watch::start(workspace, contender.name, contender.autoscaler(), load.started);
    let autoscalers = workspace.api::<HorizontalPodAutoscaler>();
    until("the load has lasted, and the HorizontalPodAutoscaler has figures", UNMOVED * 2, async || {
        let seen = cpu_percent(&autoscalers.get(contender.name).await?);
        let done = load.started.elapsed() >= UNMOVED && seen.is_some();
        Ok(if done { Look::Break(()) } else { Look::Continue(format!("CPU {seen:?} %")) })
    })
    .await?;
    let report = load.stop().await?;
    let timeline = watch.end().await?;
    workspace.delete(contender.name).await?;
    let latencies: Vec<_> = report
        .answers
        .iter()
        .filter(|answer| answer.outcome.is_ok())
        .map(|answer| Some(answer.latency.as_secs_f64()))
        .collect();
    Ok(Unmoved {
        most: timeline.most(),
        cpu_percent: busiest(&timeline),
        requests: report.answers.len(),
        failed: report.failures().len(),
        latency: quantile(&latencies, 0.5),
    })
}

impl Measured {
    /// Prints all of it.
    pub fn print(&self) {
        print(&format!("Flotilla, timer device, steps of {}/s", TIMER.step), &self.flotilla);
        print(&format!("HorizontalPodAutoscaler on CPU, processor, steps of {}/s", PROCESSOR.step), &self.cpu);
        let mut table =
            Table::new("Over the steps", &["", "first decision: median", "p95", "most", "all answer: median", "most"]);
        for (name, steps) in [("Flotilla", &self.flotilla), ("HorizontalPodAutoscaler", &self.cpu)] {
            let decided: Vec<_> = steps.iter().map(|step| step.first_decision).collect();
            let full: Vec<_> = steps.iter().map(|step| step.full).collect();
            let cells = [(&decided, 0.5), (&decided, 0.95), (&decided, 1.0), (&full, 0.5), (&full, 1.0)];
            let cells = cells.map(|(values, at)| seconds(quantile(values, at)));
            table.row([name.to_owned()].into_iter().chain(cells));
        }
        table.print();
        let Unmoved { most, cpu_percent, requests, failed, latency } = &self.unmoved;
        let title =
            format!("HorizontalPodAutoscaler on CPU, timer device, {}/s for {} s", TIMER.step, UNMOVED.as_secs());
        let mut table = Table::new(title, &["replicas, at most", "CPU, at most", "requests", "failed", "p50"]);
        table.row([
            most.to_string(),
            cpu_percent.map_or_else(String::new, |cpu| format!("{cpu} %")),
            requests.to_string(),
            failed.to_string(),
            seconds(*latency),
        ]);
        table.print();
    }
}
