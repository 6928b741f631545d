//! Watched objects by the service that they belong to. A cache trimmed to what is read, with lookups that don't scan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use kube::Resource;
use kube::core::DynamicObject;

/// Namespace and name of an InferenceService.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceName {
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
}

/// Which object: its kind, namespace and name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectKey {
    /// The kind; one index may hold several.
    pub kind: String,
    /// metadata.namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
}

/// What an [`Index`] needs to know of an object.
pub trait Indexed: Clone + Send + Sync + 'static {
    /// Its key.
    fn key(&self) -> ObjectKey;
    /// The service that it belongs to, by its labels.
    fn service(&self) -> Option<ServiceName>;
    /// metadata.resourceVersion.
    fn resource_version(&self) -> Option<&str>;
}

struct Inner<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    by_service: HashMap<ServiceName, HashSet<ObjectKey>>,
}

/// Objects of one or several kinds, by key and by service.
pub struct Index<K> {
    inner: RwLock<Inner<K>>,
    /// Watches whose first listing is still under way.
    unsynced: AtomicUsize,
}

impl<K: Indexed> Index<K> {
    /// An index that is complete once `watches` watches have listed.
    pub fn new(watches: usize) -> Self {
        let inner = Inner { objects: BTreeMap::new(), by_service: HashMap::new() };
        Self { inner: RwLock::new(inner), unsynced: AtomicUsize::new(watches) }
    }

    /// Whether every watch has listed once.
    pub fn is_synced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire) == 0
    }

    /// Notes that one more watch has listed for the first time.
    pub fn watch_synced(&self) {
        self.unsynced.fetch_sub(1, Ordering::AcqRel);
    }

    /// Puts an object in, unless a newer version of it is there: the answer to our own write may arrive before the watch
    /// event of an older one. Returns whether it was put.
    pub fn put(&self, object: K) -> bool {
        let key = object.key();
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner
            .objects
            .get(&key)
            .is_some_and(|present| is_older(object.resource_version(), present.resource_version()))
        {
            return false;
        }
        inner.unlink(&key);
        if let Some(service) = object.service() {
            inner.by_service.entry(service).or_default().insert(key.clone());
        }
        inner.objects.insert(key, Arc::new(object));
        true
    }

    /// Takes an object out.
    pub fn remove(&self, key: &ObjectKey) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.unlink(key);
        inner.objects.remove(key);
    }

    /// Takes out what a complete listing of `kind` (in `namespace`, if given) did not contain; returns what went.
    pub fn retain_listed(&self, kind: &str, namespace: Option<&str>, listed: &HashSet<ObjectKey>) -> Vec<Arc<K>> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = inner
            .objects
            .keys()
            .filter(|key| key.kind == kind && namespace.is_none_or(|namespace| namespace == key.namespace))
            .filter(|key| !listed.contains(key))
            .cloned()
            .collect();
        gone.iter()
            .filter_map(|key| {
                inner.unlink(key);
                inner.objects.remove(key)
            })
            .collect()
    }

    /// The object with this key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).objects.get(key).cloned()
    }

    /// Everything that belongs to a service, in the order of the keys.
    pub fn of_service(&self, service: &ServiceName) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut keys: Vec<_> = inner.by_service.get(service).into_iter().flatten().collect();
        keys.sort();
        keys.into_iter().filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// Everything.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).objects.values().cloned().collect()
    }
}

impl<K: Indexed> Inner<K> {
    fn unlink(&mut self, key: &ObjectKey) {
        let Some(service) = self.objects.get(key).and_then(|present| present.service()) else { return };
        if let Some(keys) = self.by_service.get_mut(&service) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_service.remove(&service);
            }
        }
    }
}

/// Resource versions are compared as numbers, which Kubernetes defines since 1.35 and all served before; others are never older.
pub fn is_older(left: Option<&str>, right: Option<&str>) -> bool {
    match (left.and_then(|text| text.parse::<u64>().ok()), right.and_then(|text| text.parse::<u64>().ok())) {
        (Some(left), Some(right)) => left < right,
        _ => false,
    }
}

/// The key and the service of anything with metadata, given its kind and the label that names the service.
pub fn key_of(kind: &str, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ObjectKey {
    ObjectKey {
        kind: kind.to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// The service that a label of the object names.
pub fn service_of(
    label: &str,
    meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Option<ServiceName> {
    let name = meta.labels.as_ref()?.get(label)?.clone();
    Some(ServiceName { namespace: meta.namespace.clone().unwrap_or_default(), name })
}

impl Indexed for DynamicObject {
    fn key(&self) -> ObjectKey {
        key_of(self.types.as_ref().map_or("", |types| types.kind.as_str()), &self.metadata)
    }

    fn service(&self) -> Option<ServiceName> {
        service_of(crate::api::labels::INSTANCE, &self.metadata)
    }

    fn resource_version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

macro_rules! index_typed {
    ($type:ty, $kind:literal, $label:expr) => {
        impl Indexed for $type {
            fn key(&self) -> ObjectKey {
                key_of($kind, self.meta())
            }

            fn service(&self) -> Option<ServiceName> {
                service_of($label, self.meta())
            }

            fn resource_version(&self) -> Option<&str> {
                self.meta().resource_version.as_deref()
            }
        }
    };
}

index_typed!(k8s_openapi::api::core::v1::Pod, "Pod", crate::api::labels::SERVICE);
index_typed!(k8s_openapi::api::core::v1::Node, "Node", crate::api::labels::SERVICE);
index_typed!(
    k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler,
    "HorizontalPodAutoscaler",
    crate::api::labels::SERVICE
);

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(name: &str, service: &str, version: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": version,
            "labels": {"flotilla.dev/service": service}}}))
        .unwrap()
    }

    fn service(name: &str) -> ServiceName {
        ServiceName { namespace: "n".into(), name: name.into() }
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let index = Index::new(0);
        assert!(index.put(pod("a", "s", "10")));
        assert!(!index.put(pod("a", "s", "9")));
        assert!(index.put(pod("a", "s", "10")));
    }

    #[test]
    fn an_object_that_changes_its_label_changes_its_service() {
        let index = Index::new(0);
        index.put(pod("a", "s", "1"));
        index.put(pod("a", "t", "2"));
        assert!(index.of_service(&service("s")).is_empty());
        assert_eq!(index.of_service(&service("t")).len(), 1);
    }

    #[test]
    fn a_listing_takes_out_what_it_does_not_name() {
        let index = Index::new(1);
        index.put(pod("a", "s", "1"));
        index.put(pod("b", "s", "2"));
        let gone = index.retain_listed("Pod", Some("n"), &[pod("a", "s", "1").key()].into());
        assert_eq!(gone.len(), 1);
        assert_eq!(index.of_service(&service("s")).len(), 1);
        assert!(index.retain_listed("Pod", Some("other"), &HashSet::new()).is_empty());
    }
}
