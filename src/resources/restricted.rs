//! The Pod Security Standard "restricted" as a check of a pod template, with a service-account token refused besides.
//!
//! Follows <https://kubernetes.io/docs/concepts/security/pod-security-standards/>, also where the cluster does not enforce it.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, LifecycleHandler, PodSpec, PodTemplateSpec, Probe, SELinuxOptions, SeccompProfile,
    Volume,
};

use super::Error;

/// Volume types that give a pod nothing of its node.
const VOLUME_TYPES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// Sysctls that are confined to the pod.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Passes where every pod of `template` is restricted; else names the first field that is in the way.
pub(super) fn check(template: &PodTemplateSpec) -> Result<(), Error> {
    let annotations = template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    for (key, value) in annotations.into_iter().flatten() {
        if key.starts_with(APP_ARMOR_ANNOTATION) && value != "runtime/default" && !value.starts_with("localhost/") {
            return refuse(format!("metadata.annotations[{key}]"), "must be runtime/default or localhost/…");
        }
    }
    let Some(spec) = &template.spec else { return Ok(()) };
    check_pod(spec)?;
    for volume in spec.volumes.iter().flatten() {
        check_volume(volume)?;
    }
    for (list, container) in containers(spec) {
        check_container(&format!("spec.{list}[{}]", container.name), container, spec)?;
    }
    Ok(())
}

/// Every container of a template with the list that it is in.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| ("initContainers", container));
    init.chain(spec.containers.iter().map(|container| ("containers", container)))
}

fn refuse(field: impl std::fmt::Display, problem: &str) -> Result<(), Error> {
    Err(Error::pod_template(field, problem))
}

fn check_pod(spec: &PodSpec) -> Result<(), Error> {
    for (field, value) in [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)] {
        if value == Some(true) {
            return refuse(format_args!("spec.{field}"), "pods may not share namespaces with their node: remove it");
        }
    }
    if spec.automount_service_account_token != Some(false) {
        return refuse(
            "spec.automountServiceAccountToken",
            "must stay false: an inference server has no token of the Kubernetes API",
        );
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return refuse("spec.os.name", "must be linux");
    }
    let Some(context) = &spec.security_context else { return Ok(()) };
    let path = "spec.securityContext";
    check_user(path, context.run_as_non_root, context.run_as_user)?;
    check_profiles(
        path,
        context.seccomp_profile.as_ref(),
        context.app_armor_profile.as_ref(),
        context.se_linux_options.as_ref(),
    )?;
    if context.windows_options.as_ref().is_some_and(|options| options.host_process == Some(true)) {
        return refuse(format_args!("{path}.windowsOptions.hostProcess"), "must not be true");
    }
    match context.sysctls.iter().flatten().find(|sysctl| !SYSCTLS.contains(&sysctl.name.as_str())) {
        Some(sysctl) => refuse(
            format_args!("{path}.sysctls[{}]", sysctl.name),
            "is not among the sysctls that Kubernetes calls safe",
        ),
        None => Ok(()),
    }
}

fn check_volume(volume: &Volume) -> Result<(), Error> {
    let path = format!("spec.volumes[{}]", volume.name);
    let written = serde_json::to_value(volume)?;
    let mut types = written.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "name");
    if let Some(kind) = types.find(|kind| !VOLUME_TYPES.contains(&kind.as_str())) {
        return refuse(
            format_args!("{path}.{kind}"),
            "volumes of this type are not allowed in restricted pods: use a persistentVolumeClaim",
        );
    }
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    if sources.into_iter().any(|source| source.service_account_token.is_some()) {
        return refuse(
            format_args!("{path}.projected.sources.serviceAccountToken"),
            "inference servers get no token of the Kubernetes API: remove it",
        );
    }
    Ok(())
}

fn check_container(path: &str, container: &Container, spec: &PodSpec) -> Result<(), Error> {
    if let Some(port) = container.ports.iter().flatten().find(|port| port.host_port.is_some_and(|port| port != 0)) {
        return refuse(
            format_args!("{path}.ports[{}].hostPort", port.container_port),
            "remove it: use spec.service.type",
        );
    }
    for (field, probe) in [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ] {
        if probe.as_ref().is_some_and(probe_names_a_host) {
            return refuse(format_args!("{path}.{field}"), "may not name a host: it is the pod's own address");
        }
    }
    let hooks = container.lifecycle.iter().flat_map(|lifecycle| [&lifecycle.post_start, &lifecycle.pre_stop]);
    if hooks.flatten().any(hook_names_a_host) {
        return refuse(format_args!("{path}.lifecycle"), "may not name a host: it is the pod's own address");
    }
    check_security_context(&format!("{path}.securityContext"), container, spec)
}

