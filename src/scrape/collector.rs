//! Scrapes every pod once an interval, each in a task of its own, so that none waits for another.
//!
//! Pods of one service are scraped close together, spread over a tenth of the interval, so that their rates speak of
//! the same time; services are spread over the whole interval by their UID. Shortly after a round's first answer the
//! service is announced once: a controller that listens decides right after the round and not once for every pod.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::{FetchError, Kept, MetricsClient};
use super::clock::Clock;
use super::metrics::ScrapeMetrics;
use super::parse::{ParseError, parse};
use super::snapshot::{ServerInfo, Snapshot};
use super::store::{ServiceKey, Store, Target};
use crate::scaling::{MissingReason, Monotonic, ReplicaSample, fresh_for};

/// How the collector works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectorSettings {
    /// How often every pod is scraped.
    pub interval: Duration,
    /// When a scrape is given up; shorter than the interval.
    pub timeout: Duration,
    /// Most scrapes at the same time.
    pub concurrency: usize,
}

/// Why a scrape brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// The page could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The page could not be read.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

/// Knows the newest measurement of every pod. Clones share what is known.
#[derive(Clone)]
pub struct Collector {
    inner: Arc<Inner>,
}

/// The pod that one task scrapes.
struct Assignment {
    key: ServiceKey,
    uid: String,
    task: u64,
}

struct Inner {
    settings: CollectorSettings,
    client: MetricsClient,
    clock: Clock,
    metrics: ScrapeMetrics,
    started: Instant,
    permits: Semaphore,
    store: Mutex<Store>,
    targets_changed: Notify,
    updated: Notify,
}

impl CollectorSettings {
    /// The usual settings for an interval: a scrape may take half of it, at most a second.
    pub fn every(interval: Duration) -> Self {
        Self { interval, timeout: (interval / 2).min(Duration::from_secs(1)), concurrency: 256 }
    }
}

