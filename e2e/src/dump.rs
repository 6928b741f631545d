//! What is printed when a test failed.

use std::fmt::Write as _;

use flotilla::api::InferenceService;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt as _};

use crate::{Outcome, Workspace, operator};

/// Lines of each log that are shown.
const TAIL: i64 = 60;

/// Prints the namespace's services, Deployments, pods, logs and events, and the operator's log.
#[allow(clippy::print_stdout, reason = "a failed test has nothing else to say it with")]
pub async fn namespace(workspace: &Workspace) {
    let mut text = format!("\n---- what is in namespace {}\n", workspace.namespace);
    for section in [
        services(workspace).await,
        deployments(workspace).await,
        pods(workspace).await,
        events(workspace).await,
        operators(workspace).await,
    ] {
        text += &section.unwrap_or_else(|error| format!("(not to be had: {error})\n"));
    }
    println!("{text}---- end of namespace {}", workspace.namespace);
}

async fn services(workspace: &Workspace) -> Outcome<String> {
    let mut text = String::new();
    for mut service in workspace.api::<InferenceService>().list(&ListParams::default()).await? {
        service.metadata.managed_fields = None;
        write!(text, "-- InferenceService\n{}", serde_saphyr::to_string(&service)?)?;
    }
    Ok(text)
}

async fn deployments(workspace: &Workspace) -> Outcome<String> {
    let mut text = String::new();
    for deployment in workspace.api::<Deployment>().list(&ListParams::default()).await? {
        let spec = deployment.spec.clone().unwrap_or_default();
        writeln!(
            text,
            "-- Deployment {}: replicas {:?} paused {:?} strategy {} status {}",
            deployment.name_any(),
            spec.replicas,
            spec.paused,
            serde_json::to_string(&spec.strategy)?,
            serde_json::to_string(&deployment.status)?
        )?;
    }
    Ok(text)
}

async fn pods(workspace: &Workspace) -> Outcome<String> {
    let pods: Api<Pod> = workspace.api();
    let mut text = String::new();
    for pod in pods.list(&ListParams::default()).await? {
        let status = pod.status.clone().unwrap_or_default();
        writeln!(text, "-- pod {} {:?}", pod.name_any(), status.phase)?;
        for condition in status.conditions.iter().flatten().filter(|condition| condition.status != "True") {
            writeln!(text, "   {} {:?} {:?}", condition.type_, condition.reason, condition.message)?;
        }
        for container in status.container_statuses.iter().flatten() {
            let state = serde_json::to_string(&container.state)?;
            let last = serde_json::to_string(&container.last_state)?;
            writeln!(text, "   {} restarts {} {state} before: {last}", container.name, container.restart_count)?;
        }
        let tail = LogParams { tail_lines: Some(TAIL), ..LogParams::default() };
        text += &pods.logs(&pod.name_any(), &tail).await.unwrap_or_else(|error| format!("   no log: {error}\n"));
    }
    Ok(text)
}

async fn events(workspace: &Workspace) -> Outcome<String> {
    let mut text = "-- events\n".to_owned();
    for event in workspace.api::<Event>().list(&ListParams::default()).await? {
        let regarding = event.regarding.clone().unwrap_or_default();
        writeln!(
            text,
            "   {} {}/{}: {}",
            event.reason.unwrap_or_default(),
            regarding.kind.unwrap_or_default(),
            regarding.name.unwrap_or_default(),
            event.note.unwrap_or_default()
        )?;
    }
    Ok(text)
}

async fn operators(workspace: &Workspace) -> Outcome<String> {
    let mut text = String::new();
    let pods: Api<Pod> = Api::namespaced(workspace.cluster.client.clone(), operator::NAMESPACE);
    for pod in operator::pods(&workspace.cluster).await? {
        writeln!(text, "-- operator {}", pod.name_any())?;
        let tail = LogParams { tail_lines: Some(TAIL * 10), ..LogParams::default() };
        let log = pods.logs(&pod.name_any(), &tail).await.unwrap_or_else(|error| format!("no log: {error}"));
        // Other tests' services are not what failed.
        for line in log.lines().filter(|line| !line.contains("\"e2e-") || line.contains(&workspace.namespace)) {
            writeln!(text, "   {line}")?;
        }
    }
    Ok(text)
}
