//! What every reconcile shares, and the one gate that every write passes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::runtime::events::Recorder;

use super::cached::{CachedAutoscaler, CachedObject, CachedPod};
use super::error::Error;
use super::index::{Index, ObjectKey, ServiceName};
use super::lease::Fence;
use crate::api::InferenceServiceStatus;
use crate::explain::Records;
use crate::placement::Snapshot;
use crate::resources::Environment;
use crate::scaling::{self, Monotonic};
use crate::scrape::{Clock, Collector};
use crate::service::Defaults;
use crate::telemetry::metrics::ControllerMetrics;

/// How long a write may take; one starts only while the lease outlasts it.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How old the picture of the cluster's GPUs may be: it is read from all pods, so not anew for each of many services.
const SNAPSHOT_AGE: Duration = Duration::from_millis(500);

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Owned objects, all kinds in one index.
    pub owned: Arc<Index<CachedObject>>,
    /// Pods of ours, and others that hold GPUs.
    pub pods: Arc<Index<CachedPod>>,
    /// Nodes; `None` where the operator may not read them.
    pub nodes: Option<Arc<Index<Node>>>,
    /// HorizontalPodAutoscalers of what may be our Deployments.
    pub autoscalers: Arc<Index<CachedAutoscaler>>,
    /// Reads the servers' metrics.
    pub collector: Arc<Collector>,
    /// The last decisions, for whoever asks why.
    pub records: Arc<Records>,
    /// Publishes Events.
    pub recorder: Recorder,
    /// Counts and times.
    pub metrics: ControllerMetrics,
    /// Until when writes may be under way.
    pub fence: Arc<Fence>,
    /// What the operator was installed with.
    pub defaults: Defaults,
    /// Where the operator runs.
    pub environment: Environment,
    /// How often the servers are scraped.
    pub scrape_interval: Duration,
    /// Whether pods may be patched, to choose which of them go at a scale-down.
    pub deletion_cost: bool,
    /// The clock of the scaling law.
    pub clock: Clock,
    /// What is remembered of each service, by its UID.
    pub memories: Mutex<HashMap<String, Memory>>,
    /// The cluster's GPUs, read at most every [`SNAPSHOT_AGE`].
    pub snapshot: Mutex<Option<(Instant, Arc<Snapshot>)>>,
    /// Objects that the API server changes back after every apply, with what was applied and when.
    pub unsettled: Mutex<HashMap<ObjectKey, (String, Instant)>>,
}

/// What is remembered of a service between visits. All of it can be lost: the law then holds until it has seen a window.
#[derive(Default)]
pub struct Memory {
    /// Which service, for forgetting it when it is gone.
    pub service: Option<ServiceName>,
    /// Of this generation: the digest of its pod template, or why there can be none.
    pub template: Option<(i64, Result<String, String>)>,
    /// What was seen when a visit last found nothing to apply; see `converge`.
    pub settled: Option<u64>,
    /// The scaling law's state.
    pub scaling: scaling::State,
    /// The newest measurement that a decision rested on, and when that was decided.
    pub news: Option<(Monotonic, Monotonic)>,
    /// The status written last, with the resource version that the object had then.
    pub status: Option<(String, InferenceServiceStatus)>,
    /// When measured values were published last.
    pub measured_published: Option<Instant>,
    /// Since when metrics are missing.
    pub metrics_missing_since: Option<Instant>,
    /// Since when something is under way, as far as visits saw.
    pub busy_since: Option<Instant>,
    /// Visits that failed in a row.
    pub failures: u32,
}

impl Context {
    /// Now, on the clock of the scaling law.
    pub fn now(&self) -> Monotonic {
        self.clock.now()
    }

    /// A past moment of the wall clock, on the clock of the scaling law.
    pub fn monotonic(&self, time: jiff::Timestamp) -> Monotonic {
        self.clock.ago(Duration::try_from(jiff::Timestamp::now().duration_since(time)).unwrap_or_default())
    }

    /// The memories of all services.
    pub fn memories(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster's GPUs.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let mut cached = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, snapshot)) = cached.as_ref()
            && at.elapsed() < SNAPSHOT_AGE
        {
            return Arc::clone(snapshot);
        }
        let nodes = self.nodes.as_ref().map(|nodes| nodes.all());
        let pods = self.pods.all();
        let snapshot = Arc::new(Snapshot::new(
            nodes.as_ref().map(|nodes| nodes.iter().map(AsRef::as_ref)),
            pods.iter().filter_map(|pod| pod.held.as_ref()),
        ));
        *cached = Some((Instant::now(), Arc::clone(&snapshot)));
        snapshot
    }

    /// Runs a mutating request: fenced by the lease, limited in time, counted.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Timeout`], or what the API server said.
    pub async fn write<T>(
        &self,
        action: &str,
        kind: &str,
        verb: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        if !self.fence.permits(WRITE_TIMEOUT, Instant::now()) {
            return Err(Error::Fenced { action: action.to_owned() });
        }
        self.metrics.writes.with_label_values(&[kind, verb]).inc();
        tracing::debug!(action, "writing");
        limited(action, request).await
    }

    /// Runs a reading request, limited in time.
    ///
    /// # Errors
    /// [`Error::Timeout`], or what the API server said.
    pub async fn read<T>(&self, action: String, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        limited(&action, request).await
    }
}

async fn limited<T>(action: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(WRITE_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Error::Api { action: action.to_owned(), source: Box::new(error) }),
        Err(_) => Err(Error::Timeout { action: action.to_owned() }),
    }
}
