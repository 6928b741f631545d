//! Inside the cluster's node: processes, packet filters, pretended GPUs.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::process::Command;

use crate::{Cluster, Look, Outcome, Workspace, until};

/// Runs a program in the node's container and gives what it wrote.
///
/// # Errors
/// It failed.
pub async fn run(cluster: &Cluster, command: &[&str]) -> Outcome<String> {
    let output = Command::new("docker").arg("exec").arg(&cluster.node).args(command).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?} in the node: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The node's id of the process in a pod's first container.
///
/// # Errors
/// The pod does not run.
pub async fn process(cluster: &Cluster, pod: &Pod) -> Outcome<String> {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let id = containers.into_iter().flatten().find_map(|container| container.container_id.clone());
    let id = id.ok_or("the pod has no container")?.replace("containerd://", "");
    let tasks = run(cluster, &["ctr", "-n", "k8s.io", "tasks", "list"]).await?;
    let process = tasks.lines().find_map(|line| line.strip_prefix(&id)?.split_whitespace().next());
    Ok(process.ok_or("the container has no process")?.to_owned())
}

/// A packet filter in a pod's own network: what comes in to a port is dropped, without a word to the sender.
pub struct Filter {
    cluster: Cluster,
    process: String,
    port: String,
}

impl Filter {
    /// Sets the filter.
    ///
    /// # Errors
    /// The pod does not run, or the node's iptables failed.
    pub async fn set(cluster: &Cluster, pod: &Pod, port: u16) -> Outcome<Self> {
        let process = process(cluster, pod).await?;
        let filter = Self { cluster: cluster.clone(), process, port: port.to_string() };
        filter.iptables("-I").await?;
        Ok(filter)
    }

    /// Removes it.
    ///
    /// # Errors
    /// The node's iptables failed.
    pub async fn remove(self) -> Outcome {
        self.iptables("-D").await
    }

    async fn iptables(&self, verb: &str) -> Outcome {
        let namespace = ["nsenter", "-t", self.process.as_str(), "-n"];
        let rule = ["iptables", verb, "INPUT", "-p", "tcp", "--dport", self.port.as_str(), "-j", "DROP"];
        run(&self.cluster, &[&namespace[..], &rule[..]].concat()).await?;
        Ok(())
    }
}

/// Pretended GPUs of a test's own, so that tests do not take each other's.
pub struct Gpus {
    cluster: Cluster,
    /// The extended resource's name.
    pub resource: String,
}

/// Runs a test with `count` of a resource that is named after the test's namespace, and takes it away afterwards.
///
/// # Errors
/// The test's own, or the API server's message.
pub async fn with_gpus(workspace: &Workspace, count: u32, test: impl AsyncFnOnce(&Gpus) -> Outcome) -> Outcome {
    let resource = format!("{}.example/gpu", workspace.namespace);
    let gpus = Gpus { cluster: workspace.cluster.clone(), resource };
    gpus.set(Some(count)).await?;
    let outcome = match gpus.shown(count).await {
        Ok(()) => test(&gpus).await,
        Err(error) => Err(error),
    };
    gpus.set(None).await?;
    outcome
}

impl Gpus {
    /// The scheduler reads allocatable, and the kubelet writes it too.
    async fn shown(&self, count: u32) -> Outcome {
        let nodes: Api<Node> = Api::all(self.cluster.client.clone());
        until("the node shows its GPUs", Duration::from_secs(30), async || {
            let allocatable = nodes.get(&self.cluster.node).await?.status.and_then(|status| status.allocatable);
            let shown = allocatable.and_then(|allocatable| allocatable.get(&self.resource).cloned());
            Ok(if shown.as_ref().is_some_and(|shown| shown.0 == count.to_string()) {
                Look::Break(())
            } else {
                Look::Continue(format!("{shown:?}"))
            })
        })
        .await?;
        Ok(())
    }

    /// Changes how many there are; `None` takes the resource away.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn set(&self, count: Option<u32>) -> Outcome {
        let nodes: Api<Node> = Api::all(self.cluster.client.clone());
        let gpus = json!({self.resource.as_str(): count.map(|count| count.to_string())});
        let patch = Patch::Merge(json!({"status": {"capacity": gpus, "allocatable": gpus}}));
        nodes.patch_status(&self.cluster.node, &PatchParams::default(), &patch).await?;
        Ok(())
    }
}