fn check_security_context(path: &str, container: &Container, spec: &PodSpec) -> Result<(), Error> {
    let Some(context) = &container.security_context else { return refuse(path, "is missing") };
    if context.privileged == Some(true) {
        return refuse(format_args!("{path}.privileged"), "must not be true");
    }
    if context.allow_privilege_escalation != Some(false) {
        return refuse(format_args!("{path}.allowPrivilegeEscalation"), "must be false");
    }
    if context.proc_mount.as_deref().is_some_and(|mount| mount != "Default") {
        return refuse(format_args!("{path}.procMount"), "must be Default");
    }
    if context.windows_options.as_ref().is_some_and(|options| options.host_process == Some(true)) {
        return refuse(format_args!("{path}.windowsOptions.hostProcess"), "must not be true");
    }
    let capabilities = context.capabilities.clone().unwrap_or_default();
    if !capabilities.drop.iter().flatten().any(|capability| capability == "ALL") {
        return refuse(format_args!("{path}.capabilities.drop"), "must contain ALL");
    }
    if capabilities.add.iter().flatten().any(|capability| capability != "NET_BIND_SERVICE") {
        return refuse(format_args!("{path}.capabilities.add"), "may contain NET_BIND_SERVICE only");
    }
    let pod = spec.security_context.as_ref();
    check_user(path, context.run_as_non_root.or_else(|| pod.and_then(|pod| pod.run_as_non_root)), context.run_as_user)?;
    check_profiles(
        path,
        context.seccomp_profile.as_ref().or_else(|| pod.and_then(|pod| pod.seccomp_profile.as_ref())),
        context.app_armor_profile.as_ref(),
        context.se_linux_options.as_ref(),
    )
}

fn check_user(path: &str, non_root: Option<bool>, user: Option<i64>) -> Result<(), Error> {
    if non_root != Some(true) {
        return refuse(format_args!("{path}.runAsNonRoot"), "must be true");
    }
    if user == Some(0) {
        return refuse(format_args!("{path}.runAsUser"), "must not be 0: use an image that runs without root");
    }
    Ok(())
}

fn check_profiles(
    path: &str,
    seccomp: Option<&SeccompProfile>,
    app_armor: Option<&AppArmorProfile>,
    selinux: Option<&SELinuxOptions>,
) -> Result<(), Error> {
    let confined = |kind: &str| ["RuntimeDefault", "Localhost"].contains(&kind);
    if !seccomp.is_some_and(|profile| confined(&profile.type_)) {
        return refuse(format_args!("{path}.seccompProfile.type"), "must be RuntimeDefault or Localhost");
    }
    if app_armor.is_some_and(|profile| !confined(&profile.type_)) {
        return refuse(format_args!("{path}.appArmorProfile.type"), "must be RuntimeDefault or Localhost");
    }
    let Some(selinux) = selinux else { return Ok(()) };
    if selinux.type_.as_deref().is_some_and(|kind| !SELINUX_TYPES.contains(&kind)) {
        return refuse(format_args!("{path}.seLinuxOptions.type"), "must be one of the container types");
    }
    for (field, value) in [("user", &selinux.user), ("role", &selinux.role)] {
        if value.as_deref().is_some_and(|value| !value.is_empty()) {
            return refuse(format_args!("{path}.seLinuxOptions.{field}"), "must not be set");
        }
    }
    Ok(())
}

fn probe_names_a_host(probe: &Probe) -> bool {
    is_set(probe.http_get.as_ref().and_then(|action| action.host.as_ref()))
        || is_set(probe.tcp_socket.as_ref().and_then(|action| action.host.as_ref()))
}

fn hook_names_a_host(hook: &LifecycleHandler) -> bool {
    is_set(hook.http_get.as_ref().and_then(|action| action.host.as_ref()))
        || is_set(hook.tcp_socket.as_ref().and_then(|action| action.host.as_ref()))
}

fn is_set(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}
