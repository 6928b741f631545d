//! What Flotilla's own contracts rest on, container by container: the merged template compared with the generated one.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::resources::server_pod::{CONTAINER, TERMINATION_LOG};
use crate::resources::{Error, fetch};

/// Variables that would put foreign code into the server or hide why it ended.
const DENIED_VARIABLES: [&str; 3] = ["LD_PRELOAD", "LD_AUDIT", "FLOTILLA_TERMINATION_LOG"];

/// The fetcher puts the model where the server looks for it, and holds credentials: it stays as it is but for its variables
/// (say, `RUST_BACKTRACE`), resources and further mounts.
pub(super) fn check_fetcher(generated: &Container, merged: &Container, gpu_resource: &str) -> Result<(), Error> {
    let path = format!("spec.initContainers[{}]", fetch::CONTAINER);
    let changed = [
        (generated.image != merged.image, "image", "is the operator's own default server image"),
        (generated.command != merged.command, "command", "can't be changed"),
        (generated.args != merged.args, "args", "can't be changed: use spec.model.source.uri"),
        (generated.env_from != merged.env_from, "envFrom", "can't be changed: use spec.model.source.uri.secretRef"),
        (generated.ports != merged.ports, "ports", "can't be set"),
        (
            generated.termination_message_path != merged.termination_message_path
                || generated.termination_message_policy != merged.termination_message_policy,
            "terminationMessagePath",
            "can't be changed: the operator reads there why a fetch failed",
        ),
        (generated.restart_policy != merged.restart_policy, "restartPolicy", "can't be set: the fetcher has to end"),
        (merged.lifecycle.is_some(), "lifecycle", "can't be set"),
        (
            merged.security_context.as_ref().and_then(|context| context.read_only_root_filesystem) != Some(true),
            "securityContext.readOnlyRootFilesystem",
            "must stay true: mount an emptyDir volume where files are written",
        ),
    ];
    if let Some((_, field, problem)) = changed.into_iter().find(|(changed, ..)| *changed) {
        return Err(Error::pod_template(format_args!("{path}.{field}"), problem));
    }
    check_variables(&path, merged)?;
    check_mounts(&path, generated, merged)?;
    check_gpus(&path, Some(generated), merged, gpu_resource)
}

/// The server is what the operator scrapes, probes, drains and reports about.
pub(super) fn check_server(generated: &Container, merged: &Container, gpu_resource: &str) -> Result<(), Error> {
    let path = format!("spec.containers[{CONTAINER}]");
    // Only an engine whose arguments Flotilla does not know is started by the user.
    let starts_itself = generated.args.is_none();
    let changed = [
        (generated.image != merged.image, "image", "set spec.runtime.image instead"),
        (
            !starts_itself && generated.command != merged.command,
            "command",
            "can't be set: the image's entrypoint has to be the server; for another server set spec.runtime.engine: Custom",
        ),
        (
            !starts_itself && generated.args != merged.args,
            "args",
            "can't be set: they follow spec.model and spec.runtime; for arguments of your own set spec.runtime.engine: Custom",
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
        (
            generated.lifecycle.is_some() && generated.lifecycle != merged.lifecycle,
            "lifecycle",
            "can't be changed: the server is stopped once the pod has left the endpoints",
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
    check_variables(&path, merged)?;
    check_mounts(&path, generated, merged)?;
    check_gpus(&path, Some(generated), merged, gpu_resource)
}

fn check_variables(path: &str, merged: &Container) -> Result<(), Error> {
    match merged.env.iter().flatten().find(|variable| DENIED_VARIABLES.contains(&variable.name.as_str())) {
        Some(variable) => Err(Error::pod_template(
            format_args!("{path}.env[{}]", variable.name),
            "can't be set on this container: remove it",
        )),
        None => Ok(()),
    }
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

/// What Flotilla runs before the server stays as it is.
pub(super) fn check_init(generated: &Container, merged: &Container) -> Result<(), Error> {
    if generated == merged {
        return Ok(());
    }
    Err(Error::pod_template(
        format_args!("spec.initContainers[{}]", generated.name),
        "is a container of Flotilla and can't be changed: give yours another name",
    ))
}

/// Containers that the user adds may not take what the server is known by.
pub(super) fn check_other(
    path: &str,
    generated: &PodSpec,
    container: &Container,
    gpu_resource: &str,
) -> Result<(), Error> {
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
