//! The installed operator: its pods, its leader, its Deployment, what it counts.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::{Cluster, Look, Outcome, node, until};

/// Where the charts are installed.
pub const NAMESPACE: &str = "flotilla-system";
/// The names of its Deployment and its Lease.
const NAME: &str = "flotilla-operator";

/// The operator's pods.
///
/// # Errors
/// The API server's message.
pub async fn pods(cluster: &Cluster) -> Outcome<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let selector = ListParams::default().labels("app.kubernetes.io/name=flotilla,app.kubernetes.io/component=operator");
    Ok(pods.list(&selector).await?.items)
}

/// The pod that the Lease names; none while it names none that exists.
///
/// # Errors
/// The API server's message.
pub async fn leader(cluster: &Cluster) -> Outcome<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let lease = leases.get_opt(NAME).await?;
    let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
    let exists = pods(cluster).await?.iter().any(|pod| pod.name_any() == holder);
    Ok(exists.then_some(holder))
}

/// Waits for a leader.
///
/// # Errors
/// There is none in time.
pub async fn led(cluster: &Cluster, limit: Duration) -> Outcome<(String, Duration)> {
    until("an operator leads", limit, async || {
        Ok(leader(cluster).await?.map_or_else(|| Look::Continue("none does".to_owned()), Look::Break))
    })
    .await
}

/// Sends a signal to an operator's process, past Kubernetes: KILL is a crash, STOP a node that hangs.
///
/// # Errors
/// There is no such process.
pub async fn signal(cluster: &Cluster, pod: &str, signal: &str) -> Outcome {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let process = node::process(cluster, &pods.get(pod).await?).await?;
    node::run(cluster, &["kill", &format!("-{signal}"), &process]).await?;
    Ok(())
}

/// Deletes an operator's pod, as a rolling update does.
///
/// # Errors
/// The API server's message.
pub async fn delete(cluster: &Cluster, pod: &str) -> Outcome {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    pods.delete(pod, &DeleteParams::default()).await?;
    Ok(())
}

/// Sets how many operators run, and waits until as many are ready and no other exists.
///
/// # Errors
/// It did not come to that in time.
pub async fn scale(cluster: &Cluster, replicas: i32, limit: Duration) -> Outcome {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch_scale(NAME, &PatchParams::default(), &patch).await?;
    until(&format!("{replicas} operators"), limit, async || {
        let ready = deployments.get(NAME).await?.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let pods = pods(cluster).await?.len();
        let done = ready == replicas && usize::try_from(replicas).is_ok_and(|replicas| pods == replicas);
        Ok(if done { Look::Break(()) } else { Look::Continue(format!("{ready} ready, {pods} pods")) })
    })
    .await?;
    Ok(())
}

/// How many operators the Deployment asks for.
///
/// # Errors
/// It is not installed.
pub async fn wanted(cluster: &Cluster) -> Outcome<i32> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    Ok(deployments.get(NAME).await?.spec.and_then(|spec| spec.replicas).unwrap_or(1))
}

/// One of the leader's metrics, summed.
///
/// # Errors
/// It does not answer.
pub async fn metric(cluster: &Cluster, name: &str) -> Outcome<f64> {
    let (leader, _) = led(cluster, Duration::from_secs(30)).await?;
    let page = cluster.page(NAMESPACE, &leader, 8080, "metrics").await?;
    Ok(crate::cluster::metric(&page, name, &[]))
}
