//! What a configuration asks for: what this server does of it, what it leaves out, and what it refuses.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, Value};

use super::{ConfigError, ModelConfig, text};
use crate::{
    model::VersionPolicy,
    settings::{
        ExecutionProvider, Preprocessing,
        layer::{Batching, Layer},
    },
    wire::inference::{
        ModelDynamicBatching, ModelInstanceGroup, ModelParameter, ModelWarmup, model_config::SchedulingChoice,
        model_instance_group::Kind, model_queue_policy::TimeoutAction, model_version_policy::PolicyChoice,
    },
};

/// The parameter that says what an image becomes: a preset's name, or the JSON of the settings' `preprocessing`.
pub const PREPROCESSING: &str = "preprocessing";

/// What a configuration asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wish {
    /// What the settings know too.
    pub layer: Layer,
    /// Which versions are served.
    pub versions: VersionPolicy,
    /// The model's file in a version's folder.
    pub file_name: Option<String>,
    /// Accelerators of the GPU with their parameters, in their order.
    pub accelerators: Vec<(String, BTreeMap<String, String>)>,
    /// Requests that run before the model is ready.
    pub samples: Vec<ModelWarmup>,
    /// Labels of the model's metrics.
    pub tags: BTreeMap<String, String>,
    /// Fields without an effect here, each once.
    pub ignored: Vec<String>,
}

/// Fields that have their effect, with all below them.
const DONE: [&str; 23] = [
    "name",
    "platform",
    "backend",
    "version_policy",
    "max_batch_size",
    "input.name",
    "input.data_type",
    "input.format",
    "input.dims",
    "input.reshape",
    "output.name",
    "output.data_type",
    "output.dims",
    "output.reshape",
    "instance_group.name",
    "instance_group.kind",
    "instance_group.count",
    "instance_group.gpus",
    "optimization.execution_accelerators.gpu_execution_accelerator",
    "default_model_filename",
    "metric_tags",
    "parameters",
    "model_warmup",
];

/// Fields of the dynamic batcher that have their effect.
const DONE_BATCHING: [&str; 6] = [
    "dynamic_batching.max_queue_delay_microseconds",
    "dynamic_batching.priority_levels",
    "dynamic_batching.default_priority_level",
    "dynamic_batching.default_queue_policy.timeout_action",
    "dynamic_batching.default_queue_policy.default_timeout_microseconds",
    "dynamic_batching.default_queue_policy.max_queue_size",
];

/// Fields whose absence would give wrong answers, and why.
const REFUSED: [(&str, &str); 13] = [
    ("sequence_batching", "requests are answered each for itself, without a state that lasts"),
    ("ensemble_scheduling", "models are not run one after the other; let the client call each"),
    ("batch_input", "inputs come from requests only"),
    ("batch_output", "an output's first dimension is the batch"),
    ("input.is_shape_tensor", "shapes come with the tensors"),
    ("input.allow_ragged_batch", "the requests of a batch have the same shape"),
    ("input.optional", "a request has every input"),
    ("input.is_non_linear_format_io", "tensors are in row-major order"),
    ("output.is_shape_tensor", "shapes come with the tensors"),
    ("instance_group.passive", "every instance answers"),
    ("instance_group.secondary_devices", "an instance runs on one device"),
    ("model_operations", "operators of one's own are not loaded"),
    ("model_repository_agents", "nothing looks at the files before they are loaded"),
];

