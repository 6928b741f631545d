//! A namespace of its own for each test, what is done in it, and its removal.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla::api::InferenceService;
use flotilla::api::status::PodFailure;
use futures::FutureExt as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::{Cluster, Look, Outcome, dump, until};

/// The field manager under which tests apply: the user's.
const MANAGER: &str = "e2e";
/// How long a namespace may take to go away.
const REMOVAL: Duration = Duration::from_mins(2);

/// A test's own namespace.
#[derive(Clone)]
pub struct Workspace {
    /// The cluster that it is in.
    pub cluster: Cluster,
    /// Its name.
    pub namespace: String,
}

/// Runs a test in a namespace of its own. A failure prints what is in it; then it is removed, unless
/// `FLOTILLA_E2E_KEEP=1`.
///
/// # Errors
/// The test's own, or that the namespace could not be made or removed.
pub async fn with_namespace(test: impl AsyncFnOnce(&Workspace) -> Outcome) -> Outcome {
    let cluster = Cluster::connect().await?;
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let name = format!("e2e-{:08x}", (nanoseconds / 1000 % u128::from(u32::MAX)) ^ u128::from(std::process::id()));
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let labels = [("pod-security.kubernetes.io/enforce", "restricted"), ("app.kubernetes.io/part-of", "flotilla-e2e")];
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.clone());
    namespace.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    namespaces.create(&PostParams::default(), &namespace).await?;
    let workspace = Workspace { cluster, namespace: name.clone() };
    let outcome = AssertUnwindSafe(test(&workspace)).catch_unwind().await;
    if !matches!(outcome, Ok(Ok(()))) {
        dump::namespace(&workspace).await;
    }
    let keep = std::env::var("FLOTILLA_E2E_KEEP").is_ok_and(|keep| keep == "1");
    let removed = if keep { Ok(()) } else { workspace.remove().await };
    match outcome {
        Ok(Ok(())) => removed,
        Ok(Err(error)) => Err(format!("in namespace {name}: {error}").into()),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Workspace {
    /// The namespace's objects of a kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// The namespace's `InferenceServices`.
    pub fn services(&self) -> Api<InferenceService> {
        self.api()
    }

    /// Applies a manifest as a user would: what it no longer says is unset.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn apply(&self, manifest: &Value) -> Outcome<InferenceService> {
        let name = manifest["metadata"]["name"].as_str().ok_or("the manifest has no name")?;
        Ok(self.services().patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(manifest)).await?)
    }

    /// Merges a patch into a service.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn patch(&self, name: &str, patch: &Value) -> Outcome<InferenceService> {
        Ok(self.services().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    /// Writes `replicas` through the service's /scale, as `kubectl scale` does.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn scale(&self, name: &str, replicas: u32) -> Outcome {
        let patch = json!({"spec": {"replicas": replicas}});
        self.services().patch_scale(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Deletes a service.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn delete(&self, name: &str) -> Outcome {
        self.services().delete(name, &DeleteParams::background()).await?;
        Ok(())
    }

    /// Waits for a condition with this status, and this reason if one is given, about the manifest as it is now.
    ///
    /// # Errors
    /// It did not come in time.
    pub async fn condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        reason: Option<&str>,
        limit: Duration,
    ) -> Outcome<(Condition, Duration)> {
        let what = format!("{name}: condition {kind}={status} {}", reason.unwrap_or_default());
        let services = self.services();
        until(&what, limit, async || {
            let service = services.get(name).await?;
            let Some(condition) = condition(&service, kind) else {
                return Ok(Look::Continue("no such condition".to_owned()));
            };
            let current = condition.observed_generation == service.metadata.generation;
            let wanted = condition.status == status && reason.is_none_or(|reason| condition.reason == reason);
            Ok(if current && wanted {
                Look::Break(condition)
            } else {
                Look::Continue(format!("{} {}: {}", condition.status, condition.reason, condition.message))
            })
        })
        .await
    }

    /// Waits until a service is Ready.
    ///
    /// # Errors
    /// It did not become so in time.
    pub async fn ready(&self, name: &str, limit: Duration) -> Outcome<Duration> {
        Ok(self.condition(name, "Ready", "True", None, limit).await?.1)
    }

    /// Waits until exactly this many replicas exist and all of them answer.
    ///
    /// # Errors
    /// There are not in time.
    pub async fn replicas(&self, name: &str, replicas: i32, limit: Duration) -> Outcome<Duration> {
        let services = self.services();
        let look = async || {
            let status = services.get(name).await?.status.unwrap_or_default();
            let pods = self.pods(name).await?.len();
            let wanted = usize::try_from(replicas)?;
            Ok(if status.ready_replicas == replicas && status.replicas == replicas && pods == wanted {
                Look::Break(())
            } else {
                Look::Continue(format!("{}/{} ready, {pods} pods", status.ready_replicas, status.replicas))
            })
        };
        Ok(until(&format!("{name}: {replicas} replicas that answer"), limit, look).await?.1)
    }

    /// The service's pods that are not going away.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn pods(&self, name: &str) -> Outcome<Vec<Pod>> {
        let selector = ListParams::default().labels(&format!("flotilla.dev/service={name}"));
        let pods = self.api::<Pod>().list(&selector).await?.items;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The service's Deployment of a pool.
    ///
    /// # Errors
    /// It is not there.
    pub async fn deployment(&self, name: &str, pool: &str) -> Outcome<Deployment> {
        Ok(self.api().get(&format!("{name}-{pool}-stable")).await?)
    }

    /// What a pod's server counted: the sum of a metric's samples.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn measured(&self, pod: &Pod, metric: &str) -> Outcome<f64> {
        let page = self.cluster.page(&self.namespace, &pod.name_any(), 8002, "metrics").await?;
        Ok(crate::cluster::metric(&page, metric, &[]))
    }

    async fn remove(&self) -> Outcome {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client.clone());
        // Nobody waits here for a server's last request.
        let at_once = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::background() };
        self.services().delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
        self.api::<Pod>().delete_collection(&at_once, &ListParams::default()).await?;
        namespaces.delete(&self.namespace, &DeleteParams::background()).await?;
        until(&format!("namespace {} is gone", self.namespace), REMOVAL, async || {
            Ok(match namespaces.get_opt(&self.namespace).await? {
                None => Look::Break(()),
                Some(namespace) => Look::Continue(format!("{:?}", namespace.status)),
            })
        })
        .await?;
        Ok(())
    }
}

