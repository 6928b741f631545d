//! `validate`: the custom resource and the operator's defaults in, a [`ValidatedService`] or a clear error out.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use serde_json::Value;

use super::names::MAX_SERVICE_NAME;
use super::{
    EngineCache, FetchedModel, GpuRequest, ModelVolume, ValidatedModel, ValidatedRollout, ValidatedRuntime,
    ValidatedScaling, ValidatedService,
};
use crate::api::InferenceService;
use crate::api::model::{Model, ModelSource, PreprocessingPreset, UriSource};
use crate::api::runtime::{self, Engine, Resources, Runtime};
use crate::api::spec::InferenceServiceSpec;

/// Folder of the server's container on which the model's volume is mounted.
pub const MODEL_MOUNT: &str = "/mnt/model";
/// Folder in that volume which a fetched model becomes: it is moved there as a whole.
const FETCHED_FOLDER: &str = "entry";

/// What the operator was installed with.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The server's image where the service names none.
    pub server_image: String,
}

/// Why a service can't be acted on. Each message names the field and says what to do; the schema rejects most of these
/// before, but an object may be older than the schema.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The API server always sets these; an object without them did not come from one.
    #[error("metadata.{0} is missing: the object did not come from an API server")]
    Metadata(&'static str),
    /// A field has a value that can't be used.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

fn field(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Field { field: field.into(), problem: problem.into() }
}

/// Resolves defaults and checks what the schema can't.
///
/// # Errors
/// [`Error`] with the field's path and what to do about it.
pub fn validate(service: &InferenceService, defaults: &Defaults) -> Result<ValidatedService, Error> {
    let name = service.metadata.name.clone().ok_or(Error::Metadata("name"))?;
    if name.len() > MAX_SERVICE_NAME {
        return Err(field("metadata.name", format!("has {} characters, the limit is {MAX_SERVICE_NAME}", name.len())));
    }
    let spec = &service.spec;
    if spec.runtime.engine == Engine::Triton && spec.model.preprocessing.preset != PreprocessingPreset::None {
        return Err(field(
            "spec.model.preprocessing.preset",
            "is done by Flotilla's own server: with runtime.engine Triton use None and send tensors",
        ));
    }
    Ok(ValidatedService {
        namespace: service.namespace().ok_or(Error::Metadata("namespace"))?,
        uid: service.uid().ok_or(Error::Metadata("uid"))?,
        generation: service.metadata.generation.unwrap_or_default(),
        model: model(&spec.model, &name, defaults)?,
        runtime: runtime(&spec.runtime, defaults, spec.placement.gpu.as_ref().map(|gpu| gpu.resource_name.as_str()))?,
        gpu: gpu(spec)?,
        scaling: scaling(spec)?,
        service_type: spec.service.type_,
        rollout: ValidatedRollout {
            strategy: spec.rollout.strategy,
            progress_deadline: Duration::from_secs(
                positive("spec.rollout.progressDeadlineSeconds", spec.rollout.progress_deadline_seconds)?.into(),
            ),
        },
        name,
    })
}

fn model(model: &Model, service_name: &str, defaults: &Defaults) -> Result<ValidatedModel, Error> {
    let (source, path) = match &model.source {
        ModelSource { image: Some(image), persistent_volume_claim: None, uri: None } => (
            ModelVolume::Image { reference: image.reference.clone(), pull_policy: image.pull_policy },
            image.path.as_deref(),
        ),
        ModelSource { image: None, persistent_volume_claim: Some(claim), uri: None } => {
            (ModelVolume::Claim { claim_name: claim.claim_name.clone() }, claim.path.as_deref())
        }
        ModelSource { image: None, persistent_volume_claim: None, uri: Some(uri) } => {
            (ModelVolume::Fetched(fetched(uri, defaults)?), Some(FETCHED_FOLDER))
        }
        _ => return Err(field("spec.model.source", "set exactly one of image, persistentVolumeClaim and uri")),
    };
    let path = path.unwrap_or_default().trim_matches('/');
    if path.split('/').any(|part| part == "..") {
        return Err(field("spec.model.source", "path may not contain '..'"));
    }
    Ok(ValidatedModel {
        name: model.name.clone().unwrap_or_else(|| service_name.to_owned()),
        source,
        path: if path.is_empty() { MODEL_MOUNT.to_owned() } else { format!("{MODEL_MOUNT}/{path}") },
        preprocessing: model.preprocessing.preset,
    })
}

/// The fetcher reads the URI itself and says what is wrong with it; here is what no pod should be started for.
fn fetched(source: &UriSource, defaults: &Defaults) -> Result<FetchedModel, Error> {
    let scheme = source.uri.split_once("://").map(|(scheme, _)| scheme);
    if !scheme.is_some_and(|scheme| ["s3", "gs", "https", "hf"].contains(&scheme)) {
        return Err(field("spec.model.source.uri.uri", "must start with s3://, gs://, https:// or hf://"));
    }
    Ok(FetchedModel {
        uri: source.uri.clone(),
        sha256: source.sha256.clone(),
        secret_name: source.secret_ref.as_ref().map(|secret| secret.name.clone()),
        max_mebibytes: positive("spec.model.source.uri.maxMebibytes", source.max_mebibytes)?,
        image: defaults.server_image.clone(),
    })
}

fn runtime(runtime: &Runtime, defaults: &Defaults, gpu_resource: Option<&str>) -> Result<ValidatedRuntime, Error> {
    let resources = runtime.resources.as_ref().map(resources).unwrap_or_default();
    reject_gpus_in_resources(&resources, gpu_resource.unwrap_or("nvidia.com/gpu"))?;
    let image = match (&runtime.image, runtime.engine) {
        (Some(image), _) => image.clone(),
        (None, Engine::OnnxRuntime) => defaults.server_image.clone(),
        (None, Engine::Triton | Engine::Custom) => {
            return Err(field(
                "spec.runtime.image",
                "engine Triton and Custom have no default: name the server's image",
            ));
        }
    };
    Ok(ValidatedRuntime {
        engine: runtime.engine,
        image,
        execution_provider: runtime.execution_provider,
        max_batch_size: positive("spec.runtime.maxBatchSize", runtime.max_batch_size)?,
        max_queue_delay: Duration::from_micros(
            u64::try_from(runtime.max_queue_delay_microseconds)
                .map_err(|_| field("spec.runtime.maxQueueDelayMicroseconds", "must not be negative"))?,
        ),
        instances: positive("spec.runtime.instancesPerReplica", runtime.instances_per_replica)?,
        cache: runtime.cache.as_ref().map(cache).transpose()?,
        resources,
        pod_template: runtime.pod_template.as_ref().map(pod_template).transpose()?,
    })
}

fn cache(cache: &runtime::EngineCache) -> Result<EngineCache, Error> {
    match cache {
        runtime::EngineCache { empty_dir: Some(folder), persistent_volume_claim: None } => Ok(EngineCache::EmptyDir {
            max_mebibytes: positive("spec.runtime.cache.emptyDir.maxMebibytes", folder.max_mebibytes)?,
        }),
        runtime::EngineCache { empty_dir: None, persistent_volume_claim: Some(claim) } => {
            Ok(EngineCache::Claim { claim_name: claim.claim_name.clone() })
        }
        _ => Err(field("spec.runtime.cache", "set exactly one of emptyDir and persistentVolumeClaim")),
    }
}

fn resources(given: &Resources) -> ResourceRequirements {
    let quantities = |given: &Option<BTreeMap<String, IntOrString>>| {
        given.as_ref().map(|given| {
            let text = |value: &IntOrString| match value {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(text) => text.clone(),
            };
            given.iter().map(|(name, value)| (name.clone(), Quantity(text(value)))).collect()
        })
    };
    ResourceRequirements { claims: None, requests: quantities(&given.requests), limits: quantities(&given.limits) }
}

/// The device plugin's resource stands in one place, or the two could disagree.
fn reject_gpus_in_resources(resources: &ResourceRequirements, gpu_resource: &str) -> Result<(), Error> {
    for (side, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        if quantities.as_ref().is_some_and(|quantities| quantities.contains_key(gpu_resource)) {
            return Err(field(
                format!("spec.runtime.resources.{side}[{gpu_resource}]"),
                "ask for GPUs in spec.placement.gpu instead",
            ));
        }
    }
    Ok(())
}

/// Parses the patch and names the first field that Kubernetes does not know, so that a typing error is not lost in silence.
fn pod_template(patch: &Value) -> Result<PodTemplateSpec, Error> {
    const ROOT: &str = "spec.runtime.podTemplate";
    let template: PodTemplateSpec =
        serde_json::from_value(patch.clone()).map_err(|error| field(ROOT, format!("is no pod template: {error}")))?;
    let known = serde_json::to_value(&template).map_err(|error| field(ROOT, error.to_string()))?;
    match unknown_field(patch, &known, ROOT) {
        Some(path) => Err(field(path, "is not a field of a Kubernetes pod template; check the spelling")),
        None => Ok(template),
    }
}

/// Path of the first non-null, non-empty value of `given` that `known` lacks.
fn unknown_field(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match known.get(key) {
                Some(known) => unknown_field(value, known, &path),
                None => (!is_empty(value)).then_some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(index, (given, known))| unknown_field(given, known, &format!("{path}[{index}]"))),
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn gpu(spec: &InferenceServiceSpec) -> Result<Option<GpuRequest>, Error> {
    let Some(gpu) = &spec.placement.gpu else { return Ok(None) };
    Ok(Some(GpuRequest {
        resource_name: gpu.resource_name.clone(),
        count: positive("spec.placement.gpu.countPerReplica", gpu.count_per_replica)?,
        products: gpu.products.clone(),
    }))
}

fn scaling(spec: &InferenceServiceSpec) -> Result<ValidatedScaling, Error> {
    let scaling = &spec.scaling;
    let min_replicas = positive("spec.scaling.minReplicas", scaling.min_replicas)?;
    let max_replicas = positive("spec.scaling.maxReplicas", scaling.max_replicas)?;
    if min_replicas > max_replicas {
        return Err(field("spec.scaling.minReplicas", "must not be greater than maxReplicas"));
    }
    Ok(ValidatedScaling {
        mode: scaling.mode,
        paused: scaling.paused,
        min_replicas,
        max_replicas,
        target_queue_time: Duration::from_millis(
            positive("spec.scaling.targetQueueTimeMilliseconds", scaling.target_queue_time_milliseconds)?.into(),
        ),
        scale_down_stabilization: Duration::from_secs(
            u64::try_from(scaling.scale_down_stabilization_seconds)
                .map_err(|_| field("spec.scaling.scaleDownStabilizationSeconds", "must not be negative"))?,
        ),
        external_replicas: u32::try_from(spec.replicas).unwrap_or(0).clamp(min_replicas, max_replicas),
    })
}

fn positive(path: &str, value: i32) -> Result<u32, Error> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value > 0)
        .ok_or_else(|| field(path, format!("is {value}, must be at least 1")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{defaults, service};
    use serde_json::json;

    #[test]
    fn the_smallest_manifest_gets_every_default() {
        let validated = validate(&service(json!({})), &defaults()).unwrap();
        assert_eq!(validated.model.name, "photos");
        assert_eq!(validated.model.path, "/mnt/model/model");
        assert_eq!(validated.runtime.image, "flotilla/server:test");
        assert_eq!((validated.scaling.min_replicas, validated.scaling.max_replicas), (1, 8));
        assert_eq!(validated.scaling.target_queue_time, Duration::from_millis(20));
        assert_eq!(validated.pool(), "cpu");
    }

    #[test]
    fn external_replicas_stay_within_the_bounds() {
        for (asked, expected) in [(0, 2), (3, 3), (9, 4)] {
            let service = service(json!({"replicas": asked, "scaling": {"minReplicas": 2, "maxReplicas": 4}}));
            assert_eq!(validate(&service, &defaults()).unwrap().scaling.external_replicas, expected);
        }
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (json!({"model": {"source": {}}}), "spec.model.source"),
            (json!({"model": {"source": {"uri": {"uri": "s3://both/of/them"}}}}), "spec.model.source"),
            (
                json!({"model": {"source": {"image": null, "uri": {"uri": "ftp://host/m.onnx"}}}}),
                "spec.model.source.uri.uri",
            ),
            (
                json!({"model": {"source": {"image": null, "uri": {"uri": "s3://a", "maxMebibytes": 0}}}}),
                "spec.model.source.uri.maxMebibytes",
            ),
            (json!({"scaling": {"minReplicas": 3, "maxReplicas": 2}}), "spec.scaling.minReplicas"),
            (json!({"scaling": {"targetQueueTimeMilliseconds": 0}}), "spec.scaling.targetQueueTimeMilliseconds"),
            (json!({"runtime": {"maxBatchSize": 0}}), "spec.runtime.maxBatchSize"),
            (
                json!({"runtime": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}),
                "spec.runtime.resources.limits[nvidia.com/gpu]",
            ),
            (
                json!({"runtime": {"podTemplate": {"spec": {"tolerationz": [{"key": "a"}]}}}}),
                "spec.runtime.podTemplate.spec.tolerationz",
            ),
            (
                json!({"runtime": {"podTemplate": {"spec": {"containers": [{"name": "server", "envv": 1}]}}}}),
                "spec.runtime.podTemplate.spec.containers[0].envv",
            ),
            (json!({"runtime": {"podTemplate": {"spec": {"containers": 3}}}}), "spec.runtime.podTemplate"),
            (json!({"placement": {"gpu": {"countPerReplica": 0}}}), "spec.placement.gpu.countPerReplica"),
            (json!({"runtime": {"instancesPerReplica": 0}}), "spec.runtime.instancesPerReplica"),
            (json!({"runtime": {"engine": "Triton"}}), "spec.runtime.image"),
            (json!({"runtime": {"engine": "Custom"}}), "spec.runtime.image"),
            (
                json!({"runtime": {"engine": "Triton", "image": "t:1"}, "model": {"preprocessing": {"preset": "Clip"}}}),
                "spec.model.preprocessing.preset",
            ),
            (json!({"runtime": {"cache": {"emptyDir": null}}}), "spec.runtime.cache"),
            (
                json!({"runtime": {"cache": {"emptyDir": {"maxMebibytes": 0}}}}),
                "spec.runtime.cache.emptyDir.maxMebibytes",
            ),
        ];
        for (spec, expected) in cases {
            match validate(&service(spec.clone()), &defaults()) {
                Err(Error::Field { field, .. }) => assert_eq!(field, expected, "{spec}"),
                other => panic!("{spec}: {other:?}"),
            }
        }
    }
}
