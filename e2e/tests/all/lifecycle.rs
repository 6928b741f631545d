//! From apply to an answer to nothing left.

use std::time::Duration;

use flotilla::api::condition;
use flotilla_e2e::load::Target;
use flotilla_e2e::workspace::owned;
use flotilla_e2e::{Look, Outcome, ensure, timer, until, with_namespace};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

const START: Duration = Duration::from_secs(90);
const GONE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_service_answers_and_leaves_nothing_behind() -> Outcome {
    with_namespace(async |workspace| {
        workspace.apply(&timer("simple", &json!({}))).await?;
        // The first status that is seen at all has every condition.
        until("the first status", Duration::from_secs(15), async || {
            let status = workspace.services().get("simple").await?.status.unwrap_or_default();
            if status.observed_generation.is_none() {
                return Ok(Look::Continue("none yet".to_owned()));
            }
            let types: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
            ensure!(condition::ALL.iter().all(|kind| types.contains(kind)), "the first status has only {types:?}");
            Ok(Look::Break(()))
        })
        .await?;
        workspace.ready("simple", START).await?;

        let (status, answer) = Target::of(workspace, "simple").await?.ask().await?;
        ensure!(status == 200, "{status}: {answer}");
        ensure!(answer["outputs"][0]["data"] == json!([1.0, 2.0, 3.0, 4.0]), "the timer echoes its input: {answer}");
        let service = workspace.services().get("simple").await?;
        let status = service.status.unwrap_or_default();
        let pools = status.placement.map(|placement| placement.pools).unwrap_or_default();
        let product = pools.first().and_then(|pool| pool.gpu_product.clone());
        ensure!(product.is_none(), "a Cpu pool shows the GPU of its node: {product:?}");
        let model = status.model.unwrap_or_default();
        ensure!(model.loaded_replicas == 1, "{model:?}");
        ensure!(owned(workspace, "simple").await?.len() >= 8, "{:?}", owned(workspace, "simple").await?);

        workspace.delete("simple").await?;
        until("nothing is left", GONE, async || {
            let left = owned(workspace, "simple").await?;
            Ok(if left.is_empty() { Look::Break(()) } else { Look::Continue(format!("{left:?}")) })
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn deleting_and_creating_again_at_once_works() -> Outcome {
    with_namespace(async |workspace| {
        let manifest = timer("again", &json!({}));
        let first = workspace.apply(&manifest).await?;
        workspace.ready("again", START).await?;
        workspace.delete("again").await?;
        let second = workspace.apply(&manifest).await?;
        ensure!(first.uid() != second.uid(), "the first one was still there");
        workspace.ready("again", START).await?;
        // Ready may come first from what the new one made; all of the old must go and stay gone.
        let uid = second.uid().unwrap_or_default();
        until("every object belongs to the second", GONE, async || {
            let service: Service = workspace.api::<Service>().get("again-inference").await?;
            let owner = service.owner_references().first().map(|owner| owner.uid.clone()).unwrap_or_default();
            let deployment = workspace.deployment("again", "cpu").await?;
            let other = deployment.owner_references().first().map(|owner| owner.uid.clone()).unwrap_or_default();
            let both = owner == uid && other == uid;
            Ok(if both { Look::Break(()) } else { Look::Continue(format!("{owner} and {other} instead of {uid}")) })
        })
        .await?;
        workspace.replicas("again", 1, START).await?;
        let (status, answer) = Target::of(workspace, "again").await?.ask().await?;
        ensure!(status == 200, "{status}: {answer}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_object_of_somebody_else_is_never_taken_over() -> Outcome {
    with_namespace(async |workspace| {
        let strangers = workspace.api::<Service>();
        let stranger: Service = serde_json::from_value(json!({
            "metadata": {"name": "taken-inference", "annotations": {"whose": "mine"}},
            "spec": {"ports": [{"port": 80}]},
        }))?;
        strangers.create(&PostParams::default(), &stranger).await?;
        workspace.apply(&timer("taken", &json!({}))).await?;
        let (ready, _) =
            workspace.condition("taken", "Ready", "False", Some("NameConflict"), Duration::from_secs(20)).await?;
        ensure!(ready.message.contains("Service taken-inference"), "it does not name the object: {}", ready.message);
        let untouched = strangers.get("taken-inference").await?;
        ensure!(untouched.annotations().get("whose").is_some(), "{untouched:?}");
        ensure!(untouched.owner_references().is_empty(), "the object of somebody else got an owner");
        strangers.delete("taken-inference", &DeleteParams::default()).await?;
        workspace.ready("taken", START).await?;
        let (status, answer) = Target::of(workspace, "taken").await?.ask().await?;
        ensure!(status == 200, "{status}: {answer}");
        Ok(())
    })
    .await
}
