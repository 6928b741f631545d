//! Which pods a scale-down takes. The chart is installed with `podDeletionCost.enabled` for this file.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla::api::InferenceService;
use flotilla_e2e::apiserver::ApiServer;
use flotilla_e2e::table::Table;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, throughout, timer, until, with_namespace};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const START: Duration = Duration::from_secs(90);
const LIMIT: Duration = Duration::from_secs(30);
const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Rows of one request, as many as a server takes: the timer device needs 1.4 s for them, in 8 batches.
const ROWS: usize = 256;
/// Requests at once to a pod: while one executes, another waits.
const AT_ONCE: usize = 3;
/// Longer than the operator's interval between two scrapes, twice.
const SEEN: Duration = Duration::from_secs(6);
/// Of three equals a ReplicaSet takes any: by chance the right one twice is one in nine.
const ROUNDS: usize = 2;

/// Of three replicas the one that nobody waits for goes, though it is the oldest in the first round.
#[tokio::test]
async fn the_idle_replica_goes_and_the_loaded_stay() -> Outcome {
    with_namespace(async |workspace| {
        let external = json!({"scaling": {"mode": "External", "maxReplicas": 3}, "replicas": 3});
        workspace.apply(&timer("chosen", &external)).await?;
        workspace.replicas("chosen", 3, START).await?;
        let mut table = Table::new("Scale-downs from 3 replicas to 2", &["waiting, by pod", "went", "its cost"]);
        for _ in 0..ROUNDS {
            let mut pods = workspace.pods("chosen").await?;
            pods.sort_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
            let idle = pods.first().ok_or("no pod")?.clone();
            let loaded = pods.get(1..).ok_or("one pod")?;
            let mut load = JoinSet::new();
            for (pod, _) in loaded.iter().flat_map(|pod| std::iter::repeat_n(pod, AT_ONCE).zip(0..)) {
                load.spawn(keep_busy(workspace.cluster.client.clone(), workspace.namespace.clone(), pod.name_any()));
            }
            waiting(workspace, loaded).await?;
            throughout("requests wait at the loaded pods", SEEN, async || {
                let waiting = pending(workspace, loaded).await?;
                let all = waiting.values().all(|waiting| *waiting > 0.0);
                Ok(if all { Ok(()) } else { Err(format!("{waiting:?}")) })
            })
            .await?;
            let before = pending(workspace, &pods).await?;
            workspace.scale("chosen", 2).await?;
            let (gone, _) = until("a pod goes", LIMIT, async || {
                let all = workspace.api::<Pod>().list(&ListParams::default()).await?.items;
                // One of an earlier round may be there still.
                let now = all.into_iter().filter(|pod| pods.iter().any(|before| before.uid() == pod.uid()));
                let going = now.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_some());
                Ok(going.map_or_else(|| Look::Continue("all stay".to_owned()), Look::Break))
            })
            .await?;
            let cost = gone.annotations().get(ANNOTATION).cloned();
            ensure!(
                gone.name_any() == idle.name_any(),
                "{} goes and not {}, with {before:?} waiting",
                gone.name_any(),
                idle.name_any()
            );
            ensure!(cost.as_deref() == Some("-1"), "it was not told: its cost is {cost:?}");
            for pod in workspace.pods("chosen").await? {
                ensure!(!pod.annotations().contains_key(ANNOTATION), "{} stays and is marked", pod.name_any());
            }
            load.shutdown().await;
            table.row([format!("{:?}", before.values()), gone.name_any(), cost.unwrap_or_default()]);
            workspace.scale("chosen", 3).await?;
            workspace.replicas("chosen", 3, START).await?;
        }
        table.print();
        Ok(())
    })
    .await
}

/// Sends requests of many rows to one pod, past its Service, until it is dropped.
async fn keep_busy(client: Client, namespace: String, pod: String) -> Outcome {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:8000/proxy/v2/models/chosen/infer");
    let rows = json!({"name": "input", "shape": [ROWS, 4], "datatype": "FP32", "data": vec![0.5; ROWS * 4]});
    let body = serde_json::to_vec(&json!({"inputs": [rows]}))?;
    loop {
        let request = Request::new(&path).create(&PostParams::default(), body.clone())?;
        client.request_text(request).await?;
    }
}

async fn pending(workspace: &Workspace, pods: &[Pod]) -> Outcome<BTreeMap<String, f64>> {
    let mut pending = BTreeMap::new();
    for pod in pods {
        pending.insert(pod.name_any(), workspace.measured(pod, "flotilla_pending_images").await?);
    }
    Ok(pending)
}

