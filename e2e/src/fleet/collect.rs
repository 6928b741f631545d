//! The collector and the law alone, in this process: what scraping and deciding take without Kubernetes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use flotilla::scaling::{self, Observation, Policy, PolicySettings, Replica, State};
use flotilla::scrape::{Clock, Collector, CollectorSettings, ScrapeMetrics, ServiceKey, Target};
use futures::StreamExt as _;
use prometheus::Registry;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{PORT, address, server};
use crate::process::{memory, processor_time};
use crate::{Look, Outcome, until};

/// The results.
#[derive(Debug, Serialize)]
pub struct Collected {
    /// Pods that were scraped.
    pub pods: usize,
    /// Seconds between two scrapes of one.
    pub interval_seconds: u64,
    /// For how long.
    pub seconds: f64,
    /// Pages that the fleet gave.
    pub pages: u64,
    /// The share of scrapes that came an interval after the one before, within a tenth of it.
    pub on_time: f64,
    /// New connections in that time.
    pub connections: u64,
    /// Decisions in that time.
    pub decisions: u64,
    /// Microseconds of processor time for each page, its share of the decisions included.
    pub microseconds_a_page: f64,
    /// Of them in the kernel.
    pub microseconds_in_kernel: f64,
    /// Microseconds of the fleet's process for each page.
    pub fleet_microseconds_a_page: f64,
    /// MiB resident before the first scrape, at the end, and at most.
    pub resident: [f64; 3],
}

/// Scrapes `services` with `replicas` pods each, and decides on each at every round.
///
/// # Errors
/// The fleet does not answer.
pub async fn measure(
    fleet: u32,
    services: usize,
    replicas: usize,
    interval: Duration,
    lasting: Duration,
) -> Outcome<Collected> {
    let (clock, own) = (Clock::start(), std::process::id());
    let (empty, _) = memory(own)?;
    let collector =
        Collector::new(CollectorSettings::every(interval), clock, ScrapeMetrics::register(&Registry::new())?);
    let stop = CancellationToken::new();
    let (runner, token) = (collector.clone(), stop.clone());
    let running = tokio::spawn(async move { runner.run(token).await });
    for service in 0..services {
        let targets = (0..replicas).map(|replica| target(clock, service, service * replicas + replica));
        collector.set_targets(key(service), targets.collect());
    }
    let (decided, counter) = tokio::sync::watch::channel(0_u64);
    let deciding = tokio::spawn(decide(collector.clone(), policy(replicas, interval)?, decided));
    let begun = server::asked().await?;
    let twice = u64::try_from(services * replicas * 2)?;
    until("every pod was scraped twice", Duration::from_mins(5), async || {
        let pages = server::asked().await?.since(&begun).pages;
        Ok(if pages >= twice { Look::Break(()) } else { Look::Continue(format!("{pages} scrapes")) })
    })
    .await?;
    let moment = async || -> Outcome<_> {
        Ok((server::asked().await?, processor_time(own)?, processor_time(fleet)?, *counter.borrow()))
    };
    let (before, started) = (moment().await?, Instant::now());
    tokio::time::sleep(lasting).await;
    let (after, seconds) = (moment().await?, started.elapsed().as_secs_f64());
    let (resident, peak) = memory(own)?;
    deciding.abort();
    stop.cancel();
    running.await?;
    let asked = after.0.since(&before.0);
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let of_page = |seconds: f64| seconds * 1e6 / asked.pages.max(1) as f64;
    let (own, fleet) = (after.1.since(before.1), after.2.since(before.2));
    Ok(Collected {
        pods: services * replicas,
        interval_seconds: interval.as_secs(),
        seconds,
        pages: asked.pages,
        on_time: asked.on_time(interval),
        connections: asked.connections,
        decisions: after.3 - before.3,
        microseconds_a_page: of_page(own.total()),
        microseconds_in_kernel: of_page(own.system),
        fleet_microseconds_a_page: of_page(fleet.total()),
        resident: [empty, resident, peak],
    })
}

/// Decides on each service that has news, as the controller does.
async fn decide(collector: Collector, policy: Policy, decided: tokio::sync::watch::Sender<u64>) {
    let mut states = std::collections::HashMap::<ServiceKey, State>::new();
    let mut updates = std::pin::pin!(collector.updates());
    while let Some(key) = updates.next().await {
        let now = collector.clock().now();
        let ready: Vec<Replica> = collector
            .samples(&key, now)
            .into_iter()
            .map(|(name, sample)| Replica { name, class: "template/NVIDIA-L4".to_owned(), sample })
            .collect();
        let observation =
            Observation { current: u32::try_from(ready.len()).unwrap_or(u32::MAX), ready, ..Observation::default() };
        let state = states.remove(&key).unwrap_or_default();
        let (_, state) = scaling::decide(&policy, state, &observation, now);
        states.insert(key, state);
        decided.send_modify(|count| *count += 1);
    }
}

fn policy(replicas: usize, interval: Duration) -> Outcome<Policy> {
    let replicas = u32::try_from(replicas)?;
    Ok(Policy::new(PolicySettings {
        min_replicas: replicas,
        max_replicas: replicas * 2,
        target_queue_time: Duration::from_millis(20),
        stabilization_window: Duration::from_mins(5),
        max_batch_size: 32,
        batching_delay: Duration::ZERO,
        scrape_interval: interval,
        startup_fallback: Duration::from_mins(1),
    })?)
}

fn key(service: usize) -> ServiceKey {
    ServiceKey {
        namespace: format!("fleet-{}", service % 4),
        name: format!("service-{service:05}"),
        uid: format!("5f70bf18-a086-0070-16e9-{service:012}"),
    }
}

fn target(clock: Clock, service: usize, pod: usize) -> Target {
    Target {
        pod: format!("service-{service:05}-cpu-stable-5f70bf18a0-{pod:05}"),
        uid: format!("48d04aed-3b82-103a-36be-{pod:012}"),
        address: IpAddr::V4(address(pod)),
        port: PORT,
        container_restarts: 0,
        ready_since: clock.ago(Duration::from_mins(10)),
        model: format!("service-{service:05}"),
        instances: 1,
    }
}
