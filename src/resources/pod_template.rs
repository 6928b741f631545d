//! The user's strategic-merge patch over the generated pod template, and what it may not change.
//!
//! Lists merge as Kubernetes merges them: containers, volumes, env and pull secrets by name, ports by number, mounts by path,
//! all others as a whole. A patch adds and replaces; it can't delete. What Flotilla's own contracts rest on is checked by
//! comparing the merged template with the generated one, and the security floor by [`restricted::check`].

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::server_pod::{CONTAINER, GRACE_SECONDS, TERMINATION_LOG, restricted_security_context};
use super::{Error, restricted};

/// Labels and annotations with this prefix are Flotilla's.
const OWN_PREFIX: &str = "flotilla.dev/";
/// Variables that would put foreign code into the server or hide why it ended.
const DENIED_VARIABLES: [&str; 3] = ["LD_PRELOAD", "LD_AUDIT", "FLOTILLA_TERMINATION_LOG"];

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
    check_metadata(&generated_metadata, patch.metadata.as_ref().unwrap_or(&ObjectMeta::default()))?;
    check_names(patch.spec.as_ref().unwrap_or(&PodSpec::default()))?;

    let mut merged = generated;
    merged.merge_from(patch.clone());
    let spec = merged.spec.get_or_insert_default();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let given = container.security_context.take().unwrap_or_default();
        let mut restricted = restricted_security_context();
        restricted.merge_from(given);
        container.security_context = Some(restricted);
    }

    check_pod(&generated_spec, spec)?;
    for generated in &generated_spec.containers {
        for container in &spec.containers {
            if container.name == generated.name {
                check_server(generated, container, gpu_resource)?;
            }
        }
    }
    for (list, container) in restricted::containers(spec) {
        if container.name != CONTAINER {
            check_other(&format!("spec.{list}[{}]", container.name), &generated_spec, container, gpu_resource)?;
        }
    }
    restricted::check(&merged)?;
    Ok(merged)
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

/// The server is what the operator scrapes, probes, drains and reports about.
fn check_server(generated: &Container, merged: &Container, gpu_resource: &str) -> Result<(), Error> {
    let path = format!("spec.containers[{CONTAINER}]");
    let changed = [
        (generated.image != merged.image, "image", "set spec.runtime.image instead"),
        (
            generated.command != merged.command,
            "command",
            "can't be set: the image's entrypoint has to be the server; for another server set spec.runtime.image",
        ),
        (
            generated.args != merged.args,
            "args",
            "can't be set: the server reads its settings file; use spec.model and spec.runtime",
        ),
        (
            generated.startup_probe != merged.startup_probe,
            "startupProbe",
            "can't be changed: it follows the server's warm-up",
        ),
        (
            generated.readiness_probe != merged.readiness_probe,
            "readinessProbe",
            "can't be changed: it takes part in the drain",
        ),
        (generated.liveness_probe != merged.liveness_probe, "livenessProbe", "can't be changed"),
        (
            generated.termination_message_path != merged.termination_message_path,
            "terminationMessagePath",
            "can't be changed: the operator reads there why a server ended",
        ),
        (
            generated.termination_message_policy != merged.termination_message_policy,
            "terminationMessagePolicy",
            "can't be changed: the operator reads there why a server ended",
        ),
        (generated.restart_policy != merged.restart_policy, "restartPolicy", "is for init containers: remove it"),
        (
            merged.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.stop_signal.is_some()),
            "lifecycle.stopSignal",
            "can't be set: the server drains on SIGTERM",
        ),
        (
            merged.env_from.is_some(),
            "envFrom",
            "its variables can't be checked: name them one by one in env with valueFrom",
        ),
        (
            merged.security_context.as_ref().and_then(|context| context.read_only_root_filesystem) != Some(true),
            "securityContext.readOnlyRootFilesystem",
            "must stay true: mount an emptyDir volume where files are written",
        ),
        (
            merged
                .security_context
                .as_ref()
                .and_then(|context| context.capabilities.as_ref()?.add.as_ref())
                .is_some_and(|added| !added.is_empty()),
            "securityContext.capabilities.add",
            "the server needs no capability: remove it",
        ),
    ];
    if let Some((_, field, problem)) = changed.into_iter().find(|(changed, ..)| *changed) {
        return Err(Error::pod_template(format_args!("{path}.{field}"), problem));
    }
    for own in generated.ports.iter().flatten() {
        let kept = merged.ports.iter().flatten().filter(|port| {
            port.container_port == own.container_port
                || port.name.as_ref().is_some_and(|name| own.name.as_ref() == Some(name))
        });
        if kept.collect::<Vec<_>>() != [own] {
            return Err(Error::pod_template(
                format_args!("{path}.ports[{}]", own.container_port),
                format!(
                    "is the server's port {}: use other names and numbers",
                    own.name.as_deref().unwrap_or_default()
                ),
            ));
        }
    }
    if let Some(variable) =
        merged.env.iter().flatten().find(|variable| DENIED_VARIABLES.contains(&variable.name.as_str()))
    {
        return Err(Error::pod_template(
            format_args!("{path}.env[{}]", variable.name),
            "can't be set on the server: remove it",
        ));
    }
    check_mounts(&path, generated, merged)?;
    check_gpus(&path, Some(generated), merged, gpu_resource)
}

