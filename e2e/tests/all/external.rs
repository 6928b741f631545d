//! Mode External: somebody else decides, within the bounds. And somebody who decides past Flotilla is told so. Mode Advisory
//! and a pause: what the law would do is shown, and not done.

use std::time::Duration;

use flotilla_e2e::{Look, Outcome, Workspace, ensure, patched, throughout, timer, until, with_namespace};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tokio::process::Command;

const START: Duration = Duration::from_secs(90);
/// Longer than a HorizontalPodAutoscaler's sync period of 15 s.
const ACT: Duration = Duration::from_secs(40);

async fn ordered(workspace: &Workspace, name: &str) -> Outcome<i32> {
    Ok(workspace.deployment(name, "cpu").await?.spec.and_then(|spec| spec.replicas).unwrap_or(1))
}

async fn until_ordered(workspace: &Workspace, name: &str, replicas: i32) -> Outcome {
    until(&format!("{name}: {replicas} replicas are ordered"), ACT, async || {
        let now = ordered(workspace, name).await?;
        Ok(if now == replicas { Look::Break(()) } else { Look::Continue(format!("{now}")) })
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn kubectl_scale_works_within_the_bounds() -> Outcome {
    with_namespace(async |workspace| {
        let spec = json!({"scaling": {"mode": "External", "minReplicas": 1, "maxReplicas": 3}});
        workspace.apply(&timer("outside", &spec)).await?;
        workspace.ready("outside", START).await?;
        for (asked, expected) in [(2, 2), (9, 3), (0, 1)] {
            let output = Command::new("kubectl")
                .args(["--context", &workspace.cluster.context, "-n", &workspace.namespace])
                .args(["scale", "infsvc", "outside", &format!("--replicas={asked}")])
                .output()
                .await?;
            ensure!(output.status.success(), "kubectl scale: {}", String::from_utf8_lossy(&output.stderr));
            until_ordered(workspace, "outside", expected).await?;
        }
        // The bounds act at once on what was asked for before.
        workspace.scale("outside", 3).await?;
        workspace.replicas("outside", 3, START).await?;
        workspace.patch("outside", &json!({"spec": {"scaling": {"maxReplicas": 2}}})).await?;
        until_ordered(workspace, "outside", 2).await?;
        let scale = workspace.services().get_scale("outside").await?;
        let status = scale.status.unwrap_or_default();
        ensure!(
            status.selector.is_some_and(|selector| selector.contains("flotilla.dev/service=outside")),
            "no selector"
        );
        Ok(())
    })
    .await
}

/// Three replicas that nothing asks for: the law would take two away after its window.
#[tokio::test]
async fn what_is_only_advised_or_paused_is_shown_and_not_done() -> Outcome {
    with_namespace(async |workspace| {
        let window = json!({"scaling": {"maxReplicas": 3, "scaleDownStabilizationSeconds": 10}});
        let advisory = patched(&window, &json!({"scaling": {"mode": "Advisory"}, "replicas": 3}));
        let paused = patched(&window, &json!({"scaling": {"minReplicas": 3}}));
        workspace.apply(&timer("advised", &advisory)).await?;
        workspace.apply(&timer("paused", &paused)).await?;
        for name in ["advised", "paused"] {
            workspace.replicas(name, 3, START).await?;
        }
        workspace.patch("paused", &json!({"spec": {"scaling": {"minReplicas": 1, "paused": true}}})).await?;
        for (name, status, reason) in [("advised", "True", "Advisory"), ("paused", "False", "Paused")] {
            workspace.condition(name, "ScalingActive", status, Some(reason), ACT).await?;
            until(&format!("{name}: fewer are advised"), ACT, async || {
                let scaling = workspace.services().get(name).await?.status.and_then(|status| status.scaling);
                let last = scaling.as_ref().and_then(|scaling| scaling.history.first());
                let is_shown = last.is_some_and(|last| last.advised && last.from == 3 && last.to < 3);
                Ok(if is_shown { Look::Break(()) } else { Look::Continue(format!("{scaling:?}")) })
            })
            .await?;
        }
        throughout("nothing comes of it", Duration::from_secs(20), async || {
            let now = (ordered(workspace, "advised").await?, ordered(workspace, "paused").await?);
            Ok(if now == (3, 3) { Ok(()) } else { Err(format!("{now:?} replicas are ordered")) })
        })
        .await?;
        // Acting again, it does what it showed.
        workspace.patch("paused", &json!({"spec": {"scaling": {"paused": false}}})).await?;
        workspace.patch("advised", &json!({"spec": {"scaling": {"mode": "QueueTime"}}})).await?;
        until_ordered(workspace, "paused", 1).await?;
        until_ordered(workspace, "advised", 1).await
    })
    .await
}

#[tokio::test]
async fn a_rival_autoscaler_is_told_and_not_fought() -> Outcome {
    with_namespace(async |workspace| {
        let spec = json!({"scaling": {"mode": "External", "maxReplicas": 4}});
        workspace.apply(&timer("rival", &spec)).await?;
        workspace.ready("rival", START).await?;
        let autoscaler: HorizontalPodAutoscaler = serde_json::from_value(json!({
            "metadata": {"name": "theirs"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "rival-cpu-stable"},
                "minReplicas": 2, "maxReplicas": 4,
            },
        }))?;
        let autoscalers = workspace.api::<HorizontalPodAutoscaler>();
        autoscalers.create(&PostParams::default(), &autoscaler).await?;
        let conflict = Some("ScalingConflict");
        let limit = Duration::from_secs(40);
        let (told, _) = workspace.condition("rival", "ScalingActive", "False", conflict, limit).await?;
        ensure!(told.message.contains("theirs"), "it does not name the autoscaler: {}", told.message);
        // Its minimum needs no figures: Kubernetes itself writes it now, and nobody writes it back.
        until_ordered(workspace, "rival", 2).await?;
        workspace.scale("rival", 3).await?;
        throughout("nothing is written while another autoscaler does", Duration::from_secs(20), async || {
            let now = ordered(workspace, "rival").await?;
            Ok(if now == 2 { Ok(()) } else { Err(format!("{now} replicas are ordered")) })
        })
        .await?;
        autoscalers.delete("theirs", &DeleteParams::default()).await?;
        workspace.condition("rival", "ScalingActive", "True", None, limit).await?;
        until_ordered(workspace, "rival", 3).await
    })
    .await
}
