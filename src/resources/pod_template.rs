//! The user's strategic-merge patch over the generated pod template, and what it may not change.
//!
//! Lists merge as Kubernetes merges them: containers, volumes, env and pull secrets by name, ports by number, mounts by path,
//! all others as a whole. A patch adds and replaces; it can't delete. What Flotilla's own contracts rest on is checked by
//! comparing the merged template with the generated one, and the security floor by [`restricted::check`].

mod kept;
#[cfg(test)]
mod tests;
mod zero_values;

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::server_pod::{CONTAINER, GRACE_SECONDS, restricted_security_context};
use super::{Error, fetch, restricted};

/// Labels and annotations with this prefix are Flotilla's.
const OWN_PREFIX: &str = "flotilla.dev/";

/// Merges `patch` over `generated`. `gpu_resource` is the extended resource that only spec.placement.gpu may ask for.
///
/// # Errors
/// [`Error::PodTemplate`] with the field and what to do where the patch changes what it may not.
pub fn merge(
    generated: PodTemplateSpec,
    patch: &PodTemplateSpec,
    gpu_resource: &str,
) -> Result<PodTemplateSpec, Error> {
    let generated_metadata = generated.metadata.clone().unwrap_or_default();
    let generated_spec = generated.spec.clone().unwrap_or_default();
    let patch = zero_values::drop_from(patch)?;
    check_metadata(&generated_metadata, patch.metadata.as_ref().unwrap_or(&ObjectMeta::default()))?;
    check_names(patch.spec.as_ref().unwrap_or(&PodSpec::default()))?;

    let mut merged = generated;
    merged.merge_from(patch);
    let spec = merged.spec.get_or_insert_default();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let given = container.security_context.take().unwrap_or_default();
        let mut restricted = restricted_security_context();
        restricted.merge_from(given);
        container.security_context = Some(restricted);
    }

    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        // Without a selector Kubernetes counts no pods, and the constraint would do nothing.
        constraint.label_selector.get_or_insert_with(|| pool_selector(&generated_metadata));
    }

    check_pod(&generated_spec, spec)?;
    for (list, container) in restricted::containers(spec) {
        if let Some(own) = generated_spec.containers.iter().find(|own| own.name == container.name) {
            kept::check_server(own, container, gpu_resource)?;
        } else if let Some(own) = generated_spec.init_containers.iter().flatten().find(|own| own.name == container.name)
        {
            if own.name == fetch::CONTAINER {
                kept::check_fetcher(own, container, gpu_resource)?;
            } else {
                kept::check_init(own, container)?;
            }
        } else {
            let place = format!("spec.{list}[{}]", container.name);
            kept::check_other(&place, &generated_spec, container, gpu_resource)?;
        }
    }
    restricted::check(&merged)?;
    Ok(merged)
}

fn pool_selector(generated: &ObjectMeta) -> LabelSelector {
    let own = generated.labels.iter().flatten().filter(|(key, _)| key.starts_with(OWN_PREFIX));
    LabelSelector {
        match_labels: Some(own.map(|(key, value)| (key.clone(), value.clone())).collect()),
        ..LabelSelector::default()
    }
}

/// Labels select and identify the pods; everything else about a pod's metadata is the Deployment's.
fn check_metadata(generated: &ObjectMeta, patch: &ObjectMeta) -> Result<(), Error> {
    let others = ObjectMeta { labels: None, annotations: None, ..patch.clone() };
    if others != ObjectMeta::default() {
        return Err(Error::pod_template("metadata", "only labels and annotations can be set: remove the other fields"));
    }
    for (kind, own, given) in
        [("labels", &generated.labels, &patch.labels), ("annotations", &generated.annotations, &patch.annotations)]
    {
        for (key, value) in given.iter().flatten() {
            match own.as_ref().and_then(|own| own.get(key)) {
                Some(own) if own == value => {}
                Some(own) => {
                    return Err(Error::pod_template(
                        format_args!("metadata.{kind}[{key}]"),
                        format!("is {own:?} on every pod of this service and can't be changed: remove it"),
                    ));
                }
                None if key.starts_with(OWN_PREFIX) => {
                    return Err(Error::pod_template(
                        format_args!("metadata.{kind}[{key}]"),
                        format!("keys that start with {OWN_PREFIX} are reserved: use another prefix"),
                    ));
                }
                None => {}
            }
        }
    }
    Ok(())
}

/// Lists are merged by name, so an item without one would become a second, nameless item.
fn check_names(patch: &PodSpec) -> Result<(), Error> {
    let nameless = |path: String| {
        Err(Error::pod_template(path, format!("has no name: add one ({CONTAINER} is the server's container)")))
    };
    for (list, containers) in
        [("containers", Some(&patch.containers)), ("initContainers", patch.init_containers.as_ref())]
    {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            if container.name.is_empty() {
                return nameless(format!("spec.{list}[{index}]"));
            }
        }
    }
    if patch.init_containers.iter().flatten().any(|container| container.name == CONTAINER) {
        return Err(Error::pod_template(
            format_args!("spec.initContainers[{CONTAINER}]"),
            "is the name of the server's container: choose another",
        ));
    }
    if patch.containers.iter().any(|container| container.name == fetch::CONTAINER) {
        return Err(Error::pod_template(
            format_args!("spec.containers[{}]", fetch::CONTAINER),
            "is the name of the init container that fetches models: choose another",
        ));
    }
    if let Some(index) = patch.volumes.iter().flatten().position(|volume| volume.name.is_empty()) {
        return Err(Error::pod_template(format_args!("spec.volumes[{index}]"), "has no name: add one"));
    }
    Ok(())
}

fn check_pod(generated: &PodSpec, merged: &PodSpec) -> Result<(), Error> {
    let refused = [
        (
            merged.restart_policy.as_deref().is_some_and(|policy| policy != "Always"),
            "restartPolicy",
            "a Deployment restarts its pods always: remove it",
        ),
        (merged.active_deadline_seconds.is_some(), "activeDeadlineSeconds", "a server has no end: remove it"),
        (merged.ephemeral_containers.is_some(), "ephemeralContainers", "can't be in a template: use kubectl debug"),
        (
            merged.node_name.is_some(),
            "nodeName",
            "would pass by the scheduler, which counts GPUs: use nodeSelector or affinity",
        ),
        (merged.service_account.is_some(), "serviceAccount", "is deprecated: set serviceAccountName"),
        (
            merged.termination_grace_period_seconds.is_none_or(|seconds| seconds < GRACE_SECONDS),
            "terminationGracePeriodSeconds",
            "must be at least 60: the server needs it to finish the requests it has",
        ),
    ];
    if let Some((_, field, problem)) = refused.into_iter().find(|(refused, ..)| *refused) {
        return Err(Error::pod_template(format_args!("spec.{field}"), problem));
    }
    for own in generated.volumes.iter().flatten() {
        if merged.volumes.iter().flatten().any(|volume| volume.name == own.name && volume != own) {
            return Err(Error::pod_template(
                format_args!("spec.volumes[{}]", own.name),
                "is a volume of Flotilla and can't be changed: give yours another name",
            ));
        }
    }
    Ok(())
}