impl Wish {
    /// Reads what a configuration asks for.
    ///
    /// # Errors
    /// Names the first field that can't be had.
    pub fn read(config: &ModelConfig) -> Result<Self, ConfigError> {
        let mut ignored = Vec::new();
        walk(&text::dynamic(config)?, "", &mut ignored)?;
        if config.model_transaction_policy.is_some_and(|policy| policy.decoupled) {
            return Err(ConfigError::Unsupported {
                field: "model_transaction_policy.decoupled".to_owned(),
                problem: "a request has exactly one answer",
            });
        }
        ignored.retain(|field| field != "model_transaction_policy");
        check_backend(config)?;
        let (preprocessing, others) = parameters(&config.parameters)?;
        ignored.extend(others);
        let accelerators = accelerators(config);
        let (instances, execution_provider) = instances(&config.instance_group, &accelerators)?;
        let mut batching = match &config.scheduling_choice {
            Some(SchedulingChoice::DynamicBatching(dynamic)) => batching(dynamic)?,
            _ => Batching::default(),
        };
        batching.max_batch_size = match usize::try_from(config.max_batch_size) {
            Ok(0) => None,
            Ok(size) if size <= 1024 => Some(size),
            _ => {
                return Err(ConfigError::invalid(
                    "max_batch_size",
                    format!("must be 0 to 1024, not {}", config.max_batch_size),
                ));
            }
        };
        Ok(Self {
            layer: Layer { preprocessing, execution_provider, instances, batching },
            versions: versions(config)?,
            file_name: file_name(&config.default_model_filename)?,
            accelerators,
            samples: config.model_warmup.clone(),
            tags: config.metric_tags.clone(),
            ignored,
        })
    }
}

/// Sorts every field that is set into done, refused and ignored.
fn walk(message: &DynamicMessage, parent: &str, ignored: &mut Vec<String>) -> Result<(), ConfigError> {
    for (field, value) in message.fields() {
        let path = if parent.is_empty() { field.name().to_owned() } else { format!("{parent}.{}", field.name()) };
        if let Some((_, problem)) = REFUSED.iter().find(|(refused, _)| *refused == path) {
            return Err(ConfigError::Unsupported { field: path, problem });
        }
        if DONE.iter().chain(&DONE_BATCHING).any(|done| *done == path) {
            continue;
        }
        match value {
            Value::Message(below) => walk(below, &path, ignored)?,
            Value::List(items) if items.iter().all(|item| matches!(item, Value::Message(_))) => {
                for item in items.iter().filter_map(Value::as_message) {
                    walk(item, &path, ignored)?;
                }
            }
            _ if ignored.contains(&path) => {}
            _ => ignored.push(path),
        }
    }
    Ok(())
}

fn check_backend(config: &ModelConfig) -> Result<(), ConfigError> {
    for (field, value, known) in [
        ("backend", &config.backend, ["onnxruntime", "flotilla_timer"]),
        ("platform", &config.platform, ["onnxruntime_onnx", "flotilla_timer"]),
    ] {
        if !value.is_empty() && !known.contains(&value.as_str()) {
            return Err(ConfigError::invalid(field, format!("must be '{}', not '{value}'", known[0])));
        }
    }
    Ok(())
}

fn versions(config: &ModelConfig) -> Result<VersionPolicy, ConfigError> {
    let Some(choice) = config.version_policy.as_ref().and_then(|policy| policy.policy_choice.as_ref()) else {
        return Ok(VersionPolicy::default());
    };
    match choice {
        PolicyChoice::Latest(latest) => {
            Ok(VersionPolicy::Latest(usize::try_from(latest.num_versions).unwrap_or(usize::MAX).max(1)))
        }
        PolicyChoice::All(_) => Ok(VersionPolicy::All),
        PolicyChoice::Specific(specific) => specific
            .versions
            .iter()
            .map(|version| u64::try_from(*version).ok())
            .collect::<Option<Vec<u64>>>()
            .filter(|versions| !versions.is_empty())
            .map(VersionPolicy::Specific)
            .ok_or_else(|| ConfigError::invalid("version_policy.specific.versions", "must be numbers from 0 on")),
    }
}

fn file_name(name: &str) -> Result<Option<String>, ConfigError> {
    if name.is_empty() {
        return Ok(None);
    }
    if name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        let problem = format!("must be the name of a file in the version's folder, not '{name}'");
        return Err(ConfigError::invalid("default_model_filename", problem));
    }
    Ok(Some(name.to_owned()))
}

