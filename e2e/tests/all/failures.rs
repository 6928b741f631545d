//! What goes wrong reaches the status with the pod, the reason and what to do, and nothing else suffers.

use std::time::Duration;

use flotilla_e2e::load::{Arrivals, Connections, Load, Plan, Target};
use flotilla_e2e::manifests::BROKEN_IMAGE;
use flotilla_e2e::node::with_gpus;
use flotilla_e2e::workspace::last_failure;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, throughout, timer, until, with_namespace};
use kube::ResourceExt;
use serde_json::json;

const START: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_bad_manifest_does_not_disturb_a_good_one() -> Outcome {
    with_namespace(async |workspace| {
        let misspelt = json!({"runtime": {"podTemplate": {"spec": {"tolerationz": [{"key": "a"}]}}}});
        workspace.apply(&timer("bad", &misspelt)).await?;
        workspace.apply(&timer("good", &json!({}))).await?;
        let (ready, _) =
            workspace.condition("bad", "Ready", "False", Some("InvalidSpec"), Duration::from_secs(15)).await?;
        ensure!(ready.message.contains("spec.runtime.podTemplate.spec.tolerationz"), "{}", ready.message);
        workspace.ready("good", START).await?;
        let (stalled, _) = workspace.condition("bad", "Stalled", "True", None, Duration::from_secs(5)).await?;
        ensure!(stalled.reason == "InvalidSpec", "{stalled:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_model_that_can_not_be_loaded_is_told_with_pod_and_fix() -> Outcome {
    with_namespace(async |workspace| {
        let broken = json!({"model": {"source": {"image": {"reference": BROKEN_IMAGE}}}});
        workspace.apply(&timer("broken", &broken)).await?;
        let (ready, _) =
            workspace.condition("broken", "Ready", "False", Some("ModelLoadFailed"), Duration::from_mins(1)).await?;
        let pods: Vec<String> = workspace.pods("broken").await?.iter().map(ResourceExt::name_any).collect();
        let failure = last_failure(&workspace.services().get("broken").await?).ok_or("no lastFailure")?;
        ensure!(pods.contains(&failure.pod), "the failure names {}, the pods are {pods:?}", failure.pod);
        ensure!(failure.reason == "ModelLoadFailed", "{failure:?}");
        ensure!(ready.message.contains(&failure.pod), "the condition does not name the pod: {}", ready.message);
        ensure!(ready.message.contains("model.onnx"), "the condition does not name the file: {}", ready.message);
        ensure!(ready.message.contains(';'), "the condition does not say what to do: {}", ready.message);
        // Mending the manifest mends the service, without a hand on the pods.
        workspace.apply(&timer("broken", &json!({}))).await?;
        workspace.ready("broken", START).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_image_that_can_not_be_pulled_is_told() -> Outcome {
    with_namespace(async |workspace| {
        let spec = json!({"runtime": {"image": "registry.invalid/none:1"}});
        workspace.apply(&timer("absent", &spec)).await?;
        let (ready, _) =
            workspace.condition("absent", "Ready", "False", Some("ImagePullFailed"), Duration::from_mins(1)).await?;
        ensure!(ready.message.contains("registry.invalid/none:1"), "{}", ready.message);
        ensure!(ready.message.contains("runtime.image"), "it does not say what to check: {}", ready.message);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_replica_that_never_answers_runs_into_its_deadline() -> Outcome {
    with_namespace(async |workspace| {
        // The server starts, but counts as started only after 55 s. Changing the deadline changes when that is told.
        let deaf = |deadline: u32| {
            json!({
                "runtime": {"podTemplate": {"spec": {"containers": [{"name": "server", "lifecycle": {
                    "postStart": {"sleep": {"seconds": 55}},
                }}]}}},
                "rollout": {"progressDeadlineSeconds": deadline},
            })
        };
        workspace.apply(&timer("late", &deaf(10))).await?;
        let reason = Some("ProgressDeadlineExceeded");
        let (ready, took) = workspace.condition("late", "Ready", "False", reason, Duration::from_secs(30)).await?;
        ensure!(took >= Duration::from_secs(9), "told after {took:?} already");
        ensure!(ready.message.contains("progressDeadlineSeconds"), "{}", ready.message);
        workspace.apply(&timer("late", &deaf(600))).await?;
        workspace.condition("late", "Ready", "False", Some("Starting"), Duration::from_secs(20)).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn no_more_replicas_are_ordered_than_there_are_gpus() -> Outcome {
    with_namespace(async |workspace| {
        with_gpus(workspace, 1, async |gpus| {
            let spec = json!({
                "placement": {"gpu": {"resourceName": gpus.resource}},
                "scaling": {"maxReplicas": 8, "scaleDownStabilizationSeconds": 300},
            });
            workspace.apply(&timer("scarce", &spec)).await?;
            workspace.ready("scarce", START).await?;
            let target = Target::of(workspace, "scarce").await?;
            let plan = |rate| Plan {
                rate,
                connections: Connections::AtOnce(600),
                lasting: Duration::from_mins(3),
                arrivals: Arrivals::Poisson,
            };
            let load = Load::start(&target, plan(220.0))?;
            let (placed, _) = workspace
                .condition("scarce", "Placed", "False", Some("CapacityUnavailable"), Duration::from_mins(1))
                .await?;
            ensure!(placed.message.contains("free a GPU"), "it does not say what to do: {}", placed.message);
            let ordered = async || -> Outcome<Option<i32>> {
                Ok(workspace.deployment("scarce", "gpu").await?.spec.and_then(|spec| spec.replicas))
            };
            let before = ordered().await?;
            let more = Load::start(&target, plan(250.0))?;
            throughout("more load, but no GPU", Duration::from_secs(15), async || {
                let now = ordered().await?;
                Ok(if now == before { Ok(()) } else { Err(format!("{now:?} replicas are ordered, after {before:?}")) })
            })
            .await?;
            // The load is more than one GPU can do, so that some of it is refused is no finding here.
            load.stop().await?;
            more.stop().await?;
            gpus.set(Some(8)).await?;
            workspace.condition("scarce", "Placed", "True", None, START).await?;
            Ok(())
        })
        .await
    })
    .await
}

async fn environment(workspace: &Workspace, name: &str) -> Outcome<Vec<String>> {
    let pods = workspace.pods(name).await?;
    let of = |pod: &k8s_openapi::api::core::v1::Pod| {
        let spec = pod.spec.clone()?;
        spec.containers.first()?.env.clone()?.into_iter().find(|variable| variable.name == "VERSION")?.value
    };
    Ok(pods.iter().map(|pod| of(pod).unwrap_or_default()).collect())
}

fn versioned(version: &str, resource: &str, replicas: u32) -> serde_json::Value {
    json!({
        "runtime": {"podTemplate": {"spec": {"containers": [
            {"name": "server", "env": [{"name": "VERSION", "value": version}]},
        ]}}},
        "placement": {"gpu": {"resourceName": resource}},
        "scaling": {"mode": "External", "minReplicas": 1, "maxReplicas": 3},
        "replicas": replicas,
    })
}

#[tokio::test]
async fn an_update_without_a_free_gpu_asks_before_it_interrupts() -> Outcome {
    with_namespace(async |workspace| {
        with_gpus(workspace, 1, async |gpus| {
            workspace.apply(&timer("single", &versioned("1", &gpus.resource, 1))).await?;
            workspace.ready("single", START).await?;
            let target = Target::of(workspace, "single").await?;
            let pods = workspace.pods("single").await?;
            workspace.apply(&timer("single", &versioned("2", &gpus.resource, 1))).await?;
            let (ready, _) = workspace
                .condition("single", "Ready", "False", Some("RolloutBlocked"), Duration::from_secs(30))
                .await?;
            for choice in ["free a GPU", "minReplicas", "strategy: Replace"] {
                ensure!(ready.message.contains(choice), "the choice {choice} is not told: {}", ready.message);
            }
            throughout("the old replica answers while the update waits", Duration::from_secs(10), async || {
                let (status, _) = target.ask().await?;
                let now = workspace.pods("single").await?;
                let same = now.len() == 1 && now.first().map(ResourceExt::uid) == pods.first().map(ResourceExt::uid);
                Ok(if status == 200 && same { Ok(()) } else { Err(format!("{status}, {} pods", now.len())) })
            })
            .await?;
            let accepted =
                flotilla_e2e::patched(&versioned("2", &gpus.resource, 1), &json!({"rollout": {"strategy": "Replace"}}));
            workspace.apply(&timer("single", &accepted)).await?;
            until("the new version runs", START, async || {
                let versions = environment(workspace, "single").await?;
                Ok(if versions == ["2"] { Look::Break(()) } else { Look::Continue(format!("{versions:?}")) })
            })
            .await?;
            workspace.ready("single", START).await?;
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn an_update_of_several_without_a_free_gpu_goes_one_at_a_time() -> Outcome {
    with_namespace(async |workspace| {
        with_gpus(workspace, 2, async |gpus| {
            workspace.apply(&timer("pair", &versioned("1", &gpus.resource, 2))).await?;
            workspace.replicas("pair", 2, START).await?;
            let target = Target::of(workspace, "pair").await?;
            let load = Load::start(
                &target,
                Plan {
                    rate: 30.0,
                    connections: Connections::Held(8),
                    lasting: Duration::from_mins(5),
                    arrivals: Arrivals::Poisson,
                },
            )?;
            workspace.apply(&timer("pair", &versioned("2", &gpus.resource, 2))).await?;
            let mut fewest = 2;
            until("both are new", START * 2, async || {
                let versions = environment(workspace, "pair").await?;
                let ready = workspace.services().get("pair").await?.status.unwrap_or_default().ready_replicas;
                fewest = fewest.min(ready);
                let done = versions == ["2", "2"] && ready == 2;
                Ok(if done { Look::Break(()) } else { Look::Continue(format!("{versions:?}, {ready} ready")) })
            })
            .await?;
            ensure!(fewest >= 1, "no replica was ready at some time");
            load.stop().await?.all_answered()
        })
        .await
    })
    .await
}
