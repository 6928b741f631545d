//! The last decision of each service, with all that it rests on. Bounded: one record a service, gone with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::scaling::{Decision, Monotonic, Observation, Policy};

/// A decision and what it rests on.
#[derive(Debug, Clone)]
pub struct Record {
    /// The user's bounds and target.
    pub policy: Policy,
    /// What was decided.
    pub decision: Decision,
    /// What was seen; without executions by batch size, which the model holds.
    pub observation: Observation,
    /// When, on the clock of the law.
    pub now: Monotonic,
    /// When, for people.
    pub decided_at: Timestamp,
    /// Another autoscaler that writes the same replicas, so that the decision is not carried out.
    pub conflict: Option<String>,
    /// Whether the decision is carried out.
    pub acts: bool,
}

/// Namespace and name.
type Key = (String, String);

/// The last decisions. Shared by the controller, which writes, and the HTTP server, which reads.
#[derive(Debug, Default)]
pub struct Records {
    by_service: Mutex<BTreeMap<Key, Arc<Record>>>,
    leading: AtomicBool,
}

impl Records {
    /// Says that this operator leads: from now on a missing record means that nothing was decided.
    pub fn lead(&self) {
        self.leading.store(true, Ordering::Release);
    }

    /// Whether this operator leads.
    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Acquire)
    }

    /// Keeps a decision in place of the one before.
    pub fn put(&self, namespace: &str, name: &str, record: Record) {
        self.lock().insert((namespace.to_owned(), name.to_owned()), Arc::new(record));
    }

    /// Drops what is known of a service.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// The last decision about a service.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Record>> {
        self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All of them, or those of a namespace, by namespace and name.
    pub fn all(&self, namespace: Option<&str>) -> Vec<(Key, Arc<Record>)> {
        let records = self.lock();
        let of_namespace = |key: &Key| namespace.is_none_or(|namespace| key.0 == namespace);
        records
            .iter()
            .filter(|(key, _)| of_namespace(key))
            .map(|(key, record)| (key.clone(), Arc::clone(record)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Record>>> {
        self.by_service.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
