//! What the caches hold of pods, owned objects and autoscalers: thousands of them, so only what some step reads, and that
//! closely packed.

use std::ops::Deref;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;

use super::index::{Indexed, ObjectKey, ServiceName};
use super::pods::PodView;
use crate::api::labels;
use crate::placement::snapshot::Held;
use crate::service::names;

/// What is kept of an object, with what an index needs to know of it.
#[derive(Clone, Debug)]
pub struct Cached<T> {
    key: ObjectKey,
    service: Option<ServiceName>,
    version: Option<String>,
    kept: T,
}

/// A pod of ours, or another that holds GPUs.
pub type CachedPod = Cached<KeptPod>;
/// An owned object.
pub type CachedObject = Cached<Packed>;
/// A HorizontalPodAutoscaler of a Deployment; it belongs to the service that such a Deployment is named after.
pub type CachedAutoscaler = Cached<Target>;

/// What there is to keep of a pod.
#[derive(Clone, Debug)]
pub struct KeptPod {
    /// What the operator looks at; of our pods only.
    pub view: Option<PodView>,
    /// The GPUs that it holds.
    pub held: Option<Held>,
}

/// The text of an object's JSON: as a tree it would take ten times the memory, and most are read only when they change.
#[derive(Clone, Debug)]
pub struct Packed(Box<str>);

/// The Deployment that an autoscaler scales.
#[derive(Clone, Debug)]
pub struct Target(pub String);

impl<T> Cached<T> {
    fn new(object: &impl Indexed, kept: T) -> Self {
        Self {
            key: object.key(),
            service: object.service(),
            version: object.resource_version().map(str::to_owned),
            kept,
        }
    }
}

impl<T> Deref for Cached<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.kept
    }
}

impl<T: Clone + Send + Sync + 'static> Indexed for Cached<T> {
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

impl CachedPod {
    /// What there is to keep of a pod, if anything.
    pub fn of(pod: &Pod) -> Option<Self> {
        let ours = pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(labels::SERVICE));
        let view = ours.then(|| PodView::new(pod));
        let held = Held::by(pod);
        (ours || held.is_some()).then(|| Self::new(pod, KeptPod { view, held }))
    }
}

impl CachedObject {
    /// Packs an object.
    ///
    /// # Errors
    /// It can't be serialised.
    pub fn pack(object: &DynamicObject) -> Result<Self, serde_json::Error> {
        Ok(Self::new(object, Packed(serde_json::to_string(object)?.into_boxed_str())))
    }

    /// The object.
    ///
    /// # Errors
    /// Never, as far as the text is what was packed.
    pub fn object(&self) -> Result<DynamicObject, serde_json::Error> {
        serde_json::from_str(&self.kept.0)
    }
}

impl CachedAutoscaler {
    /// What there is to keep of an autoscaler: nothing, unless it scales a Deployment that may be ours.
    pub fn of(autoscaler: &HorizontalPodAutoscaler) -> Option<Self> {
        let target = &autoscaler.spec.as_ref()?.scale_target_ref;
        let service = names::service_of_deployment(&target.name).filter(|_| target.kind == "Deployment")?;
        let namespace = autoscaler.metadata.namespace.clone().unwrap_or_default();
        let service = Some(ServiceName { namespace, name: service.to_owned() });
        Some(Self { service, ..Self::new(autoscaler, Target(target.name.clone())) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.key.name
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
        let cached = CachedObject::pack(&object).unwrap();
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
        let kept = |labels, gpus| CachedPod::of(&pod(labels, gpus)).map(|pod| (pod.view.is_some(), pod.held.is_some()));
        assert_eq!(kept(json!({"flotilla.dev/service": "s"}), 1), Some((true, true)));
        assert_eq!(kept(json!({"flotilla.dev/service": "s"}), 0), Some((true, false)));
        assert_eq!(kept(json!({"app": "other"}), 2), Some((false, true)));
        assert_eq!(kept(json!({"app": "other"}), 0), None);
    }

    #[test]
    fn an_autoscaler_is_found_by_the_service_whose_deployment_it_scales() {
        let autoscaler = |kind: &str, target: &str| -> HorizontalPodAutoscaler {
            serde_json::from_value(json!({"metadata": {"name": "theirs", "namespace": "n"},
                "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": kind, "name": target}}}))
            .unwrap()
        };
        let found = |kind, target| {
            let cached = CachedAutoscaler::of(&autoscaler(kind, target))?;
            Some((cached.service()?.name, cached.0.clone(), cached.name().to_owned()))
        };
        let (target, other) = ("a-b-cpu-stable", "a-b-tpu-stable");
        assert_eq!(found("Deployment", target), Some(("a-b".into(), target.into(), "theirs".into())));
        for (kind, target) in [("StatefulSet", target), ("Deployment", other), ("Deployment", "web")] {
            assert_eq!(found(kind, target), None, "{kind} {target}");
        }
    }
}
