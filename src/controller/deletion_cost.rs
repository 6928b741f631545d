//! Scale step (client), before a scale-down and only where the chart allows it: tells Kubernetes which pods go.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::context::{Context, WRITE_TIMEOUT};
use super::error::Error;
use super::leaving::{Change, DELETION_COST, LEAVING};
use super::trim;
use crate::api::SCALE_MANAGER;

/// Writes the changed costs, all of them within the time of one write. What fails costs only the choice: the scale-down
/// goes on, and the ReplicaSet chooses.
pub async fn tell(ctx: &Context, namespace: &str, changes: &[Change]) {
    let all = async {
        for change in changes {
            write(ctx, namespace, change).await?;
        }
        Ok(())
    };
    let told: Result<(), Error> = tokio::time::timeout(WRITE_TIMEOUT, all)
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { action: format!("deletion costs of {} pods", changes.len()) }));
    if let Err(error) = told {
        tracing::warn!(
            namespace,
            category = error.category(),
            error = %error,
            "the pods that should go were not all marked, so Kubernetes chooses; the chart's podDeletionCost.enabled gives the right"
        );
    }
}

async fn write(ctx: &Context, namespace: &str, change: &Change) -> Result<(), Error> {
    let cost = change.leaves.then(|| LEAVING.to_string());
    // The UID keeps the mark of a pod that is gone from a new one of the same name.
    let patch = json!({"metadata": {"uid": change.uid, "annotations": {DELETION_COST: cost}}});
    let params = PatchParams { field_manager: Some(SCALE_MANAGER.to_owned()), ..PatchParams::default() };
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let action = format!("deletion cost of Pod {}", change.pod);
    let pod =
        ctx.write(&action, "Pod", "deletion-cost", api.patch(&change.pod, &params, &Patch::Merge(&patch))).await?;
    // The cache learns of it at once, so that a visit right after this one does not write the same again.
    if let Some(pod) = trim::pod(pod) {
        ctx.pods.put(pod);
    }
    Ok(())
}
