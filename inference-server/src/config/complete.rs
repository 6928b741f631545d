//! The configuration that clients are shown: what the model's own says, with everything filled in that holds for it.

use super::{ModelConfig, fit::config_type, wish::PREPROCESSING};
use crate::{
    model::{Signature, TensorSpec, VersionPolicy},
    settings::{Preset, layer::ModelSettings},
    wire::inference::{
        ModelDynamicBatching, ModelInput, ModelInstanceGroup, ModelOutput, ModelParameter, ModelQueuePolicy,
        ModelResponseCache, ModelTransactionPolicy, ModelVersionPolicy,
        model_config::SchedulingChoice,
        model_instance_group::Kind,
        model_version_policy::{All, Latest, PolicyChoice, Specific},
    },
};

/// What holds for a model.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a str,
    /// The file that was loaded.
    pub file_name: &'a str,
    /// What it takes and gives.
    pub signature: &'a Signature,
    /// How it is run.
    pub settings: &'a ModelSettings,
    /// Which versions are served.
    pub versions: &'a VersionPolicy,
    /// What executes it.
    pub provider: &'a str,
    /// Why that one, where the server chose it.
    pub provider_reason: Option<&'a str>,
}

/// Fills a configuration in. What the model's own says and nothing here changes, stays.
pub fn complete(own: &ModelConfig, facts: &Facts<'_>) -> ModelConfig {
    let Facts { signature, settings, .. } = facts;
    let is_batched = signature.is_batched();
    let mut config = own.clone();
    facts.name.clone_into(&mut config.name);
    signature.platform.clone_into(&mut config.platform);
    signature.platform.trim_end_matches("_onnx").clone_into(&mut config.backend);
    facts.file_name.clone_into(&mut config.default_model_filename);
    config.max_batch_size = if is_batched { i32::try_from(settings.max_batch_size).unwrap_or(i32::MAX) } else { 0 };
    config.version_policy = Some(ModelVersionPolicy { policy_choice: Some(versions(facts.versions)) });
    let skipped = usize::from(is_batched);
    config.input = signature.inputs.iter().map(|spec| input(own, spec, skipped)).collect();
    config.output = signature.outputs.iter().map(|spec| output(own, spec, skipped)).collect();
    config.scheduling_choice = is_batched.then(|| SchedulingChoice::DynamicBatching(batching(own, settings)));
    let kind = match facts.provider {
        "Cuda" | "TensorRt" => Kind::Gpu,
        _ => Kind::Cpu,
    };
    config.instance_group = vec![ModelInstanceGroup {
        name: own.instance_group.first().map_or_else(|| format!("{}_0", facts.name), |group| group.name.clone()),
        kind: kind.into(),
        count: i32::try_from(settings.instances).unwrap_or(i32::MAX),
        gpus: if kind == Kind::Gpu { vec![0] } else { Vec::new() },
        ..ModelInstanceGroup::default()
    }];
    let mut parameter = |key: &str, value: &str| {
        config.parameters.insert(key.to_owned(), ModelParameter { string_value: value.to_owned() });
    };
    parameter("execution_provider", facts.provider);
    if let Some(reason) = facts.provider_reason {
        parameter("execution_provider_reason", reason);
    }
    match settings.preprocessing.preset {
        Preset::None => {}
        preset if !own.parameters.contains_key(PREPROCESSING) => parameter(PREPROCESSING, &format!("{preset:?}")),
        _ => {}
    }
    // Clients ask for both, and read "no" from them.
    config.model_transaction_policy = Some(ModelTransactionPolicy { decoupled: false });
    config.response_cache = Some(ModelResponseCache { enable: false });
    config
}

fn versions(policy: &VersionPolicy) -> PolicyChoice {
    match policy {
        VersionPolicy::Latest(count) => {
            PolicyChoice::Latest(Latest { num_versions: u32::try_from(*count).unwrap_or(u32::MAX) })
        }
        VersionPolicy::All => PolicyChoice::All(All {}),
        VersionPolicy::Specific(versions) => PolicyChoice::Specific(Specific {
            versions: versions.iter().map(|version| i64::try_from(*version).unwrap_or(i64::MAX)).collect(),
        }),
    }
}

fn input(own: &ModelConfig, spec: &TensorSpec, skipped: usize) -> ModelInput {
    ModelInput {
        name: spec.name.clone(),
        data_type: config_type(spec.data_type).into(),
        dims: spec.wire_shape().split_off(skipped.min(spec.dims.len())),
        ..own.input.iter().find(|input| input.name == spec.name).cloned().unwrap_or_default()
    }
}

