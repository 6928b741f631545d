//! Engines that are not Flotilla's server. Triton's binary, scheduler, repository and metrics are real, from the wheel of
//! nvidia-pytriton; in the place of its onnxruntime backend, which no package has, stands one that waits as the timer
//! device does. What it shows: Triton takes the generated configuration, its page is enough for the law, and pods go
//! without a failed request. What it can't show: the speed of Triton's own backend, GPUs and TensorRT.

use std::time::Duration;

use flotilla_e2e::load::{Arrivals, Connections, Load, Plan, Target};
use flotilla_e2e::table::Table;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, patched, timer, until, with_namespace};
use kube::ResourceExt as _;
use serde_json::{Value, json};

const START: Duration = Duration::from_mins(3);
const WINDOW: Duration = Duration::from_secs(30);
const SUCCESS: &str = "nv_inference_request_success";

/// The timer's service, on a real Triton.
fn triton(name: &str, spec: &Value) -> Value {
    let engine = json!({"runtime": {
        "engine": "Triton", "image": "flotilla/triton-test:1",
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
    }});
    timer(name, &patched(&engine, spec))
}

async fn ordered(workspace: &Workspace, name: &str) -> Outcome<i32> {
    Ok(workspace.deployment(name, "cpu").await?.spec.and_then(|spec| spec.replicas).unwrap_or(1))
}

async fn until_ordered(
    workspace: &Workspace,
    name: &str,
    what: &str,
    limit: Duration,
    test: fn(i32) -> bool,
) -> Outcome<Duration> {
    let ((), took) = until(what, limit, async || {
        let replicas = ordered(workspace, name).await?;
        Ok(if test(replicas) { Look::Break(()) } else { Look::Continue(format!("{replicas} replicas")) })
    })
    .await?;
    Ok(took)
}

#[tokio::test]
async fn replicas_of_a_real_triton_follow_the_load() -> Outcome {
    with_namespace(async |workspace| {
        let spec = json!({
            "runtime": {"maxBatchSize": 16, "instancesPerReplica": 1},
            "scaling": {"maxReplicas": 4, "scaleDownStabilizationSeconds": WINDOW.as_secs()},
        });
        workspace.apply(&triton("real", &spec)).await?;
        workspace.ready("real", START).await?;
        let target = Target::of(workspace, "real").await?;
        let config = target.config().await?;
        ensure!(
            config["max_batch_size"] == 16 && config["backend"] == "onnxruntime",
            "Triton did not take the generated configuration: {config}"
        );
        workspace.condition("real", "MetricsAvailable", "True", None, Duration::from_secs(30)).await?;
        let pod = workspace.pods("real").await?.into_iter().next().ok_or("no pod")?;
        let page = workspace.cluster.page(&workspace.namespace, &pod.name_any(), 8002, "metrics").await?;
        ensure!(page.contains(SUCCESS) && !page.contains("flotilla_"), "this is no page of Triton: {page}");

        // One takes at most 16 / (16 * 5 ms + 10 ms) = 178 images a second; two have a wait of 10 to 20 ms.
        let plan = Plan {
            rate: 230.0,
            // Triton never closes a held connection: those would stay at the first replica.
            connections: Connections::Fresh(3_000),
            lasting: Duration::from_mins(4),
            arrivals: Arrivals::Poisson,
        };
        let load = Load::start(&target, plan)?;
        let mut table = Table::new("A step from 0 to 230 images/s at a real Triton", &["event", "after"]);
        let mut row =
            |event: &str, after: Duration| table.row([event.to_owned(), format!("{:.1} s", after.as_secs_f64())]);
        let decided =
            until_ordered(workspace, "real", "more are ordered", Duration::from_secs(20), |now| now > 1).await?;
        row("first decision", decided);
        until("two answer", Duration::from_mins(2), async || {
            let ready = workspace.services().get("real").await?.status.unwrap_or_default().ready_replicas;
            Ok(if ready >= 2 { Look::Break(()) } else { Look::Continue(format!("{ready}")) })
        })
        .await?;
        row("two replicas answer", load.started.elapsed());
        // Time for the backlog of the start.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let from = load.started.elapsed();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let to = load.started.elapsed();
        let report = load.stop().await?;
        let median = report.quantile(0.5, from, to);
        row("median latency then", median);
        ensure!(
            median > Duration::ZERO && median < Duration::from_secs(1),
            "the median is {median:?} with enough replicas"
        );
        let late: Vec<_> =
            report.answers.iter().filter(|answer| answer.outcome.is_err() && answer.due > from).take(3).collect();
        ensure!(late.is_empty(), "requests failed although there were enough replicas: {late:#?}");
        let limit = WINDOW + Duration::from_mins(1);
        row(
            "load gone: back at 1 replica",
            until_ordered(workspace, "real", "one is left", limit, |now| now == 1).await?,
        );
        table.print();
        Ok(())
    })
    .await
}