/// Kinds and names of everything that carries a service's label: what it owns, and what comes of that.
///
/// # Errors
/// The API server's message.
pub async fn owned(workspace: &Workspace, name: &str) -> Outcome<Vec<String>> {
    async fn of<K>(workspace: &Workspace, selector: &str, found: &mut Vec<String>) -> Outcome
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let objects = workspace.api::<K>().list_metadata(&ListParams::default().labels(selector)).await?;
        found.extend(objects.into_iter().map(|object| format!("{} {}", K::kind(&()), object.name_any())));
        Ok(())
    }
    let mut found = Vec::new();
    let instance = format!("app.kubernetes.io/instance={name}");
    of::<Deployment>(workspace, &instance, &mut found).await?;
    of::<ReplicaSet>(workspace, &format!("flotilla.dev/service={name}"), &mut found).await?;
    of::<Pod>(workspace, &format!("flotilla.dev/service={name}"), &mut found).await?;
    of::<Service>(workspace, &instance, &mut found).await?;
    of::<ServiceAccount>(workspace, &instance, &mut found).await?;
    of::<ConfigMap>(workspace, &instance, &mut found).await?;
    of::<PodDisruptionBudget>(workspace, &instance, &mut found).await?;
    of::<NetworkPolicy>(workspace, &instance, &mut found).await?;
    Ok(found)
}

/// One of a service's conditions.
pub fn condition(service: &InferenceService, kind: &str) -> Option<Condition> {
    service.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind).cloned()
}

/// What the status says went wrong with a pod.
pub fn last_failure(service: &InferenceService) -> Option<PodFailure> {
    service.status.as_ref()?.model.as_ref()?.last_failure.clone()
}