async fn waiting(workspace: &Workspace, pods: &[Pod]) -> Outcome {
    until("requests wait at each of the loaded pods", LIMIT, async || {
        let waiting = pending(workspace, pods).await?;
        let all = waiting.values().all(|waiting| *waiting > 0.0);
        Ok(if all { Look::Break(()) } else { Look::Continue(format!("{waiting:?}")) })
    })
    .await?;
    Ok(())
}

/// Without the chart's value no pod is written; with it, one that goes, and the same scale-down again writes nothing more.
#[tokio::test]
async fn only_what_changes_is_written_and_only_where_asked_for() -> Outcome {
    let server = ApiServer::start().await?;
    let services: Api<InferenceService> = Api::namespaced(server.client.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(server.client.clone(), "default");
    let off = server.operator("off").await?;
    let external = json!({"scaling": {"mode": "External", "maxReplicas": 3}, "replicas": 3});
    services.create(&PostParams::default(), &serde_json::from_value(timer("told", &external))?).await?;
    ordered(&server, 3).await?;
    // Here nobody but this test is the Deployment's controller and the kubelet.
    let deployments: Api<Deployment> = Api::namespaced(server.client.clone(), "default");
    let status = json!({"status": {"observedGeneration": 1_000_000, "replicas": 3, "updatedReplicas": 3}});
    deployments.patch_status("told-cpu-stable", &PatchParams::default(), &Patch::Merge(status)).await?;
    for name in ["a", "b", "c"] {
        pods.create(&PostParams::default(), &serde_json::from_value(pod(name))?).await?;
        let ready = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await?;
    }
    settled(&off).await?;
    down_and_up(&server, &services).await?;
    ensure!(marks(&pods).await?.is_empty(), "pods were marked although nobody asked for it");
    off.stop().await?;

    let on = server.operator_with("on", &["--pod-deletion-cost", "true"]).await?;
    settled(&on).await?;
    down_and_up(&server, &services).await?;
    let first = marks(&pods).await?;
    ensure!(first.len() == 1 && first.iter().all(|(_, cost, _)| cost == "-1"), "one of three goes: {first:?}");
    down_and_up(&server, &services).await?;
    let second = marks(&pods).await?;
    ensure!(second == first, "the same scale-down again wrote: {first:?}, then {second:?}");
    on.stop().await
}

/// A pod as the Deployment's controllers would make it.
fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {
            "flotilla.dev/service": "told", "flotilla.dev/pool": "cpu", "flotilla.dev/track": "stable", "pod-template-hash": "1",
        }},
        "spec": {"containers": [{"name": "server", "image": "none:1"}]},
    })
}

/// Waits until nothing of a pod can be read any more: until then a new one would stand better than the others.
async fn settled(operator: &flotilla_e2e::apiserver::Operator) -> Outcome {
    until("every pod was asked for its metrics twice", LIMIT, async || {
        let scrapes = operator.metric("flotilla_operator_scrapes_total").await?;
        Ok(if scrapes >= 9.0 { Look::Break(()) } else { Look::Continue(format!("{scrapes} scrapes")) })
    })
    .await?;
    Ok(())
}

async fn down_and_up(server: &ApiServer, services: &Api<InferenceService>) -> Outcome {
    for replicas in [2, 3] {
        let patch = json!({"spec": {"replicas": replicas}});
        services.patch_scale("told", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        ordered(server, replicas).await?;
    }
    Ok(())
}

async fn ordered(server: &ApiServer, replicas: i32) -> Outcome {
    let deployments: Api<Deployment> = Api::namespaced(server.client.clone(), "default");
    until(&format!("{replicas} replicas are ordered"), LIMIT, async || {
        let found = deployments.get_opt("told-cpu-stable").await?;
        let now = found.and_then(|deployment| deployment.spec?.replicas);
        Ok(if now == Some(replicas) { Look::Break(()) } else { Look::Continue(format!("{now:?}")) })
    })
    .await?;
    Ok(())
}

/// Pods with a cost, the cost, and their version.
async fn marks(pods: &Api<Pod>) -> Outcome<Vec<(String, String, Option<String>)>> {
    let all = pods.list(&ListParams::default()).await?.items;
    let marked = all.into_iter().filter_map(|pod| {
        let cost = pod.annotations().get(ANNOTATION)?.clone();
        Some((pod.name_any(), cost, pod.resource_version()))
    });
    Ok(marked.collect())
}