/// The parameter that is ours, and the names of those that nothing here reads.
fn parameters(
    parameters: &BTreeMap<String, ModelParameter>,
) -> Result<(Option<Preprocessing>, Vec<String>), ConfigError> {
    let mut preprocessing = None;
    let mut others = Vec::new();
    for (key, parameter) in parameters {
        if key != PREPROCESSING {
            others.push(format!("parameters[\"{key}\"]"));
            continue;
        }
        let text = parameter.string_value.trim();
        let parsed = if text.starts_with('{') {
            serde_json::from_str(text)
        } else {
            serde_json::from_value(serde_json::json!({"preset": text}))
        };
        let invalid = |error: serde_json::Error| {
            let problem = format!("must be a preset's name, or the JSON of the settings' preprocessing: {error}");
            ConfigError::invalid("parameters[\"preprocessing\"]", problem)
        };
        preprocessing = Some(parsed.map_err(invalid)?);
    }
    Ok((preprocessing, others))
}

fn accelerators(config: &ModelConfig) -> Vec<(String, BTreeMap<String, String>)> {
    config
        .optimization
        .iter()
        .filter_map(|optimization| optimization.execution_accelerators.as_ref())
        .flat_map(|accelerators| &accelerators.gpu_execution_accelerator)
        .map(|accelerator| (accelerator.name.clone(), accelerator.parameters.clone()))
        .collect()
}

/// How many instances, and on what.
fn instances(
    groups: &[ModelInstanceGroup],
    accelerators: &[(String, BTreeMap<String, String>)],
) -> Result<(Option<usize>, Option<ExecutionProvider>), ConfigError> {
    let Some(first) = groups.first() else { return Ok((None, None)) };
    let mut sum = 0_i64;
    for (index, group) in groups.iter().enumerate() {
        if group.kind != first.kind {
            let field = format!("instance_group[{index}].kind");
            return Err(ConfigError::invalid(field, "must be the same in all groups"));
        }
        if group.gpus.iter().any(|gpu| *gpu != 0) {
            let problem = format!("must be [ 0 ], the server's one GPU, not {:?}", group.gpus);
            return Err(ConfigError::invalid(format!("instance_group[{index}].gpus"), problem));
        }
        if group.count < 0 {
            return Err(ConfigError::invalid(format!("instance_group[{index}].count"), "must be at least 1"));
        }
        sum += i64::from(group.count.max(1));
    }
    let count = usize::try_from(sum).ok().filter(|count| *count <= 64).ok_or_else(|| {
        ConfigError::invalid("instance_group", format!("must have 1 to 64 instances in all, not {sum}"))
    })?;
    let is_tensor_rt = accelerators.iter().any(|(name, _)| name == "tensorrt");
    let provider = match Kind::try_from(first.kind) {
        Ok(Kind::Cpu) => Some(ExecutionProvider::Cpu),
        Ok(Kind::Gpu) if is_tensor_rt => Some(ExecutionProvider::TensorRt),
        Ok(Kind::Gpu) => Some(ExecutionProvider::Cuda),
        // Both leave the choice to the server.
        Ok(Kind::Auto | Kind::Model) => None,
        Err(_) => return Err(ConfigError::invalid("instance_group[0].kind", "must be a kind that there is")),
    };
    Ok((Some(count), provider))
}

fn batching(dynamic: &ModelDynamicBatching) -> Result<Batching, ConfigError> {
    let mut batching = Batching {
        max_queue_delay_microseconds: Some(limited(
            dynamic.max_queue_delay_microseconds,
            60_000_000,
            "dynamic_batching.max_queue_delay_microseconds",
        )?),
        ..Batching::default()
    };
    if dynamic.priority_levels > 0 {
        let levels = limited(dynamic.priority_levels, 1 << 16, "dynamic_batching.priority_levels")?;
        let default = dynamic.default_priority_level;
        if !(1..=levels).contains(&default) {
            let problem = format!("must be 1 to priority_levels ({levels}), not {default}");
            return Err(ConfigError::invalid("dynamic_batching.default_priority_level", problem));
        }
        batching.priority_levels = Some(levels);
        batching.default_priority = Some(default);
    }
    let Some(policy) = &dynamic.default_queue_policy else { return Ok(batching) };
    if policy.timeout_action() == TimeoutAction::Delay {
        return Err(ConfigError::Unsupported {
            field: "dynamic_batching.default_queue_policy.timeout_action".to_owned(),
            problem: "a request that waited too long is answered with an error at its time (REJECT), never later",
        });
    }
    if policy.max_queue_size > 0 {
        let field = "dynamic_batching.default_queue_policy.max_queue_size";
        let size = limited(policy.max_queue_size, 1 << 16, field)?;
        batching.max_queue_size = usize::try_from(size).ok();
    }
    if policy.default_timeout_microseconds > 0 {
        let field = "dynamic_batching.default_queue_policy.default_timeout_microseconds";
        let timeout = limited(policy.default_timeout_microseconds, 86_400_000_000, field)?;
        batching.default_timeout_milliseconds = Some(timeout.div_ceil(1000));
    }
    Ok(batching)
}

