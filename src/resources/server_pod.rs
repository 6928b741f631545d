//! The pod template as Flotilla generates it: one server on the model's volume, "restricted" by the Pod Security Standards.

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction,
    ImageVolumeSource, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, PreferredSchedulingTerm, Probe,
    ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{common_labels, fetch, settings, string_map, triton};
use crate::api::labels;
use crate::api::runtime::Engine;
use crate::service::validate::MODEL_MOUNT;
use crate::service::{EngineCache, GpuRequest, ModelVolume, ValidatedService, names};

/// The server's container.
pub const CONTAINER: &str = "server";
/// KServe v2 over HTTP, and the probes.
pub const HTTP_PORT: i32 = 8000;
/// KServe v2 over gRPC.
pub const GRPC_PORT: i32 = 8001;
/// Metrics.
pub const METRICS_PORT: i32 = 8002;
/// The highest weight of a preference that the scheduler takes.
const MOST_PREFERRED: i32 = 100;
/// Folder of the settings file.
pub const SETTINGS_MOUNT: &str = "/etc/flotilla";
/// Where the server writes why it ended.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Time from SIGTERM to SIGKILL: the drain's delay and timeout, and room to stop.
pub const GRACE_SECONDS: i64 = 60;

/// The volume that holds the model.
pub const MODEL_VOLUME: &str = "model";
/// The volume that holds the settings.
pub const SETTINGS_VOLUME: &str = "settings";
/// The annotation without which the cluster autoscaler takes volumes for data worth keeping and never removes the node.
pub const EVICTABLE_VOLUMES: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

/// Folder of engines and decisions, where the service has a cache.
pub const CACHE_MOUNT: &str = "/var/cache/flotilla";
/// Name of its volume.
const CACHE_VOLUME: &str = "engine-cache";

/// The writable folder that every server has.
const TMP_MOUNT: &str = "/tmp";
/// A user and group without a name in any image.
const USER: i64 = 65532;

/// The template of a service whose settings are in the ConfigMap `settings_name`.
pub fn build(service: &ValidatedService, settings_name: &str) -> PodTemplateSpec {
    let mut template = own(service, settings_name);
    match service.runtime.engine {
        Engine::OnnxRuntime => {}
        Engine::Triton => triton::adapt(&mut template, service),
        Engine::Custom => custom(template.spec.get_or_insert_default()),
    }
    template
}

/// The template of Flotilla's own server.
fn own(service: &ValidatedService, settings_name: &str) -> PodTemplateSpec {
    let mut labels = common_labels(service);
    labels.extend(names::selector(&service.name, service.pool(), labels::STABLE));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(string_map([(EVICTABLE_VOLUMES, evictable(service))])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            init_containers: fetch::container(service).map(|container| vec![container]),
            containers: vec![server(service)],
            volumes: Some(volumes(service, settings_name)),
            service_account_name: Some(names::inference(&service.name)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        }),
    }
}

/// What may go with a node: a fetched model is fetched again, an engine built again.
fn evictable(service: &ValidatedService) -> &'static str {
    let is_fetched = matches!(service.model.source, ModelVolume::Fetched(_));
    let is_cached = matches!(service.runtime.cache, Some(EngineCache::EmptyDir { .. }));
    match (is_fetched, is_cached) {
        (true, true) => "tmp,model,engine-cache",
        (true, false) => "tmp,model",
        (false, true) => "tmp,engine-cache",
        (false, false) => "tmp",
    }
}

/// A server of the user's own starts as its image or the podTemplate says. It finds model, settings and ports where
/// Flotilla's own server does, and need not know how to drain.
fn custom(spec: &mut PodSpec) {
    for container in &mut spec.containers {
        container.args = None;
    }
    triton::stop_after_endpoints(spec);
}

/// The securityContext of a container that may do nothing special.
pub fn restricted_security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

fn server(service: &ValidatedService) -> Container {
    Container {
        name: CONTAINER.to_owned(),
        image: Some(service.runtime.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["--settings".to_owned(), format!("{SETTINGS_MOUNT}/{}", settings::FILE)]),
        ports: Some(vec![port("http", HTTP_PORT), port("grpc", GRPC_PORT), port("metrics", METRICS_PORT)]),
        resources: Some(resources(service)).filter(|resources| *resources != ResourceRequirements::default()),
        volume_mounts: Some(mounts(service)),
        // Loading and warming up may take 10 minutes; until then nobody calls the server unresponsive.
        startup_probe: Some(Probe { failure_threshold: Some(300), ..probe("/v2/health/ready", 2, 1) }),
        readiness_probe: Some(probe("/v2/health/ready", 1, 1)),
        // Slow on purpose: a server on a starved processor is late, not dead.
        liveness_probe: Some(probe("/v2/health/live", 10, 5)),
        termination_message_path: Some(TERMINATION_LOG.to_owned()),
        termination_message_policy: Some("File".to_owned()),
        security_context: Some(restricted_security_context()),
        ..Container::default()
    }
}