impl Collector {
    /// A collector that knows no service yet.
    pub fn new(settings: CollectorSettings, clock: Clock, metrics: ScrapeMetrics) -> Self {
        let inner = Inner {
            client: MetricsClient::new(settings.timeout),
            permits: Semaphore::new(settings.concurrency),
            settings,
            clock,
            metrics,
            started: Instant::now(),
            store: Mutex::default(),
            targets_changed: Notify::new(),
            updated: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Says which ready pods a service has now; what is known of the others is dropped. Cheap when nothing changed.
    pub fn set_targets(&self, key: ServiceKey, targets: Vec<Target>) {
        if self.inner.lock().set_targets(key, targets) {
            self.inner.targets_changed.notify_one();
        }
    }

    /// Drops a service and all that is known of it.
    pub fn forget(&self, key: &ServiceKey) {
        let mut store = self.inner.lock();
        store.services.remove(key);
        store.updated.remove(key);
    }

    /// The newest sample of every target of a service, by pod name.
    pub fn samples(&self, key: &ServiceKey, now: Monotonic) -> Vec<(String, ReplicaSample)> {
        let fresh_for = fresh_for(self.inner.settings.interval);
        let store = self.inner.lock();
        let pods = store.services.get(key).into_iter().flat_map(|service| service.pods.values());
        pods.map(|pod| (pod.target.pod.clone(), pod.sample(now, fresh_for))).collect()
    }

    /// What each server of a service says of itself, by pod name; only of servers that say it.
    pub fn servers(&self, key: &ServiceKey) -> Vec<(String, ServerInfo)> {
        let store = self.inner.lock();
        let pods = store.services.get(key).into_iter().flat_map(|service| service.pods.values());
        pods.filter_map(|pod| Some((pod.target.pod.clone(), pod.server()?.clone()))).collect()
    }

    /// Why the last scrape of a pod failed, by pod name; only of pods whose last scrape did.
    pub fn failures(&self, key: &ServiceKey) -> Vec<(String, String)> {
        let store = self.inner.lock();
        let pods = store.services.get(key).into_iter().flat_map(|service| service.pods.values());
        pods.filter_map(|pod| Some((pod.target.pod.clone(), pod.failure()?.to_owned()))).collect()
    }

    /// The clock that the measurements' times are of.
    pub fn clock(&self) -> Clock {
        self.inner.clock
    }

    /// The services that have news, each once a round. For one reader; a slow one finds each service once.
    pub fn updates(&self) -> impl Stream<Item = ServiceKey> + Send + 'static {
        futures::stream::unfold(Arc::clone(&self.inner), |inner| async move {
            loop {
                let next = inner.lock().updated.pop_first();
                if let Some(key) = next {
                    return Some((key, inner));
                }
                // A permit that was stored between the two lines lets this return at once.
                inner.updated.notified().await;
            }
        })
    }

    /// Scrapes until the token is cancelled; then all scrapes are given up.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        loop {
            for assignment in self.inner.take_untasked() {
                tasks.spawn(Arc::clone(&self.inner).scrape_repeatedly(assignment));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.inner.targets_changed.notified() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
        tasks.shutdown().await;
        self.inner.release_tasks();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Store> {
        // The store is whole between any two lines that could panic.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods that no task scrapes yet; they count as taken from here on.
    fn take_untasked(&self) -> Vec<Assignment> {
        let mut store = self.lock();
        let Store { services, tasks_begun, untasked: with_untasked, .. } = &mut *store;
        let mut untasked = Vec::new();
        for key in std::mem::take(with_untasked) {
            let Some(service) = services.get_mut(&key) else { continue };
            for (uid, pod) in service.pods.iter_mut().filter(|(_, pod)| pod.task.is_none()) {
                *tasks_begun += 1;
                pod.task = Some(*tasks_begun);
                untasked.push(Assignment { key: key.clone(), uid: uid.clone(), task: *tasks_begun });
            }
        }
        untasked
    }

    /// Lets a later run start over.
    fn release_tasks(&self) {
        let mut store = self.lock();
        let Store { services, untasked, .. } = &mut *store;
        for (key, service) in services {
            service.announced = false;
            service.pods.values_mut().for_each(|pod| pod.task = None);
            untasked.insert(key.clone());
        }
    }

    /// Scrapes one pod at once and then at its phase of every interval, until it is no target any more.
    async fn scrape_repeatedly(self: Arc<Self>, assignment: Assignment) {
        let phase = phase(self.settings.interval, &assignment.key.uid, &assignment.uid);
        let mut kept = Kept::default();
        while let Some(target) = self.target(&assignment) {
            let began = Instant::now();
            // Boxed: what a scrape needs is freed before the wait for the next one, which is most of the task's life.
            let result = Box::pin(self.scrape(&target, &mut kept)).await;
            if !self.record(&assignment, &target, result) {
                break;
            }
            self.announce(&assignment.key).await;
            sleep_until(self.next_turn(began, phase)).await;
        }
    }

    async fn scrape(&self, target: &Target, kept: &mut Kept) -> Result<(Monotonic, Snapshot), ScrapeError> {
        // The semaphore is never closed; were it, the limit would be gone but not the scrape.
        let _permit = self.permits.acquire().await.ok();
        let in_flight = self.metrics.begin();
        let asked = self.clock.now();
        let result = match self.client.fetch(target, kept).await {
            // The server wrote the page at some moment between the question and the answer.
            Ok(page) => {
                let at = asked + self.clock.now().since(asked) / 2;
                parse(&page, &target.model).map(|snapshot| (at, snapshot)).map_err(ScrapeError::from)
            }
            Err(error) => Err(error.into()),
        };
        in_flight.finish(result.as_ref().map_or_else(ScrapeError::category, |_| "ok"));
        result
    }

    /// Notes the result; false when the pod is no target any more.
    fn record(
        &self,
        assignment: &Assignment,
        target: &Target,
        result: Result<(Monotonic, Snapshot), ScrapeError>,
    ) -> bool {
        let now = self.clock.now();
        let mut store = self.lock();
        let Some(pod) = store.pod(&assignment.key, &assignment.uid, assignment.task) else {
            return false;
        };
        match result {
            Ok((at, snapshot)) => pod.succeeded(at, target.container_restarts, snapshot),
            Err(error) => pod.failed(now, error.missing_reason(), error.to_string()),
        }
        true
    }

    /// Tells the reader of the updates once a round, when the service's other pods had time to answer too.
    async fn announce(&self, key: &ServiceKey) {
        let is_first =
            self.lock().services.get_mut(key).is_some_and(|service| !std::mem::replace(&mut service.announced, true));
        if !is_first {
            return;
        }
        sleep(self.settings.interval * 3 / 20).await;
        let mut store = self.lock();
        if let Some(service) = store.services.get_mut(key) {
            service.announced = false;
            store.updated.insert(key.clone());
        }
        drop(store);
        self.updated.notify_one();
    }

    fn target(&self, assignment: &Assignment) -> Option<Target> {
        let mut store = self.lock();
        store.pod(&assignment.key, &assignment.uid, assignment.task).map(|pod| pod.target.clone())
    }

    /// The pod's next turn that is at least half an interval after the last: shorter intervals make noise and no news.
    fn next_turn(&self, last: Instant, phase: Duration) -> Instant {
        let interval = self.settings.interval;
        let first = self.started + phase;
        let earliest = (last + interval / 2).saturating_duration_since(first);
        let turns = earliest.as_nanos().div_ceil(interval.as_nanos().max(1));
        first + interval.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX))
    }
}

impl ScrapeError {
    /// A bounded name for metrics.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.category(),
            Self::Parse(error) => error.category(),
        }
    }

    const fn missing_reason(&self) -> MissingReason {
        match self {
            Self::Fetch(FetchError::Connect { .. } | FetchError::Timeout { .. } | FetchError::Broken { .. }) => {
                MissingReason::Unreachable
            }
            Self::Fetch(FetchError::Status { .. } | FetchError::Encoded { .. } | FetchError::TooLarge { .. })
            | Self::Parse(_) => MissingReason::BadPage,
        }
    }
}

/// When in each interval a pod has its turn: by its service, and a little by itself.
fn phase(interval: Duration, service_uid: &str, pod_uid: &str) -> Duration {
    interval.mul_f64(fraction(service_uid) + fraction(pod_uid) / 10.0)
}

/// A number from 0 to 1 that a name always has.
fn fraction(name: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let low = u32::try_from(hasher.finish() & u64::from(u32::MAX)).unwrap_or_default();
    f64::from(low) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Services over the whole interval, pods of one within a tenth of it.
    #[test]
    fn turns_of_ten_thousand_pods_are_spread() {
        const INTERVAL: Duration = Duration::from_secs(5);
        let mut of_slot = [0_u32; 50];
        for service in 0..1000 {
            let turns: Vec<Duration> = (0..10)
                .map(|pod| phase(INTERVAL, &format!("service-{service}"), &format!("pod-{service}-{pod}")))
                .collect();
            let (first, last) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
            assert!(*last <= *first + INTERVAL / 10, "{turns:?}");
            for turn in turns {
                of_slot[usize::try_from(turn.as_millis() / 100).unwrap() % 50] += 1;
            }
        }
        // 200 in each tenth of a second on average.
        assert!(of_slot.iter().all(|count| (80..=350).contains(count)), "{of_slot:?}");
    }
}
