//! Traffic while replicas come and go: held connections reach the new ones, and no request meets a closed door.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_e2e::load::{Arrivals, Connections, Load, Plan, Target};
use flotilla_e2e::table::Table;
use flotilla_e2e::{Look, Outcome, Workspace, timer, until, with_namespace};
use kube::ResourceExt;
use serde_json::json;

const START: Duration = Duration::from_secs(90);
/// What a server counts.
const SUCCESS: &str = "nv_inference_request_success";

/// Clients that never close a connection get to new replicas, because the server's connections have an age.
#[tokio::test]
async fn held_connections_reach_new_replicas() -> Outcome {
    with_namespace(async |workspace| {
        let external = json!({"scaling": {"mode": "External", "maxReplicas": 3}});
        workspace.apply(&timer("held", &external)).await?;
        workspace.ready("held", START).await?;
        let target = Target::of(workspace, "held").await?;
        let plan = Plan {
            rate: 40.0,
            connections: Connections::Held(16),
            lasting: Duration::from_mins(3),
            arrivals: Arrivals::Even,
        };
        let load = Load::start(&target, plan)?;
        let first = workspace.pods("held").await?.first().map(ResourceExt::name_any).unwrap_or_default();
        until("every connection is in use", Duration::from_secs(20), async || {
            let pods = workspace.pods("held").await?;
            let pod = pods.first().ok_or("no pod")?;
            let answered = workspace.measured(pod, SUCCESS).await?;
            Ok(if answered >= 100.0 { Look::Break(()) } else { Look::Continue(format!("{answered}")) })
        })
        .await?;
        workspace.scale("held", 3).await?;
        workspace.replicas("held", 3, START).await?;
        let (reached, took) = until("each new replica answers requests", Duration::from_secs(30), async || {
            let mut answered = BTreeMap::new();
            for pod in workspace.pods("held").await? {
                let success = workspace.measured(&pod, SUCCESS).await?;
                answered.insert(pod.name_any(), success);
            }
            let new: Vec<_> = answered.iter().filter(|(name, _)| **name != first).collect();
            let all = new.len() == 2 && new.iter().all(|(_, count)| **count > 0.0);
            Ok(if all { Look::Break(answered.clone()) } else { Look::Continue(format!("{answered:?}")) })
        })
        .await?;
        let report = load.stop().await?;
        report.all_answered()?;
        let mut table = Table::new("16 held connections after a scale-up from 1 to 3", &["what", "measured"]);
        table.row([
            "both new replicas answer held connections after".to_owned(),
            format!("{:.1} s", took.as_secs_f64()),
        ]);
        table.row(["requests by then, each replica".to_owned(), format!("{:?}", reached.values())]);
        table.row(["requests that failed".to_owned(), format!("0 of {}", report.answers.len())]);
        table.print();
        Ok(())
    })
    .await
}

/// Replicas go away under load, and no request notices.
#[tokio::test]
async fn scaling_down_fails_no_request() -> Outcome {
    with_namespace(async |workspace| {
        let external = json!({"scaling": {"mode": "External", "maxReplicas": 3}, "replicas": 3});
        workspace.apply(&timer("down", &external)).await?;
        workspace.replicas("down", 3, START).await?;
        let target = Target::of(workspace, "down").await?;
        let plan = |connections| Plan {
            rate: 60.0,
            connections,
            lasting: Duration::from_mins(3),
            arrivals: Arrivals::Poisson,
        };
        // Held connections must be told to go; fresh ones must not be led to a closed door.
        let held = Load::start(&target, plan(Connections::Held(12)))?;
        let fresh = Load::start(&target, plan(Connections::AtOnce(200)))?;
        answering(workspace, "down", 40.0).await?;
        workspace.scale("down", 1).await?;
        workspace.replicas("down", 1, START).await?;
        until("the pods are gone", START, async || {
            let selector = kube::api::ListParams::default().labels("flotilla.dev/service=down");
            let pods = workspace.api::<k8s_openapi::api::core::v1::Pod>().list(&selector).await?.items.len();
            Ok(if pods == 1 { Look::Break(()) } else { Look::Continue(format!("{pods} pods")) })
        })
        .await?;
        let pods = workspace.pods("down").await?;
        let left = workspace.measured(pods.first().ok_or("no pod")?, SUCCESS).await?;
        answering(workspace, "down", left + 200.0).await?;
        let (held, fresh) = (held.stop().await?, fresh.stop().await?);
        held.all_answered().map_err(|error| format!("held connections: {error}"))?;
        fresh.all_answered().map_err(|error| format!("fresh connections: {error}"))?;
        let mut table = Table::new("From 3 replicas to 1 under 120 requests/s", &["connections", "requests", "failed"]);
        table.row(["12 held", &held.answers.len().to_string(), "0"]);
        table.row(["as needed", &fresh.answers.len().to_string(), "0"]);
        table.print();
        Ok(())
    })
    .await
}

/// Waits until each replica has answered so many requests.
async fn answering(workspace: &Workspace, name: &str, requests: f64) -> Outcome {
    until(&format!("each replica has answered {requests} requests"), START, async || {
        let mut counts = Vec::new();
        for pod in workspace.pods(name).await? {
            counts.push(workspace.measured(&pod, SUCCESS).await?);
        }
        let all = counts.iter().all(|count| *count >= requests);
        Ok(if all { Look::Break(()) } else { Look::Continue(format!("{counts:?}")) })
    })
    .await?;
    Ok(())
}