fn mounts(service: &ValidatedService) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount(MODEL_VOLUME, MODEL_MOUNT, Some(true)),
        mount(SETTINGS_VOLUME, SETTINGS_MOUNT, Some(true)),
        mount("tmp", TMP_MOUNT, None),
    ];
    if service.runtime.cache.is_some() {
        mounts.push(mount(CACHE_VOLUME, CACHE_MOUNT, None));
    }
    mounts
}

/// The user's processor and memory, and the GPUs. Extended resources need equal requests and limits.
fn resources(service: &ValidatedService) -> ResourceRequirements {
    let mut resources = service.runtime.resources.clone();
    if let Some(gpu) = &service.gpu {
        for side in [&mut resources.requests, &mut resources.limits] {
            side.get_or_insert_default().insert(gpu.resource_name.clone(), Quantity(gpu.count.to_string()));
        }
    }
    resources
}

fn volumes(service: &ValidatedService, settings_name: &str) -> Vec<Volume> {
    let model = match &service.model.source {
        ModelVolume::Image { reference, pull_policy } => Volume {
            image: Some(ImageVolumeSource {
                reference: Some(reference.clone()),
                pull_policy: Some(pull_policy.as_str().to_owned()),
            }),
            ..Volume::default()
        },
        // Read-only as a volume and not only as a mount: else the kubelet would give the user's files to our group.
        ModelVolume::Claim { claim_name } => Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name.clone(),
                read_only: Some(true),
            }),
            ..Volume::default()
        },
        ModelVolume::Fetched(model) => fetch::volume(model),
    };
    let mut volumes = vec![
        Volume { name: MODEL_VOLUME.to_owned(), ..model },
        Volume {
            name: SETTINGS_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: settings_name.to_owned(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "tmp".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity("1Gi".to_owned())), medium: None }),
            ..Volume::default()
        },
    ];
    volumes.extend(service.runtime.cache.as_ref().map(cache));
    volumes
}

/// The volume for engines. The pod's fsGroup makes it writable for the server.
fn cache(cache: &EngineCache) -> Volume {
    let name = CACHE_VOLUME.to_owned();
    match cache {
        EngineCache::EmptyDir { max_mebibytes } => Volume {
            name,
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity(format!("{max_mebibytes}Mi"))),
                medium: None,
            }),
            ..Volume::default()
        },
        EngineCache::Claim { claim_name } => Volume {
            name,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name.clone(),
                read_only: None,
            }),
            ..Volume::default()
        },
    }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

pub(super) fn mount(name: &str, path: &str, read_only: Option<bool>) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), read_only, ..VolumeMount::default() }
}

fn probe(path: &str, period_seconds: i32, timeout_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(timeout_seconds),
        ..Probe::default()
    }
}