fn limited<T: PartialOrd + Copy + std::fmt::Display>(value: T, most: T, field: &str) -> Result<T, ConfigError> {
    if value <= most {
        Ok(value)
    } else {
        Err(ConfigError::invalid(field, format!("must be at most {most}, not {value}")))
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::ReflectMessage as _;

    use super::*;
    use crate::settings::Preset;

    fn wish(text: &str) -> Result<Wish, String> {
        Wish::read(&text::parse(text).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_done_is_in_the_settings_layer() {
        let wish = wish(
            r#"name: "clip" platform: "onnxruntime_onnx" max_batch_size: 16 default_model_filename: "tower.onnx"
            version_policy { specific { versions: [ 1, 3 ] } }
            dynamic_batching {
              max_queue_delay_microseconds: 500 priority_levels: 3 default_priority_level: 2
              default_queue_policy { default_timeout_microseconds: 1500 max_queue_size: 64 }
            }
            instance_group [ { kind: KIND_GPU count: 2 gpus: [ 0 ] }, { kind: KIND_GPU } ]
            optimization { execution_accelerators { gpu_execution_accelerator {
              name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } } } }
            parameters { key: "preprocessing" value { string_value: "Clip" } }
            metric_tags { key: "team" value: "photos" }"#,
        )
        .unwrap();
        assert_eq!(wish.layer.batching.max_batch_size, Some(16));
        assert_eq!(wish.layer.batching.max_queue_delay_microseconds, Some(500));
        assert_eq!((wish.layer.batching.priority_levels, wish.layer.batching.default_priority), (Some(3), Some(2)));
        assert_eq!(wish.layer.batching.default_timeout_milliseconds, Some(2));
        assert_eq!(wish.layer.batching.max_queue_size, Some(64));
        assert_eq!(wish.layer.instances, Some(3));
        assert_eq!(wish.layer.execution_provider, Some(ExecutionProvider::TensorRt));
        assert_eq!(wish.layer.preprocessing.map(|how| how.preset), Some(Preset::Clip));
        assert_eq!(wish.versions, VersionPolicy::Specific(vec![1, 3]));
        assert_eq!(wish.file_name.as_deref(), Some("tower.onnx"));
        assert_eq!(wish.accelerators[0].1["precision_mode"], "FP16");
        assert_eq!(wish.tags["team"], "photos");
        assert_eq!(wish.ignored, Vec::<String>::new());
    }

    #[test]
    fn silence_asks_for_nothing() {
        assert_eq!(wish("").unwrap(), Wish::default());
        assert_eq!(wish("dynamic_batching {}").unwrap().layer.batching.max_queue_size, None);
    }

    #[test]
    fn who_executes_follows_from_kind_and_accelerators() {
        let tensor_rt = r#"optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }"#;
        for (text, provider) in [
            ("instance_group { kind: KIND_CPU }".to_owned(), Some(ExecutionProvider::Cpu)),
            ("instance_group { kind: KIND_GPU }".to_owned(), Some(ExecutionProvider::Cuda)),
            (format!("instance_group {{ kind: KIND_GPU }} {tensor_rt}"), Some(ExecutionProvider::TensorRt)),
            (format!("instance_group {{ kind: KIND_AUTO }} {tensor_rt}"), None),
            (tensor_rt.to_owned(), None),
        ] {
            assert_eq!(wish(&text).unwrap().layer.execution_provider, provider, "{text}");
        }
    }

    #[test]
    fn what_has_no_effect_is_named_once() {
        for (text, expected) in [
            ("dynamic_batching { preserve_ordering: true }", &["dynamic_batching.preserve_ordering"][..]),
            (
                r#"instance_group [ { host_policy: "a" }, { host_policy: "b" profile: "0" } ]"#,
                &["instance_group.host_policy", "instance_group.profile"],
            ),
            (
                "optimization { cuda { graphs: true } graph { level: 1 } }",
                &["optimization.graph.level", "optimization.cuda.graphs"],
            ),
            ("response_cache { enable: true }", &["response_cache.enable"]),
            (r#"parameters { key: "intra_op_thread_count" value {} }"#, &["parameters[\"intra_op_thread_count\"]"]),
            (r#"output { name: "y" label_filename: "l.txt" }"#, &["output.label_filename"]),
            ("model_transaction_policy { decoupled: false }", &[]),
            (
                "dynamic_batching { priority_queue_policy { key: 1 value { max_queue_size: 2 } } }",
                &["dynamic_batching.priority_queue_policy"],
            ),
        ] {
            assert_eq!(wish(text).unwrap().ignored, expected, "{text}");
        }
    }

    #[test]
    fn what_would_be_wrong_is_refused_with_the_field_s_name() {
        for (text, part) in [
            ("sequence_batching {}", "sequence_batching is not supported: requests are answered each for itself"),
            ("ensemble_scheduling {}", "ensemble_scheduling is not supported"),
            ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled is not supported"),
            ("batch_input { kind: BATCH_ELEMENT_COUNT }", "batch_input is not supported"),
            ("input { name: \"x\" optional: true }", "input.optional is not supported"),
            ("instance_group { passive: true }", "instance_group.passive is not supported"),
            ("model_operations { op_library_filename: \"a.so\" }", "model_operations is not supported"),
            ("dynamic_batching { default_queue_policy { timeout_action: DELAY } }", "timeout_action is not supported"),
            ("backend: \"python\"", "backend must be 'onnxruntime', not 'python'"),
            ("platform: \"tensorrt_plan\"", "platform must be 'onnxruntime_onnx'"),
            ("max_batch_size: -1", "max_batch_size must be 0 to 1024, not -1"),
            (
                "dynamic_batching { priority_levels: 2 }",
                "default_priority_level must be 1 to priority_levels (2), not 0",
            ),
            ("dynamic_batching { max_queue_delay_microseconds: 60000001 }", "must be at most 60000000"),
            ("instance_group { count: -2 }", "instance_group[0].count must be at least 1"),
            ("instance_group { count: 65 }", "instance_group must have 1 to 64 instances in all, not 65"),
            ("instance_group { gpus: [ 1 ] }", "instance_group[0].gpus must be [ 0 ]"),
            ("instance_group [ { kind: KIND_GPU }, { kind: KIND_CPU } ]", "instance_group[1].kind must be the same"),
            ("default_model_filename: \"../x\"", "default_model_filename must be the name of a file"),
            ("version_policy { specific {} }", "version_policy.specific.versions must be numbers"),
            (
                r#"parameters { key: "preprocessing" value { string_value: "Klip" } }"#,
                "parameters[\"preprocessing\"] must be",
            ),
        ] {
            let error = wish(text).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }

    #[test]
    fn the_tables_name_fields_that_exist() {
        let descriptor = text::dynamic(&ModelConfig::default()).unwrap().descriptor();
        let tables = DONE.iter().chain(&DONE_BATCHING).copied().chain(REFUSED.map(|(field, _)| field));
        for path in tables {
            let mut message = Some(descriptor.clone());
            for name in path.split('.') {
                let field =
                    message.and_then(|message| message.get_field_by_name(name)).unwrap_or_else(|| panic!("{path}"));
                message = field.kind().as_message().cloned();
            }
        }
    }
}
