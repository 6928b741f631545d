//! A real KEDA, of which only the scalers of other things are left out, takes the law's number from the operator's leader
//! and sets the replicas of a service in mode External by it.

use std::path::Path;
use std::time::Duration;

use flotilla_e2e::load::{Arrivals, Connections, Load, Plan, Target};
use flotilla_e2e::table::Table;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, operator, throughout, timer, until, with_namespace};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use serde_json::{Value, json};

const START: Duration = Duration::from_secs(90);
const WINDOW: Duration = Duration::from_secs(30);
/// Images per second for which the law wants this many replicas of the timer device: see `scaling.rs`.
const RATE: f64 = 340.0;
const NEEDED: i32 = 3;
/// The autoscaler looks every 15 s, and KEDA's first look at a new ScaledObject may come later than that.
const REACTION: Duration = Duration::from_mins(2);

async fn ordered(workspace: &Workspace, name: &str) -> Outcome<i32> {
    Ok(workspace.deployment(name, "cpu").await?.spec.and_then(|spec| spec.replicas).unwrap_or(1))
}

async fn until_ordered(workspace: &Workspace, name: &str, what: &str, replicas: i32) -> Outcome<Duration> {
    let ((), took) = until(what, WINDOW + REACTION, async || {
        let now = ordered(workspace, name).await?;
        Ok(if now == replicas { Look::Break(()) } else { Look::Continue(format!("{now} replicas")) })
    })
    .await?;
    Ok(took)
}

/// The ScaledObject of `examples/keda.yaml`, for a service of the test.
fn scaled_object(name: &str) -> Outcome<DynamicObject> {
    let file = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../examples/keda.yaml");
    let text = std::fs::read_to_string(file)?;
    let document = text.split("\n---\n").find(|document| document.contains("\nkind: ScaledObject"));
    let mut object: Value = serde_saphyr::from_str(document.ok_or("the example has no ScaledObject")?)?;
    object["metadata"]["name"] = json!(name);
    object["spec"]["scaleTargetRef"]["name"] = json!(name);
    object["spec"]["triggers"][0]["metadata"]["service"] = json!(name);
    object["spec"]["maxReplicaCount"] = json!(4);
    Ok(serde_json::from_value(object)?)
}

fn scaled_objects(workspace: &Workspace) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
    Api::namespaced_with(workspace.cluster.client.clone(), &workspace.namespace, &kind)
}

/// A service in mode External with the ScaledObject for it, idle, and KEDA asking.
async fn scaled_by_keda(workspace: &Workspace, name: &str) -> Outcome<Target> {
    let spec = json!({"scaling": {
        "mode": "External", "maxReplicas": 4, "scaleDownStabilizationSeconds": WINDOW.as_secs(),
    }});
    workspace.apply(&timer(name, &spec)).await?;
    workspace.ready(name, START).await?;
    let target = Target::of(workspace, name).await?;
    scaled_objects(workspace).create(&PostParams::default(), &scaled_object(name)?).await?;
    reads_the_metric(workspace, name).await?;
    Ok(target)
}

/// Waits until KEDA's autoscaler says that it has the metric.
async fn reads_the_metric(workspace: &Workspace, name: &str) -> Outcome<Duration> {
    let autoscalers = workspace.api::<HorizontalPodAutoscaler>();
    let ((), took) = until("KEDA's autoscaler reads the metric", REACTION, async || {
        let Some(autoscaler) = autoscalers.get_opt(&format!("keda-hpa-{name}")).await? else {
            return Ok(Look::Continue("there is no autoscaler".to_owned()));
        };
        let conditions = autoscaler.status.and_then(|status| status.conditions).unwrap_or_default();
        let active = conditions.iter().find(|condition| condition.type_ == "ScalingActive");
        Ok(match active {
            Some(active) if active.status == "True" => Look::Break(()),
            other => Look::Continue(format!("{other:?}")),
        })
    })
    .await?;
    Ok(took)
}

fn load(target: &Target) -> Outcome<Load> {
    let plan = Plan {
        rate: RATE,
        connections: Connections::AtOnce(3_000),
        lasting: Duration::from_mins(8),
        arrivals: Arrivals::Poisson,
    };
    Load::start(target, plan)
}

