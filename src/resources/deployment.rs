//! The Deployment of one pool and track. It never says how many replicas: that field has one writer, the scale step.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Error, RolloutShape, common_labels, digest, object_meta, pod_template, server_pod, string_map};
use crate::api::labels;
use crate::service::{ValidatedService, names};

/// The Deployment whose pods read the ConfigMap `settings_name`.
///
/// # Errors
/// [`Error::PodTemplate`] where the user's patch changes what it may not.
pub fn build(service: &ValidatedService, settings_name: &str, rollout: RolloutShape) -> Result<Deployment, Error> {
    let gpu_resource = service.gpu.as_ref().map_or("nvidia.com/gpu", |gpu| &gpu.resource_name);
    let generated = server_pod::build(service, settings_name);
    let mut template = match &service.runtime.pod_template {
        Some(patch) => pod_template::merge(generated, patch, gpu_resource)?,
        None => generated,
    };
    if let Some(gpu) = &service.gpu {
        server_pod::place_on_gpu(&mut template, gpu);
    }
    let template_digest = digest::of(&serde_json::to_value(&template)?);

    let selector = names::selector(&service.name, service.pool(), labels::STABLE);
    let mut labels = common_labels(service);
    labels.extend(selector.clone());
    let name = names::deployment(&service.name, service.pool(), labels::STABLE);
    Ok(Deployment {
        metadata: ObjectMeta {
            annotations: Some(string_map([(labels::TEMPLATE_DIGEST, &template_digest)])),
            ..object_meta(service, name, labels)
        },
        spec: Some(DeploymentSpec {
            replicas: None,
            // Absent means false, and the API server drops a false: writing it would look like drift for ever.
            paused: rollout.paused.then_some(true),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(rollout.max_surge)),
                    max_unavailable: Some(IntOrString::Int(rollout.max_unavailable)),
                }),
            }),
            // Kubernetes' word for "no deadline": its own counts the wait for a free GPU, ours counts from scheduled.
            progress_deadline_seconds: Some(i32::MAX),
            revision_history_limit: Some(2),
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    })
}
