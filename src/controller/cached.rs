//! What the caches hold of pods and owned objects: thousands of them, so only what some step reads, and that closely packed.

use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;

use super::index::{Indexed, ObjectKey, ServiceName};
use super::pods::PodView;
use crate::api::labels;
use crate::placement::snapshot::Held;

/// A pod of ours, or another that holds GPUs.
#[derive(Clone, Debug)]
pub struct CachedPod {
    key: ObjectKey,
    service: Option<ServiceName>,
    version: Option<String>,
    /// What the operator looks at; of our pods only.
    pub view: Option<PodView>,
    /// The GPUs that it holds.
    pub held: Option<Held>,
}

impl CachedPod {
    /// What there is to keep of a pod, if anything.
    pub fn new(pod: &Pod) -> Option<Self> {
        let ours = pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(labels::SERVICE));
        let view = ours.then(|| PodView::new(pod));
        let held = Held::by(pod);
        (ours || held.is_some()).then(|| Self {
            key: pod.key(),
            service: pod.service(),
            version: pod.metadata.resource_version.clone(),
            view,
            held,
        })
    }
}

/// An owned object, as the text of its JSON: as a tree it would take ten times the memory, and most are read only when they
/// change.
#[derive(Clone, Debug)]
pub struct CachedObject {
    key: ObjectKey,
    service: Option<ServiceName>,
    version: Option<String>,
    json: Box<str>,
}

impl CachedObject {
    /// Packs an object.
    ///
    /// # Errors
    /// It can't be serialised.
    pub fn new(object: &DynamicObject) -> Result<Self, serde_json::Error> {
        Ok(Self {
            key: object.key(),
            service: object.service(),
            version: object.metadata.resource_version.clone(),
            json: serde_json::to_string(object)?.into_boxed_str(),
        })
    }

    /// The object.
    ///
    /// # Errors
    /// Never, as far as the text is what was packed.
    pub fn object(&self) -> Result<DynamicObject, serde_json::Error> {
        serde_json::from_str(&self.json)
    }
}

impl Indexed for CachedPod {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn service(&self) -> Option<ServiceName> {
        self.service.clone()
    }

    fn resource_version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

impl Indexed for CachedObject {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn service(&self) -> Option<ServiceName> {
        self.service.clone()
    }

    fn resource_version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_comes_out_as_it_went_in() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 3,
                "labels": {"app.kubernetes.io/instance": "s"}, "annotations": {"x": "\"ü\n"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "1", "controller": true}]},
            "spec": {"replicas": 3, "ratio": 0.1, "list": [null, {}, []]},
        }))
        .unwrap();
        let cached = CachedObject::new(&object).unwrap();
        assert_eq!(cached.object().unwrap(), object);
        assert_eq!((cached.key(), cached.resource_version()), (object.key(), Some("7")));
        assert_eq!(cached.service(), Some(ServiceName { namespace: "n".into(), name: "s".into() }));
    }

    #[test]
    fn of_pods_that_are_not_ours_only_their_gpus_are_kept() {
        let pod = |labels: serde_json::Value, gpus: u32| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": labels},
                "spec": {"nodeName": "a", "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}}}]}}))
            .unwrap()
        };
        let kept =
            |labels, gpus| CachedPod::new(&pod(labels, gpus)).map(|pod| (pod.view.is_some(), pod.held.is_some()));
        assert_eq!(kept(json!({"flotilla.dev/service": "s"}), 1), Some((true, true)));
        assert_eq!(kept(json!({"flotilla.dev/service": "s"}), 0), Some((true, false)));
        assert_eq!(kept(json!({"app": "other"}), 2), Some((false, true)));
        assert_eq!(kept(json!({"app": "other"}), 0), None);
    }
}