/// KEDA's finalizer needs the object's target, so it goes before the namespace does.
async fn forget(workspace: &Workspace, name: &str) -> Outcome {
    let objects = scaled_objects(workspace);
    objects.delete(name, &DeleteParams::default()).await?;
    until("the ScaledObject is gone", START, async || {
        let gone = objects.get_opt(name).await?.is_none();
        Ok(if gone { Look::Break(()) } else { Look::Continue("it is there".to_owned()) })
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn keda_moves_the_replicas_to_where_the_law_wants_them() -> Outcome {
    with_namespace(async |workspace| {
        let target = scaled_by_keda(workspace, "scaled").await?;
        throughout("idle, KEDA leaves one replica", Duration::from_secs(20), async || {
            let replicas = ordered(workspace, "scaled").await?;
            Ok(if replicas == 1 { Ok(()) } else { Err(format!("{replicas} replicas")) })
        })
        .await?;
        let load = load(&target)?;
        let mut table = Table::new("KEDA, a step from 0 to 340 images/s", &["event", "after"]);
        let mut row = |what: &str, took: Duration| table.row([what.to_owned(), format!("{:.1} s", took.as_secs_f64())]);
        let ((), first) = until("KEDA orders more", REACTION, async || {
            let replicas = ordered(workspace, "scaled").await?;
            Ok(if replicas > 1 { Look::Break(()) } else { Look::Continue("still 1 replica".to_owned()) })
        })
        .await?;
        row("the first order", first);
        until("the needed replicas answer", REACTION, async || {
            let ready = workspace.services().get("scaled").await?.status.unwrap_or_default().ready_replicas;
            Ok(if ready >= NEEDED { Look::Break(()) } else { Look::Continue(format!("{ready}")) })
        })
        .await?;
        row("3 replicas answer", load.started.elapsed());
        // The backlog of the first seconds may cost one more for a time.
        until_ordered(workspace, "scaled", "the number settles at what is needed", NEEDED).await?;
        row("settled at 3", load.started.elapsed());
        // Who wrote it: the autoscaler, through /scale. Flotilla only followed.
        let service = workspace.services().get("scaled").await?;
        ensure!(service.spec.replicas == NEEDED, "spec.replicas is {}", service.spec.replicas);
        let scaling = service.status.and_then(|status| status.scaling);
        ensure!(scaling.as_ref().is_some_and(|scaling| scaling.reason == "External"), "{scaling:?}");
        throughout("under steady load", Duration::from_secs(30), async || {
            let replicas = ordered(workspace, "scaled").await?;
            Ok(if replicas == NEEDED { Ok(()) } else { Err(format!("{replicas} replicas")) })
        })
        .await?;
        load.stop().await?;
        row("load gone: back at 1", until_ordered(workspace, "scaled", "back at one replica", 1).await?);
        table.print();
        forget(workspace, "scaled").await
    })
    .await
}

/// The leader hangs: what KEDA last wrote stands, the standby answers instead, and what it says is acted on.
#[tokio::test]
async fn a_lost_leader_takes_no_replica_away_and_its_successor_answers() -> Outcome {
    with_namespace(async |workspace| {
        let cluster = &workspace.cluster;
        operator::scale(cluster, 2, START).await?;
        let target = scaled_by_keda(workspace, "led").await?;
        let load = load(&target)?;
        until_ordered(workspace, "led", "the number settles at what is needed", NEEDED).await?;
        let (old, _) = operator::led(cluster, START).await?;
        operator::signal(cluster, &old, "STOP").await?;
        let outcome = async {
            until("another operator leads", Duration::from_secs(30), async || {
                Ok(match operator::leader(cluster).await? {
                    Some(leader) if leader != old => Look::Break(leader),
                    other => Look::Continue(format!("the leader is {other:?}")),
                })
            })
            .await
        };
        let outcome = outcome.await;
        operator::signal(cluster, &old, "CONT").await?;
        outcome?;
        let ((), took) = until("the new leader answers KEDA", REACTION, async || {
            let replicas = ordered(workspace, "led").await?;
            ensure!(replicas >= NEEDED, "with no leader, {replicas} replicas were left");
            let answers = operator::metric(cluster, "flotilla_operator_scaler_answers_total").await?;
            Ok(if answers > 0.0 { Look::Break(()) } else { Look::Continue("no answer yet".to_owned()) })
        })
        .await?;
        throughout("under steady load", Duration::from_secs(30), async || {
            let replicas = ordered(workspace, "led").await?;
            Ok(if replicas >= NEEDED { Ok(()) } else { Err(format!("{replicas} replicas")) })
        })
        .await?;
        reads_the_metric(workspace, "led").await?;
        load.stop().await?;
        let down = until_ordered(workspace, "led", "back at one replica", 1).await?;
        let mut table = Table::new("KEDA, the leader hangs", &["event", "after"]);
        for (what, took) in [("the new leader answers KEDA", took), ("load gone: back at 1", down)] {
            table.row([what.to_owned(), format!("{:.1} s", took.as_secs_f64())]);
        }
        table.print();
        forget(workspace, "led").await
    })
    .await
}
