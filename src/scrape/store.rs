//! What is known of every pod that is to be scraped. Plain data under a lock that is held for a moment only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::rates::{Scraped, measure, stuck_since};
use super::snapshot::{ServerInfo, Snapshot};
use crate::scaling::{Measurement, MissingReason, Monotonic, ReplicaSample};

/// The port that servers export their metrics on.
pub const METRICS_PORT: u16 = 8002;
/// A snapshot older than this is not measured against: the rates of so long an interval say nothing of now.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
/// How long a server that does not warm up before it is ready may still compile at its first requests.
const WARM_UP: Duration = Duration::from_secs(15);

/// Which service a pod belongs to. The UID makes a re-created service another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID of the service object.
    pub uid: String,
}

/// A ready pod to scrape; the controller answers for it being the service's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The pod's name.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
    /// The pod's address.
    pub address: IpAddr,
    /// The metrics port: [`METRICS_PORT`], but for tests.
    pub port: u16,
    /// How often the server's container was restarted.
    pub container_restarts: u32,
    /// When the pod became ready.
    pub ready_since: Monotonic,
    /// The service's model: a page may tell of others too.
    pub model: String,
    /// How many instances of it take turns on the pod's device.
    pub instances: u32,
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) services: HashMap<ServiceKey, Service>,
    /// Services with news, each once: a reader that is slow finds each of them once, however often it was scraped.
    pub(super) updated: BTreeSet<ServiceKey>,
    /// Services with pods that no task scrapes yet: looking for them among all would cost more than scraping.
    pub(super) untasked: BTreeSet<ServiceKey>,
    pub(super) tasks_begun: u64,
}

#[derive(Default)]
pub(super) struct Service {
    /// By UID, since a name may be used again.
    pub(super) pods: BTreeMap<String, Pod>,
    /// Whether a note of the current round is already on its way.
    pub(super) announced: bool,
}

/// One pod: its newest page, and what it did between the last two. The simulator makes its measurements with it too.
pub(crate) struct Pod {
    pub(super) target: Target,
    /// The number of the task that scrapes it, if any: a pod that went and came back gets a new one, and the old one
    /// ends.
    pub(super) task: Option<u64>,
    last: Option<Scraped>,
    measurement: Option<Measurement>,
    failure: Option<Failure>,
}

struct Failure {
    since: Monotonic,
    reason: MissingReason,
    message: String,
}

impl Store {
    /// Notes which pods a service has; true where some have no task yet.
    pub(super) fn set_targets(&mut self, key: ServiceKey, targets: Vec<Target>) -> bool {
        let has_new = self.services.entry(key.clone()).or_default().set_targets(targets);
        if has_new {
            self.untasked.insert(key);
        }
        has_new
    }

    /// A pod, for the task that it is assigned to.
    pub(super) fn pod(&mut self, key: &ServiceKey, uid: &str, task: u64) -> Option<&mut Pod> {
        self.services.get_mut(key)?.pods.get_mut(uid).filter(|pod| pod.task == Some(task))
    }
}

impl Service {
    /// Keeps what is known of the pods that are still there; true where some are new.
    pub(super) fn set_targets(&mut self, targets: Vec<Target>) -> bool {
        let mut before = std::mem::take(&mut self.pods);
        let mut has_new = false;
        for target in targets {
            let uid = target.uid.clone();
            let pod = match before.remove(&uid) {
                Some(pod) => Pod { target, ..pod },
                None => Pod::new(target),
            };
            has_new |= pod.task.is_none();
            self.pods.insert(uid, pod);
        }
        has_new
    }
}

impl Pod {
    /// A pod of which nothing is known yet.
    pub(crate) fn new(target: Target) -> Self {
        Self { target, task: None, last: None, measurement: None, failure: None }
    }

    /// Takes in a page.
    pub(crate) fn succeeded(&mut self, at: Monotonic, container_restarts: u32, snapshot: Snapshot) {
        // Flotilla's own server is warm before it is ready; another may not be.
        let is_own = snapshot.server.is_some();
        let mut scraped = Scraped { at, container_restarts, snapshot, stuck_since: None };
        self.failure = None;
        if let Some(last) = self.last.take().filter(|last| at.since(last.at) <= LONGEST_INTERVAL) {
            let warming = !is_own && last.at < self.target.ready_since + WARM_UP;
            scraped.stuck_since = stuck_since(&last, &scraped);
            self.measurement = measure(&last, &scraped, warming, self.target.instances);
        }
        self.last = Some(scraped);
    }

    /// Notes that there was no page.
    pub(crate) fn failed(&mut self, at: Monotonic, reason: MissingReason, message: String) {
        let since = self.failure.as_ref().map_or(at, |failure| failure.since);
        self.failure = Some(Failure { since, reason, message });
    }

    /// The newest measurement, or why there is none that speaks for now.
    pub(crate) fn sample(&self, now: Monotonic, fresh_for: Duration) -> ReplicaSample {
        if let Some(measurement) = &self.measurement
            && now.since(measurement.taken) <= fresh_for
        {
            return ReplicaSample::Measured(measurement.clone());
        }
        let known = self.last.as_ref().map(|last| last.at);
        if let Some(failure) = &self.failure {
            return ReplicaSample::Missing { since: known.unwrap_or(failure.since), reason: failure.reason };
        }
        match known {
            // Scraped once, a moment ago: the second one makes the rate.
            Some(at) if now.since(at) <= fresh_for => {
                ReplicaSample::Missing { since: self.target.ready_since, reason: MissingReason::NotYetSampled }
            }
            Some(at) => ReplicaSample::Missing { since: at, reason: MissingReason::Stale },
            None => ReplicaSample::Missing { since: self.target.ready_since, reason: MissingReason::NotYetSampled },
        }
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.message.as_str())
    }

    pub(super) fn server(&self) -> Option<&ServerInfo> {
        self.last.as_ref().and_then(|last| last.snapshot.server.as_ref())
    }
}