fn output(own: &ModelConfig, spec: &TensorSpec, skipped: usize) -> ModelOutput {
    ModelOutput {
        name: spec.name.clone(),
        data_type: config_type(spec.data_type).into(),
        dims: spec.wire_shape().split_off(skipped.min(spec.dims.len())),
        ..own.output.iter().find(|output| output.name == spec.name).cloned().unwrap_or_default()
    }
}

fn batching(own: &ModelConfig, settings: &ModelSettings) -> ModelDynamicBatching {
    let own = match &own.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(own)) => own.clone(),
        _ => ModelDynamicBatching::default(),
    };
    // One level is what Triton calls none.
    let has_priorities = settings.priority_levels > 1;
    ModelDynamicBatching {
        max_queue_delay_microseconds: u64::try_from(settings.max_queue_delay.as_micros()).unwrap_or(u64::MAX),
        priority_levels: if has_priorities { settings.priority_levels } else { 0 },
        default_priority_level: if has_priorities { settings.default_priority } else { 0 },
        default_queue_policy: Some(ModelQueuePolicy {
            default_timeout_microseconds: u64::try_from(settings.default_timeout.as_micros()).unwrap_or(u64::MAX),
            allow_timeout_override: true,
            max_queue_size: u32::try_from(settings.max_queue_size).unwrap_or(u32::MAX),
            ..ModelQueuePolicy::default()
        }),
        ..own
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{config::text, settings::layer::Layer, tensor::DataType};

    fn shown(own: &str, is_batched: bool) -> serde_json::Value {
        let first = if is_batched { None } else { Some(1) };
        let spec = |name: &str, dims: &[Option<usize>]| TensorSpec {
            name: name.to_owned(),
            data_type: DataType::Fp32,
            dims: std::iter::once(first).chain(dims.iter().copied()).collect(),
        };
        let signature = Signature {
            inputs: vec![spec("x", &[Some(3), None])],
            outputs: vec![spec("y", &[Some(16)])],
            platform: "onnxruntime_onnx",
        };
        let settings = Layer::default().resolve().unwrap();
        let facts = Facts {
            name: "clip",
            file_name: "model.onnx",
            signature: &signature,
            settings: &settings,
            versions: &VersionPolicy::Latest(1),
            provider: "Cpu",
            provider_reason: Some("it is the only one"),
        };
        text::to_json(&complete(&text::parse(own).unwrap(), &facts)).unwrap()
    }

    #[test]
    fn a_model_without_a_configuration_gets_a_whole_one() {
        let config = shown("", true);
        assert_eq!(config["name"], "clip");
        assert_eq!((&config["platform"], &config["backend"]), (&json!("onnxruntime_onnx"), &json!("onnxruntime")));
        assert_eq!(config["max_batch_size"], 32);
        assert_eq!(config["version_policy"], json!({"latest": {"num_versions": 1}}));
        assert_eq!(config["input"][0]["dims"], json!([3, -1]));
        assert_eq!(config["input"][0]["optional"], json!(false));
        assert_eq!(config["output"][0]["data_type"], "TYPE_FP32");
        assert_eq!(config["dynamic_batching"]["max_queue_delay_microseconds"], json!(0));
        assert_eq!(config["dynamic_batching"]["default_queue_policy"]["max_queue_size"], json!(1024));
        assert_eq!(config["instance_group"][0]["kind"], "KIND_CPU");
        assert_eq!(config["parameters"]["execution_provider"]["string_value"], "Cpu");
        assert_eq!(config["parameters"]["execution_provider_reason"]["string_value"], "it is the only one");
        assert_eq!(config["model_transaction_policy"]["decoupled"], json!(false));
    }

    #[test]
    fn what_a_configuration_says_stays() {
        let config = shown(
            r#"input { name: "x" format: FORMAT_NONE } output { name: "y" label_filename: "l.txt" }
            parameters { key: "a" value { string_value: "b" } } instance_group { name: "mine" }
            dynamic_batching { preferred_batch_size: [ 4 ] } metric_tags { key: "t" value: "v" }"#,
            true,
        );
        assert_eq!(config["output"][0]["label_filename"], "l.txt");
        assert_eq!(config["parameters"]["a"]["string_value"], "b");
        assert_eq!(config["instance_group"][0]["name"], "mine");
        assert_eq!(config["dynamic_batching"]["preferred_batch_size"], json!([4]));
        assert_eq!(config["metric_tags"]["t"], "v");
    }

    #[test]
    fn a_model_without_a_batch_shows_all_its_dimensions() {
        let config = shown("", false);
        assert_eq!(config["max_batch_size"], 0);
        assert_eq!(config["input"][0]["dims"], json!([1, 3, -1]));
        assert_eq!(config.get("dynamic_batching"), None);
    }
}
