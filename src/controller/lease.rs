//! Leadership by a Lease, and the fence that every write passes.
//!
//! The Lease belongs to the chart, so the operator only reads and updates it. A write starts only while the lease has more
//! time left, by the monotonic clock, than the write may take: a leader that was paused can't overwrite its successor.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::labels;

/// How long a lease lasts after its renewal.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews it.
const RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// How often others look at it.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest pause between two looks, also at an API server that answers with errors.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one read or write of the lease may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Until when writes may be under way.
#[derive(Debug, Default)]
pub struct Fence {
    until: Mutex<Option<Instant>>,
    open: bool,
}

impl Fence {
    /// A fence without a lease: for a single operator that runs without leader election.
    pub fn open() -> Self {
        Self { until: Mutex::new(None), open: true }
    }

    /// Whether a write that may take `timeout` can start at `now`.
    pub fn permits(&self, timeout: Duration, now: Instant) -> bool {
        self.open
            || self
                .until
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some_and(|until| until.saturating_duration_since(now) > timeout)
    }

    fn set(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn expired(&self, now: Instant) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|until| until <= now)
    }
}

/// Someone's claim to lead, at one name.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// Where this candidate is reached while it leads.
    address: Option<SocketAddr>,
    /// Where the leader is reached, as far as this candidate knows.
    leader: watch::Sender<Option<SocketAddr>>,
}

/// Who holds the lease, as one candidate saw it, and since when it has not changed by the candidate's own clock.
struct Seen {
    renewed: Option<Timestamp>,
    holder: Option<String>,
    since: Instant,
}

/// A standby looks in at intervals, and once more at the moment at which a lease that nobody renews has run out: a leader
/// that hangs is replaced within 18 s.
fn until_next_look(seen: Option<&Seen>, now: Instant) -> Duration {
    let left = seen.map_or(LOOK_INTERVAL, |seen| (seen.since + LEASE_DURATION).saturating_duration_since(now));
    left.clamp(SHORTEST_PAUSE, LOOK_INTERVAL)
}

impl Candidate {
    /// A candidate for the Lease `name` under the name `identity` (the pod's).
    pub fn new(api: Api<Lease>, name: String, identity: String) -> Self {
        Self { api, name, identity, address: None, leader: watch::Sender::new(None) }
    }

    /// Writes into the Lease where this candidate is reached while it leads, so that the others can hand on what is the
    /// leader's.
    #[must_use]
    pub fn reached_at(mut self, address: Option<SocketAddr>) -> Self {
        self.address = address;
        self
    }

    /// Where the leader is reached; none while nobody leads, or the leader does not say.
    pub fn leader(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.leader.subscribe()
    }

    /// There is no other: what is the leader's is found here.
    pub fn lead_alone(&self) {
        self.saw_leader(self.address);
    }

    fn saw_leader(&self, address: Option<SocketAddr>) {
        self.leader.send_if_modified(|seen| std::mem::replace(seen, address) != address);
    }

