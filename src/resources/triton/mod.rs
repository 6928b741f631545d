//! What is different where the server is Triton: a model repository, its arguments and its way to stop.
//!
//! Triton wants `/models/NAME/` with a config.pbtxt beside the versions, and the model's volume is read-only and holds the
//! entry at a path of its own. An init container of the same image makes that folder of links: to each file and folder of
//! the entry, and to the generated config.pbtxt where the entry has none. So a model's own configuration wins.

mod config;
#[cfg(test)]
mod tests;
mod text_format;

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, ResourceRequirements,
    SleepAction, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::server_pod::{
    EVICTABLE_VOLUMES, GRPC_PORT, HTTP_PORT, METRICS_PORT, MODEL_VOLUME, SETTINGS_MOUNT, SETTINGS_VOLUME,
    TERMINATION_LOG, mount, restricted_security_context,
};
use super::settings::{DRAIN_DELAY_SECONDS, DRAIN_TIMEOUT_SECONDS};
use crate::service::ValidatedService;
use crate::service::validate::MODEL_MOUNT;

/// The configuration's name in the ConfigMap and in the mounted folder.
pub const FILE: &str = "config.pbtxt";
/// Triton's model repository, made of links by the init container.
const REPOSITORY_MOUNT: &str = "/models";
const REPOSITORY_VOLUME: &str = "repository";
/// Milliseconds that Triton keeps a gRPC connection, and then waits for what is under way on it: as Flotilla's own server.
const GRPC_CONNECTION_AGE: u32 = 20_000;
const GRPC_CONNECTION_GRACE: u32 = 30_000;

/// `$1` the entry in the volume, `$2` the folder of links, `$3` the generated configuration, `$4` the last words and `$5`
/// where they go.
const LINK: &str = r#"mkdir -p "$2"
for file in "$1"/*; do
  [ -e "$file" ] || { printf %s "$4" >"$5"; exit 1; }
  ln -sfn "$file" "$2/"
done
[ -e "$2/config.pbtxt" ] || ln -sfn "$3" "$2/config.pbtxt"
"#;

/// The generated config.pbtxt.
pub fn config(service: &ValidatedService) -> String {
    config::text(service)
}

/// Turns the template of Flotilla's own server into Triton's.
pub fn adapt(template: &mut PodTemplateSpec, service: &ValidatedService) {
    let spec = template.spec.get_or_insert_default();
    let init = init_container(service);
    for container in &mut spec.containers {
        container.args = Some(arguments());
        container.volume_mounts.get_or_insert_default().push(mount(REPOSITORY_VOLUME, REPOSITORY_MOUNT, Some(true)));
    }
    add_repository(spec, init);
    stop_after_endpoints(spec);
    let annotations = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
    if let Some(volumes) = annotations.get_mut(EVICTABLE_VOLUMES) {
        *volumes = format!("{volumes},{REPOSITORY_VOLUME}");
    }
}

/// For servers that stop accepting at SIGTERM: the pod leaves the endpoints first. Their last words are in their log.
pub fn stop_after_endpoints(spec: &mut PodSpec) {
    for container in &mut spec.containers {
        container.lifecycle = Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: DRAIN_DELAY_SECONDS.into() }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        });
        container.termination_message_policy = Some("FallbackToLogsOnError".to_owned());
    }
}

fn arguments() -> Vec<String> {
    let mut arguments = vec!["tritonserver".to_owned(), format!("--model-repository={REPOSITORY_MOUNT}")];
    arguments.extend(
        [
            ("http-port", HTTP_PORT.to_string()),
            ("grpc-port", GRPC_PORT.to_string()),
            ("metrics-port", METRICS_PORT.to_string()),
            ("allow-metrics", "true".to_owned()),
            ("strict-readiness", "true".to_owned()),
            ("exit-timeout-secs", DRAIN_TIMEOUT_SECONDS.to_string()),
            ("grpc-max-connection-age", GRPC_CONNECTION_AGE.to_string()),
            ("grpc-max-connection-age-grace", GRPC_CONNECTION_GRACE.to_string()),
        ]
        .map(|(flag, value)| format!("--{flag}={value}")),
    );
    arguments
}

fn add_repository(spec: &mut PodSpec, init: Container) {
    spec.init_containers.get_or_insert_default().push(init);
    spec.volumes.get_or_insert_default().push(Volume {
        name: REPOSITORY_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity("1Mi".to_owned())), medium: None }),
        ..Volume::default()
    });
}

/// Makes the links, by the shell of the server's own image: no other image has to be pulled.
fn init_container(service: &ValidatedService) -> Container {
    let last_words = serde_json::json!({
        "version": 1,
        "reason": "ModelNotFound",
        "message": format!("{} holds no model entry", service.model.path),
        "fix": "set the path in spec.model.source to the folder that holds VERSION/model.onnx",
    });
    let values = [
        service.model.path.clone(),
        format!("{REPOSITORY_MOUNT}/{}", service.model.name),
        format!("{SETTINGS_MOUNT}/{FILE}"),
        last_words.to_string(),
        TERMINATION_LOG.to_owned(),
    ];
    let mut command = ["sh", "-ec", LINK, "link"].map(str::to_owned).to_vec();
    // Kubernetes would put a variable in the place of $(NAME).
    command.extend(values.iter().map(|value| value.replace('$', "$$")));
    Container {
        name: REPOSITORY_VOLUME.to_owned(),
        image: Some(service.runtime.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command),
        // The user's processor and memory also here, for namespaces whose quota asks for them of each container.
        resources: Some(service.runtime.resources.clone()).filter(|asked| *asked != ResourceRequirements::default()),
        volume_mounts: Some(vec![
            mount(MODEL_VOLUME, MODEL_MOUNT, Some(true)),
            mount(SETTINGS_VOLUME, SETTINGS_MOUNT, Some(true)),
            mount(REPOSITORY_VOLUME, REPOSITORY_MOUNT, None),
        ]),
        termination_message_path: Some(TERMINATION_LOG.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(restricted_security_context()),
        ..Container::default()
    }
}
