//! What a cluster's own controllers, scheduler and kubelets would have made: nodes, Deployments that have what they ask for,
//! and ready pods with everything that such pods carry.

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::address;
use crate::Outcome;

/// Requests under way.
const WRITING: usize = 24;
/// GPUs of a node.
const GPUS: usize = 8;
/// Pods without a GPU on a node.
const PODS_WITHOUT_GPU: usize = 100;
const OURS: &str = "app.kubernetes.io/managed-by=flotilla";

/// Makes nodes for `pods` pods, half of which take a GPU each.
///
/// # Errors
/// The API server's message.
pub async fn nodes(client: &Client, pods: usize) -> Outcome<usize> {
    let nodes: Api<Node> = Api::all(client.clone());
    let with_gpus = pods.div_ceil(2 * GPUS);
    let count = with_gpus + pods.div_ceil(2 * PODS_WITHOUT_GPU);
    let create = async |index: usize| -> Outcome {
        let has_gpus = index < with_gpus;
        let labels = if has_gpus { json!({"nvidia.com/gpu.product": "NVIDIA-L4"}) } else { json!({}) };
        let name = node_name(index);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        let mut resources = json!({"cpu": "64", "memory": "256Gi", "pods": "110"});
        if has_gpus {
            resources["nvidia.com/gpu"] = json!(GPUS.to_string());
        }
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
            "lastHeartbeatTime": Timestamp::now(), "lastTransitionTime": Timestamp::now()});
        let status = json!({"status": {"capacity": resources, "allocatable": resources, "conditions": [ready]}});
        nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    };
    each(0..count, create).await?;
    Ok(count)
}

/// Makes what the Deployments of all services ask for: `replicas` ready pods each, in one of `nodes` nodes.
///
/// # Errors
/// The API server's message, or a Deployment that asks for another number.
pub async fn pods(client: &Client, replicas: usize, nodes: usize) -> Outcome<usize> {
    let all: Api<Deployment> = Api::all(client.clone());
    let mut deployments = all.list(&ListParams::default().labels(OURS)).await?.items;
    deployments.sort_by_key(|deployment| (takes_gpu(deployment), deployment.name_any()));
    let half = deployments.iter().filter(|deployment| !takes_gpu(deployment)).count();
    let with_gpus = nodes - (half * replicas).div_ceil(PODS_WITHOUT_GPU);
    let pods = deployments.iter().enumerate().flat_map(|(index, deployment)| {
        (0..replicas).map(move |replica| {
            let pod = index * replicas + replica;
            let node = if index < half { with_gpus + pod / PODS_WITHOUT_GPU } else { (pod - half * replicas) / GPUS };
            (deployment, replica, pod, node.min(nodes - 1))
        })
    });
    each(pods, async |(deployment, replica, pod, node)| ready_pod(client, deployment, replica, pod, node).await)
        .await?;
    each(&deployments, async |deployment| {
        let asked = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        ensure!(usize::try_from(asked) == Ok(replicas), "{} asks for {asked} replicas", deployment.name_any());
        let status = json!({"status": {"observedGeneration": deployment.metadata.generation, "replicas": replicas,
            "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas, "conditions": [
                {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": "it has minimum availability"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "message": "it has progressed"},
        ]}});
        let namespaced: Api<Deployment> =
            Api::namespaced(client.clone(), &deployment.namespace().unwrap_or_default());
        namespaced.patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    })
    .await?;
    Ok(deployments.len() * replicas)
}

async fn ready_pod(client: &Client, deployment: &Deployment, replica: usize, pod: usize, node: usize) -> Outcome {
    let template = deployment.spec.as_ref().map(|spec| serde_json::to_value(&spec.template)).transpose()?;
    let mut template = template.ok_or("a Deployment without a template")?;
    let hash = format!(
        "{:08x}",
        deployment.name_any().bytes().fold(7_u32, |hash, byte| { hash.wrapping_mul(31).wrapping_add(u32::from(byte)) })
    );
    let name = format!("{}-{hash}-{replica:05}", deployment.name_any());
    template["apiVersion"] = json!("v1");
    template["kind"] = json!("Pod");
    template["metadata"]["name"] = json!(name);
    template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
    template["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
        "blockOwnerDeletion": true, "name": format!("{}-{hash}", deployment.name_any()), "uid": deployment.uid()}]);
    template["spec"]["nodeName"] = json!(node_name(node));
    let pods: Api<Pod> = Api::namespaced(client.clone(), &deployment.namespace().unwrap_or_default());
    pods.create(&PostParams::default(), &serde_json::from_value(template.clone())?).await?;
    let status = json!({"status": status(&template, pod, node)});
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// What a kubelet says of a pod that has been ready for a moment.
fn status(template: &Value, pod: usize, node: usize) -> Value {
    let (now, ip) = (Timestamp::now(), address(pod).to_string());
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now, "observedGeneration": 1});
    let container = |container: &Value| {
        json!({"name": container["name"], "image": container["image"], "ready": true, "started": true, "restartCount": 0,
            "imageID": "docker.io/flotilla/server@sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            "containerID": "containerd://5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            "state": {"running": {"startedAt": now}}, "lastState": {}})
    };
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    let containers: Vec<Value> =
        template["spec"]["containers"].as_array().into_iter().flatten().map(container).collect();
    json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
        "hostIP": format!("10.0.{}.{}", node / 250, node % 250 + 1), "hostIPs": [{"ip": format!("10.0.{}.{}", node / 250, node % 250 + 1)}],
        "conditions": conditions,
        "containerStatuses": containers})
}

fn takes_gpu(deployment: &Deployment) -> bool {
    let containers =
        deployment.spec.iter().filter_map(|spec| spec.template.spec.as_ref()).flat_map(|pod| &pod.containers);
    containers
        .filter_map(|container| container.resources.as_ref()?.limits.as_ref())
        .any(|limits| limits.contains_key("nvidia.com/gpu"))
}

fn node_name(index: usize) -> String {
    format!("node-{index:05}")
}

/// Does something for each item, some at a time, until one fails.
async fn each<T>(items: impl IntoIterator<Item = T>, act: impl AsyncFn(T) -> Outcome) -> Outcome {
    let act = &act;
    let mut under_way = stream::iter(items).map(|item| act(item)).buffer_unordered(WRITING);
    while let Some(done) = under_way.next().await {
        done?;
    }
    Ok(())
}