    /// Waits until this candidate leads; false when `shutdown` came first.
    pub async fn acquire(&self, fence: &Fence, shutdown: &CancellationToken) -> bool {
        let mut seen = None;
        while !shutdown.is_cancelled() {
            let started = Instant::now();
            match timed(self.try_take(&mut seen, started)).await {
                Ok(true) => {
                    fence.set(Some(started + LEASE_DURATION));
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                    return true;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(lease = self.name, error, "the lease can't be read or taken, retrying"),
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(until_next_look(seen.as_ref(), Instant::now())) => {}
            }
        }
        false
    }

    /// Renews until `shutdown`, then gives the lease back. Returns early, with false, when the lease is lost.
    pub async fn hold(&self, fence: &Fence, shutdown: &CancellationToken) -> bool {
        let mut seen = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return true,
                () = tokio::time::sleep(RENEW_INTERVAL) => {}
            }
            let started = Instant::now();
            match timed(self.try_take(&mut seen, started)).await {
                Ok(true) => fence.set(Some(started + LEASE_DURATION)),
                Ok(false) => {
                    fence.set(None);
                    self.saw_leader(None);
                    tracing::error!(lease = self.name, "another operator holds the lease");
                    return false;
                }
                Err(error) => {
                    tracing::warn!(lease = self.name, error, "the lease can't be renewed, retrying");
                    if fence.expired(Instant::now()) {
                        fence.set(None);
                        self.saw_leader(None);
                        tracing::error!(lease = self.name, "the lease expired before it could be renewed");
                        return false;
                    }
                }
            }
        }
    }

    /// Gives the lease back, so that the next leader need not wait for its end. Call after the last write.
    pub async fn release(&self, fence: &Fence) {
        fence.set(None);
        self.saw_leader(None);
        let release = async {
            let mut lease = self.api.get(&self.name).await.map_err(|error| error.to_string())?;
            if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(self.identity.as_str()) {
                return Ok(());
            }
            if let Some(spec) = lease.spec.as_mut() {
                spec.holder_identity = None;
            }
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await
                .map_err(|error| error.to_string())
                .map(drop)
        };
        if let Err(error) = timed(release).await {
            tracing::warn!(lease = self.name, error, "the lease could not be given back; it ends by itself");
        }
    }

    /// Takes or renews the lease if it is free, ours, or was not renewed for a whole duration by our own clock (the
    /// clocks of the machines may differ). The write carries the version that was read: two candidates can't both win.
    async fn try_take(&self, seen: &mut Option<Seen>, now: Instant) -> Result<bool, String> {
        let mut lease = match self.api.get(&self.name).await {
            Ok(lease) => lease,
            Err(kube::Error::Api(status)) if status.code == 404 => self.create().await?,
            Err(error) => return Err(error.to_string()),
        };
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        let renewed = spec.renew_time.as_ref().map(|time| time.0);
        let ours = holder.as_deref() == Some(self.identity.as_str());
        if !ours && holder.is_some() {
            self.saw_leader(address_in(&lease.metadata));
            let unchanged = seen.as_ref().filter(|seen| seen.renewed == renewed && seen.holder == holder);
            let since = unchanged.map_or(now, |seen| seen.since);
            *seen = Some(Seen { renewed, holder, since });
            if now.saturating_duration_since(since) < LEASE_DURATION {
                return Ok(false);
            }
        }
        let time = MicroTime(Timestamp::now());
        if !ours {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
            spec.acquire_time = Some(time.clone());
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
        spec.renew_time = Some(time);
        write_address(&mut lease.metadata, self.address);
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => {
                self.saw_leader(self.address);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Without the chart (a developer's own run) there is no Lease yet.
    async fn create(&self) -> Result<Lease, String> {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.name.clone());
        self.api.create(&PostParams::default(), &lease).await.map_err(|error| {
            format!("the Lease {} does not exist and can't be created: {error}; install the chart", self.name)
        })
    }
}

/// Where the leader says that it is reached.
fn address_in(metadata: &ObjectMeta) -> Option<SocketAddr> {
    metadata.annotations.as_ref()?.get(labels::SCALER_ADDRESS)?.parse().ok()
}

/// A leader that is reached nowhere leaves no address of the one before it.
fn write_address(metadata: &mut ObjectMeta, address: Option<SocketAddr>) {
    match address {
        Some(address) => {
            let annotations = metadata.annotations.get_or_insert_default();
            annotations.insert(labels::SCALER_ADDRESS.to_owned(), address.to_string());
        }
        None => {
            if let Some(annotations) = metadata.annotations.as_mut() {
                annotations.remove(labels::SCALER_ADDRESS);
            }
        }
    }
}

async fn timed<T>(request: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(REQUEST_TIMEOUT, request)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_starts_only_while_the_lease_outlasts_it() {
        let fence = Fence::default();
        let now = Instant::now();
        assert!(!fence.permits(Duration::from_secs(5), now), "no lease, no write");
        fence.set(Some(now + LEASE_DURATION));
        assert!(fence.permits(Duration::from_secs(5), now));
        assert!(
            !fence.permits(Duration::from_secs(5), now + Duration::from_secs(10)),
            "5 s left are not more than 5 s"
        );
        assert!(
            !fence.permits(Duration::from_secs(5), now + Duration::from_hours(1)),
            "a paused leader wakes up fenced"
        );
        fence.set(None);
        assert!(!fence.permits(Duration::ZERO, now));
    }

    #[test]
    fn the_lease_says_where_the_leader_is_reached_and_never_where_another_was() {
        let mut metadata = ObjectMeta::default();
        assert_eq!(address_in(&metadata), None);
        for address in ["10.0.0.7:9091", "[fd00::7]:9091"].map(|address| address.parse().unwrap()) {
            write_address(&mut metadata, Some(address));
            assert_eq!(address_in(&metadata), Some(address));
        }
        write_address(&mut metadata, None);
        assert_eq!(address_in(&metadata), None);
        metadata.annotations = Some([(labels::SCALER_ADDRESS.to_owned(), "somewhere".to_owned())].into());
        assert_eq!(address_in(&metadata), None);
    }

    #[test]
    fn a_standby_looks_at_the_moment_at_which_the_lease_has_run_out() {
        let since = Instant::now();
        let seen = Seen { renewed: None, holder: None, since };
        let at = |seconds| until_next_look(Some(&seen), since + Duration::from_secs(seconds));
        assert_eq!(at(0), LOOK_INTERVAL);
        assert_eq!(at(14), Duration::from_secs(1));
        assert_eq!(at(15), SHORTEST_PAUSE);
        assert_eq!(at(99), SHORTEST_PAUSE);
        assert_eq!(until_next_look(None, since), LOOK_INTERVAL);
    }
}