/// Triton stops accepting at SIGTERM, so its pods leave the endpoints before they get one.
#[tokio::test]
async fn replicas_of_a_real_triton_go_without_a_failed_request() -> Outcome {
    with_namespace(async |workspace| {
        let spec = json!({"scaling": {"mode": "External", "maxReplicas": 2}, "replicas": 2});
        workspace.apply(&triton("drain", &spec)).await?;
        workspace.replicas("drain", 2, START).await?;
        let target = Target::of(workspace, "drain").await?;
        let plan = Plan {
            rate: 40.0,
            connections: Connections::Fresh(200),
            lasting: Duration::from_mins(3),
            arrivals: Arrivals::Poisson,
        };
        let load = Load::start(&target, plan)?;
        until("both answer", START, async || {
            let mut counts = Vec::new();
            for pod in workspace.pods("drain").await? {
                counts.push(workspace.measured(&pod, SUCCESS).await?);
            }
            let all = counts.len() == 2 && counts.iter().all(|count| *count >= 20.0);
            Ok(if all { Look::Break(()) } else { Look::Continue(format!("{counts:?}")) })
        })
        .await?;
        workspace.scale("drain", 1).await?;
        until("the pod is gone", START, async || {
            let selector = kube::api::ListParams::default().labels("flotilla.dev/service=drain");
            let pods = workspace.api::<k8s_openapi::api::core::v1::Pod>().list(&selector).await?.items.len();
            Ok(if pods == 1 { Look::Break(()) } else { Look::Continue(format!("{pods} pods")) })
        })
        .await?;
        load.stop().await?.all_answered()
    })
    .await
}

#[tokio::test]
async fn a_model_that_is_not_there_is_told_before_triton_starts() -> Outcome {
    with_namespace(async |workspace| {
        let spec = json!({"model": {"source": {"image": {"path": "typing-error"}}}});
        workspace.apply(&triton("lost", &spec)).await?;
        let (told, _) = workspace.condition("lost", "Ready", "False", Some("ModelNotFound"), START).await?;
        ensure!(told.message.contains("/mnt/model/typing-error"), "{}", told.message);
        Ok(())
    })
    .await
}

/// Any server that speaks the protocol and has the metrics: here Flotilla's own, started by the user's arguments.
#[tokio::test]
async fn a_server_of_the_users_own_is_started_as_the_user_says() -> Outcome {
    with_namespace(async |workspace| {
        let spec = json!({"runtime": {
            "engine": "Custom", "image": "flotilla/server:0.1.0-cpu",
            "podTemplate": {"spec": {"containers": [{
                "name": "server", "command": ["/usr/local/bin/flotilla-server"], "args": ["--settings=/etc/flotilla/settings.json"],
            }]}},
        }});
        workspace.apply(&timer("own", &spec)).await?;
        workspace.ready("own", START).await?;
        let (status, answer) = Target::of(workspace, "own").await?.ask().await?;
        ensure!(status == 200, "{status}: {answer}");
        workspace.condition("own", "MetricsAvailable", "True", None, Duration::from_secs(30)).await?;
        Ok(())
    })
    .await
}