/// Nothing may be mounted over, into or around what the server reads; folders inside /tmp are free.
fn check_mounts(path: &str, generated: &Container, merged: &Container) -> Result<(), Error> {
    let own = generated.volume_mounts.as_deref().unwrap_or_default();
    let reserved: Vec<&str> = own.iter().map(|mount| mount.mount_path.as_str()).chain([TERMINATION_LOG]).collect();
    for mount in merged.volume_mounts.iter().flatten() {
        if own.contains(mount) {
            continue;
        }
        let given = parts(&mount.mount_path);
        let collides = reserved.iter().any(|reserved| {
            let reserved = parts(reserved);
            reserved.starts_with(&given) || (reserved != ["tmp"] && given.starts_with(&reserved))
        });
        if collides || given.contains(&"..") {
            return Err(Error::pod_template(
                format_args!("{path}.volumeMounts[{}]", mount.mount_path),
                format!("{} are the server's own: mount somewhere else", reserved.join(", ")),
            ));
        }
    }
    Ok(())
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

/// Containers that the user adds may not take what the server is known by.
fn check_other(path: &str, generated: &PodSpec, container: &Container, gpu_resource: &str) -> Result<(), Error> {
    let taken = generated.containers.iter().flat_map(|own| own.ports.iter().flatten());
    for own in taken {
        let clash =
            container.ports.iter().flatten().any(|port| {
                port.container_port == own.container_port || (port.name.is_some() && port.name == own.name)
            });
        if clash {
            return Err(Error::pod_template(
                format_args!("{path}.ports[{}]", own.container_port),
                format!(
                    "is the server's port {}: use other names and numbers",
                    own.name.as_deref().unwrap_or_default()
                ),
            ));
        }
    }
    check_gpus(path, None, container, gpu_resource)
}

/// How many GPUs a replica has stands in one place, and placement and scaling rely on it.
fn check_gpus(path: &str, generated: Option<&Container>, merged: &Container, gpu_resource: &str) -> Result<(), Error> {
    for side in ["limits", "requests"] {
        let asked = |container: &Container| {
            let resources = container.resources.as_ref()?;
            let quantities = if side == "limits" { &resources.limits } else { &resources.requests };
            quantities.as_ref()?.get(gpu_resource).cloned()
        };
        if asked(merged) != generated.and_then(asked) {
            return Err(Error::pod_template(
                format_args!("{path}.resources.{side}[{gpu_resource}]"),
                "set spec.placement.gpu instead",
            ));
        }
    }
    Ok(())
}
