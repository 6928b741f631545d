//! Scale step (client): the only writer of replicas, through the Deployment's `/scale`, with its own field manager.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, ResourceExt as _};

use super::context::Context;
use super::error::Error;
use crate::api::SCALE_MANAGER;

/// Writes `replicas`, carrying the version that was read: a newer decision can't be overwritten.
///
/// # Errors
/// What the API server said; 409 where the Deployment changed since it was read.
pub async fn scale(ctx: &Context, deployment: &DynamicObject, replicas: u32) -> Result<(), Error> {
    let name = deployment.name_any();
    let namespace = deployment.namespace().unwrap_or_default();
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &namespace);
    let scale = Scale {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace),
            uid: deployment.uid(),
            resource_version: deployment.resource_version(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: i32::try_from(replicas).ok() }),
        status: None,
    };
    let params = PostParams { dry_run: false, field_manager: Some(SCALE_MANAGER.to_owned()) };
    let written = ctx
        .write(&format!("scale Deployment {name}"), "Deployment", "scale", api.replace_scale(&name, &params, &scale))
        .await?;
    // The cache learns of it at once, so that the next visit does not order the same again.
    let mut scaled = deployment.clone();
    scaled.metadata.resource_version = written.metadata.resource_version;
    scaled.data["spec"]["replicas"] = replicas.into();
    if let Some(cached) = super::trim::owned(scaled) {
        ctx.owned.put(cached);
    }
    Ok(())
}

/// The ordered replicas of a live Deployment.
pub fn ordered(deployment: &DynamicObject) -> u32 {
    deployment.data["spec"]["replicas"].as_u64().and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(1)
}