/// Lets the pod onto nodes that are kept for GPUs, and only onto nodes with one of the products. Done after the user's patch,
/// because lists of tolerations and affinity terms replace each other: what the user wrote holds besides.
///
/// Of several products an earlier one is preferred, but any will do: whoever lists the cheapest first fills it first.
///
/// A divided GPU carries a suffix to its product: -SHARED is accepted, -MIG-… is not, because its slices can't be listed.
pub fn place_on_gpu(template: &mut PodTemplateSpec, gpu: &GpuRequest) {
    let spec = template.spec.get_or_insert_default();
    let toleration = Toleration {
        key: Some(gpu.resource_name.clone()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&toleration) {
        tolerations.push(toleration);
    }
    if gpu.products.is_empty() {
        return;
    }
    let requirement = one_of(&gpu.products);
    let node_affinity: &mut NodeAffinity =
        spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_default();
    let required: &mut NodeSelector =
        node_affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    // Terms are alternatives: the product has to hold in each of them.
    for term in &mut required.node_selector_terms {
        term.match_expressions.get_or_insert_default().push(requirement.clone());
    }
    let preferred = gpu.products.iter().zip(preferences(gpu.products.len())).map(|(product, weight)| {
        let expressions = Some(vec![one_of(std::slice::from_ref(product))]);
        let preference = NodeSelectorTerm { match_expressions: expressions, ..NodeSelectorTerm::default() };
        PreferredSchedulingTerm { weight, preference }
    });
    let preferred: Vec<_> = preferred.collect();
    if !preferred.is_empty() {
        node_affinity.preferred_during_scheduling_ignored_during_execution.get_or_insert_default().extend(preferred);
    }
}

/// The weights of all products but the last, in equal steps from the most that the scheduler takes.
fn preferences(products: usize) -> impl Iterator<Item = i32> {
    let last = i32::try_from(products.saturating_sub(1)).unwrap_or(i32::MAX);
    (1..=last).rev().map(move |step| MOST_PREFERRED * step / last)
}

/// Nodes with one of the products, whole or shared.
fn one_of(products: &[String]) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: labels::GPU_PRODUCT.to_owned(),
        operator: "In".to_owned(),
        values: Some(products.iter().flat_map(|product| [product.clone(), format!("{product}-SHARED")]).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::validated;
    use serde_json::json;

    #[test]
    fn the_grace_period_leaves_room_for_the_drain() {
        assert!(GRACE_SECONDS >= i64::from(settings::DRAIN_DELAY_SECONDS + settings::DRAIN_TIMEOUT_SECONDS) + 5);
    }

    #[test]
    fn a_claim_is_mounted_read_only() {
        let service = validated(
            json!({"model": {"source": {"image": null, "persistentVolumeClaim": {"claimName": "models", "path": "clip"}}}}),
        );
        let spec = build(&service, "s").spec.unwrap();
        assert_eq!(
            serde_json::to_value(&spec.volumes.unwrap()[0]).unwrap(),
            json!({"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": true}})
        );
    }

    /// What the node may evict for, and what the server is told, belong together.
    #[test]
    fn a_cache_is_mounted_for_writing() {
        for (given, volume, annotation) in [
            (
                json!({"emptyDir": {"maxMebibytes": 512}}),
                json!({"name": "engine-cache", "emptyDir": {"sizeLimit": "512Mi"}}),
                "tmp,engine-cache",
            ),
            (
                json!({"persistentVolumeClaim": {"claimName": "engines"}}),
                json!({"name": "engine-cache", "persistentVolumeClaim": {"claimName": "engines"}}),
                "tmp",
            ),
        ] {
            let template = serde_json::to_value(build(&validated(json!({"runtime": {"cache": given}})), "s")).unwrap();
            assert_eq!(template["spec"]["volumes"][3], volume);
            assert_eq!(
                template["spec"]["containers"][0]["volumeMounts"][3],
                json!({"name": "engine-cache", "mountPath": "/var/cache/flotilla"})
            );
            let annotations = &template["metadata"]["annotations"];
            assert_eq!(annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"], annotation);
        }
    }

    /// A user's own preferences stay beside ours.
    #[test]
    fn an_earlier_product_is_preferred() {
        let placed = |products: &[&str], affinity: serde_json::Value| {
            let products = products.iter().map(|product| (*product).to_owned()).collect();
            let gpu = GpuRequest { resource_name: "nvidia.com/gpu".to_owned(), count: 1, products };
            let mut template = serde_json::from_value(json!({"spec": {"affinity": affinity}})).unwrap();
            place_on_gpu(&mut template, &gpu);
            let template = serde_json::to_value(template).unwrap();
            template["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"].clone()
        };
        let term = |weight: i32, key: &str, values: &[&str]| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": values}]}});
        let zone = term(7, "zone", &["a"]);
        let given = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [zone]}});
        let product = |weight, name: &str| term(weight, "nvidia.com/gpu.product", &[name, &format!("{name}-SHARED")]);
        assert_eq!(placed(&["L4", "A10", "A100"], given), json!([zone, product(100, "L4"), product(50, "A10")]));
        assert_eq!(placed(&["L4"], json!({})), json!(null), "one product is no choice");
    }

    /// Users' own terms are alternatives to each other: a product that held in one of them only would be no requirement.
    #[test]
    fn products_hold_in_every_term_of_the_users_affinity() {
        let gpu =
            GpuRequest { resource_name: "nvidia.com/gpu".to_owned(), count: 1, products: vec!["A100".to_owned()] };
        let zone = |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        let mut template: PodTemplateSpec = serde_json::from_value(json!({"spec": {
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone("a"), zone("b")]}}},
        }}))
        .unwrap();
        place_on_gpu(&mut template, &gpu);
        let product = json!({"key": "nvidia.com/gpu.product", "operator": "In", "values": ["A100", "A100-SHARED"]});
        let both =
            |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}, product]});
        assert_eq!(
            serde_json::to_value(template.spec).unwrap(),
            json!({
                "containers": [],
                "tolerations": [{"key": "spot", "operator": "Exists"}, {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [both("a"), both("b")]}}},
            })
        );
    }
}
