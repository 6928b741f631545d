//! The settings file: JSON, version 1, every field but `version` with a default, unknown fields refused.
//!
//! Flags and environment variables are laid over it before anything looks at it ([`crate::arguments`]); what can be set for
//! one model, and the order in which places are heard, is in [`layer`].

pub mod layer;
pub mod telemetry;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Deserialize;

use self::{
    layer::{Batching, Layer},
    telemetry::{AccessLog, Tracing},
};
pub use crate::image::options::{Preprocessing, Preset};

/// The most models that a server has.
pub const MAX_MODELS: usize = 1024;
/// In `loadModels`: all of the repository.
pub const ALL_MODELS: &str = "*";

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The version of this format; only 1 exists.
    pub version: u32,
    /// The one model to serve, where it is not a repository.
    pub model: Option<Model>,
    /// A folder of models to serve, in Triton's layout.
    pub model_repository: Option<PathBuf>,
    /// Whether clients may load and unload models.
    #[serde(default)]
    pub model_control_mode: ControlMode,
    /// The models of the repository to load at the start under explicit control; `*` is all.
    #[serde(default)]
    pub load_models: Vec<String>,
    /// What holds for one model of the repository, by name.
    #[serde(default)]
    pub models: BTreeMap<String, Layer>,
    /// What executes models.
    pub execution_provider: Option<ExecutionProvider>,
    /// How many batches of a model execute at the same time.
    pub instances: Option<usize>,
    /// Where engines that took minutes to build are kept.
    pub cache: Option<Cache>,
    /// How requests become batches.
    #[serde(default)]
    pub batching: Batching,
    /// What the command line and the environment say about every model; never in the file.
    #[serde(skip)]
    pub overrides: Layer,
    /// The inference port.
    #[serde(default)]
    pub http: Http,
    /// The gRPC port.
    #[serde(default)]
    pub grpc: Grpc,
    /// The metrics port.
    #[serde(default)]
    pub metrics: Metrics,
    /// Which requests are logged.
    #[serde(default)]
    pub access_log: AccessLog,
    /// Which requests are traced.
    #[serde(default)]
    pub tracing: Tracing,
    /// How the server stops.
    #[serde(default)]
    pub drain: Drain,
}

/// The model to serve.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// The name that clients put in the path.
    pub name: String,
    /// A folder that holds `VERSION/model.onnx` or `VERSION/timer.json`.
    pub path: PathBuf,
    /// What an image becomes.
    pub preprocessing: Option<Preprocessing>,
}

/// Who decides which models are loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum ControlMode {
    /// All models of the repository are loaded at the start, and nothing changes after it.
    #[default]
    None,
    /// Only the named ones are, and clients load and unload models.
    Explicit,
}

/// Which hardware executes the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum ExecutionProvider {
    /// The fastest at hand whose answers are right; the choice is logged and in the info metric.
    #[default]
    Auto,
    /// NVIDIA TensorRT, with CUDA for what it leaves; a failure to register it ends the start.
    TensorRt,
    /// NVIDIA CUDA; a failure to register it ends the start.
    Cuda,
    /// The CPU.
    Cpu,
}

/// Where TensorRT's engines and Auto's decisions are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cache {
    /// A folder that the server can write. Several servers may share it.
    pub path: PathBuf,
    /// Whether it outlives the server's pod. Where it does not, Auto leaves TensorRT out.
    #[serde(default = "yes", rename = "persistent")]
    pub is_persistent: bool,
    /// What may be kept; beyond it, what was used longest ago goes.
    #[serde(default = "eight_gibibytes")]
    pub max_mebibytes: u64,
}

fn yes() -> bool {
    true
}

fn eight_gibibytes() -> u64 {
    8192
}

/// The inference port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Http {
    /// TCP port; 0 takes any free one (for tests).
    pub port: u16,
    /// The most bytes in one request's body.
    pub max_body_bytes: usize,
    /// After about this age a connection is closed gracefully, so that its client meets new replicas.
    pub max_connection_age_seconds: u64,
}

/// The gRPC port; its bounds are those of HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Grpc {
    /// TCP port; 0 takes any free one (for tests).
    pub port: u16,
}

/// The metrics port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    /// TCP port; 0 takes any free one (for tests).
    pub port: u16,
    /// Whether the page has Triton's quantiles of the last minute.
    pub summaries: bool,
}

/// How the server stops.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Drain {
    /// How long after SIGTERM new requests are still served, while the endpoint leaves every load balancer.
    pub delay_seconds: u64,
    /// How long requests in flight may take after that.
    pub timeout_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: 1,
            model: None,
            model_repository: None,
            model_control_mode: ControlMode::default(),
            load_models: Vec::new(),
            models: BTreeMap::new(),
            execution_provider: None,
            instances: None,
            cache: None,
            batching: Batching::default(),
            overrides: Layer::default(),
            http: Http::default(),
            grpc: Grpc::default(),
            metrics: Metrics::default(),
            access_log: AccessLog::default(),
            tracing: Tracing::default(),
            drain: Drain::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { port: 8000, max_body_bytes: 64 << 20, max_connection_age_seconds: 20 }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self { port: 8001 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { port: 8002, summaries: false }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay_seconds: 5, timeout_seconds: 45 }
    }
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("the settings file {} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what this version of the server understands.
    #[error("the settings file {} is not understood: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A field has a value that can't work.
    #[error("the settings are wrong: {field} {problem}")]
    Invalid {
        /// The field, as a path from the top of the file.
        field: &'static str,
        /// What it should be.
        problem: String,
    },
}

impl Settings {
    /// Reads the file. It is checked when the command line has had its say.
    ///
    /// # Errors
    /// When the file can't be read or parsed.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path)
            .map_err(|source| SettingsError::Unreadable { path: path.to_path_buf(), source })?;
        serde_json::from_str(&text).map_err(|source| SettingsError::Malformed { path: path.to_path_buf(), source })
    }

    /// Checks what the types can't say.
    ///
    /// # Errors
    /// Names the first field that can't work.
    pub fn check(&self) -> Result<(), SettingsError> {
        require(self.version == 1, "version", || format!("must be 1, not {}", self.version))?;
        require(self.model.is_some() != self.model_repository.is_some(), "model", || {
            let have = if self.model.is_some() { "both are" } else { "neither is" };
            format!("or modelRepository must be set, and {have}")
        })?;
        for (field, name) in self
            .model
            .iter()
            .map(|model| ("model.name", &model.name))
            .chain(self.models.keys().map(|name| ("models", name)))
            .chain(self.load_models.iter().filter(|name| *name != ALL_MODELS).map(|name| ("loadModels", name)))
        {
            require(is_model_name(name), field, || {
                format!("must be 1 to 253 letters, digits, '-', '_' and '.', not {name:?}")
            })?;
        }
        require(self.models.len() <= MAX_MODELS && self.load_models.len() <= MAX_MODELS, "models", || {
            format!("must be at most {MAX_MODELS}")
        })?;
        require(self.model.is_none() || self.models.is_empty(), "models", || {
            "is for the models of modelRepository; with model, the fields are at the top".to_owned()
        })?;
        require(self.model_control_mode == ControlMode::Explicit || self.load_models.is_empty(), "loadModels", || {
            "is for modelControlMode Explicit; without it, all models are loaded".to_owned()
        })?;
        self.for_model("").check()?;
        for name in self.models.keys() {
            self.for_model(name).check()?;
        }
        if let Some(cache) = &self.cache {
            require(cache.path.is_absolute(), "cache.path", || {
                format!("must be an absolute path, not {:?}", cache.path.display())
            })?;
            between(cache.max_mebibytes, 1, 1 << 30, "cache.maxMebibytes")?;
        }
        between(self.http.max_body_bytes, 1, 1 << 31, "http.maxBodyBytes")?;
        between(self.http.max_connection_age_seconds, 1, 86_400, "http.maxConnectionAgeSeconds")?;
        self.access_log.check()?;
        self.tracing.check()?;
        between(self.drain.delay_seconds, 0, 3_600, "drain.delaySeconds")?;
        between(self.drain.timeout_seconds, 0, 3_600, "drain.timeoutSeconds")?;
        let ports = [("http.port", self.http.port), ("grpc.port", self.grpc.port), ("metrics.port", self.metrics.port)];
        for (index, (field, port)) in ports.into_iter().enumerate() {
            let same = ports[..index].iter().find(|(_, other)| port != 0 && *other == port);
            require(same.is_none(), field, || format!("must differ from {} ({port})", same.map_or("", |same| same.0)))?;
        }
        Ok(())
    }

    /// All that is said about a model outside its own `config.pbtxt`.
    pub fn for_model(&self, name: &str) -> Layer {
        let own = match &self.model {
            Some(model) => Layer { preprocessing: model.preprocessing, ..Layer::default() },
            None => self.models.get(name).cloned().unwrap_or_default(),
        };
        let file = Layer {
            preprocessing: None,
            execution_provider: self.execution_provider,
            instances: self.instances,
            batching: self.batching.clone(),
        };
        self.overrides.clone().over(own).over(file)
    }
}

/// Whether a name can be a model's: it is part of paths, of files and of requests.
pub fn is_model_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn require(holds: bool, field: &'static str, problem: impl FnOnce() -> String) -> Result<(), SettingsError> {
    if holds { Ok(()) } else { Err(SettingsError::Invalid { field, problem: problem() }) }
}

fn between<T: PartialOrd + Copy + std::fmt::Display>(
    value: T,
    low: T,
    high: T,
    field: &'static str,
) -> Result<(), SettingsError> {
    require(low <= value && value <= high, field, || format!("must be {low} to {high}, not {value}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        let settings: Settings = serde_json::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    #[test]
    fn the_smallest_file_gets_every_default() {
        let settings = parse(r#"{"version":1,"model":{"name":"clip","path":"/mnt/model"}}"#).unwrap();
        assert_eq!(settings.for_model("clip"), Layer::default());
        assert_eq!(settings.http, Http { port: 8000, max_body_bytes: 67_108_864, max_connection_age_seconds: 20 });
        assert_eq!(settings.drain, Drain { delay_seconds: 5, timeout_seconds: 45 });
        assert_eq!(settings.metrics.port, 8002);
        assert_eq!(settings.model_control_mode, ControlMode::None);
        assert_eq!(settings.cache, None);
    }

    #[test]
    fn a_full_file_is_read_as_written() {
        let settings = parse(
            r#"{"version":1,"model":{"name":"clip","path":"/mnt/model/model","preprocessing":{"preset":"Clip"}},
                "executionProvider":"Cpu","cache":{"path":"/cache","persistent":false},
                "batching":{"maxBatchSize":8,"maxQueueDelayMicroseconds":500,"maxQueueSize":64},
                "http":{"port":8080,"maxBodyBytes":1024,"maxConnectionAgeSeconds":5},
                "metrics":{"port":9002},"drain":{"delaySeconds":1,"timeoutSeconds":2}}"#,
        )
        .unwrap();
        assert_eq!(settings.http.port, 8080);
        let cache = settings.cache.as_ref().unwrap();
        assert_eq!((cache.path.to_str(), cache.is_persistent, cache.max_mebibytes), (Some("/cache"), false, 8192));
        let model = settings.for_model("clip").resolve().unwrap();
        assert_eq!(model.preprocessing.preset, Preset::Clip);
        assert_eq!(model.execution_provider, ExecutionProvider::Cpu);
        assert_eq!(model.max_queue_delay, Duration::from_micros(500));
        assert_eq!((model.max_batch_size, model.max_queue_size), (8, 64));
    }

    #[test]
    fn a_model_s_own_part_goes_before_the_whole_file_s() {
        let settings = parse(
            r#"{"version":1,"modelRepository":"/models","executionProvider":"Cpu","batching":{"maxBatchSize":4},
                "models":{"clip":{"preprocessing":{"preset":"Clip"},"batching":{"maxBatchSize":8}}}}"#,
        )
        .unwrap();
        let size = |name: &str| settings.for_model(name).resolve().unwrap().max_batch_size;
        assert_eq!((size("clip"), size("other")), (8, 4));
        let clip = settings.for_model("clip");
        assert_eq!(clip.execution_provider, Some(ExecutionProvider::Cpu));
        assert_eq!(clip.preprocessing.map(|how| how.preset), Some(Preset::Clip));
    }

    #[test]
    fn what_can_not_work_is_refused_with_the_field_s_name() {
        let model = r#""model":{"name":"m","path":"/m"}"#;
        for (text, part) in [
            (format!(r#"{{"version":2,{model}}}"#), "version must be 1"),
            (format!(r#"{{"version":1,{model},"surprise":1}}"#), "unknown field `surprise`"),
            (format!(r#"{{"version":1,{model},"cache":{{"path":"cache"}}}}"#), "cache.path must be an absolute path"),
            (format!(r#"{{"version":1,{model},"cache":{{}}}}"#), "missing field `path`"),
            (r#"{"version":1,"model":{"name":"a/b","path":"/m"}}"#.to_owned(), "model.name"),
            (
                format!(r#"{{"version":1,{model},"batching":{{"maxBatchSize":0}}}}"#),
                "batching.maxBatchSize must be 1 to 1024",
            ),
            (format!(r#"{{"version":1,{model},"http":{{"port":8002}}}}"#), "metrics.port must differ"),
            (format!(r#"{{"version":1,{model},"executionProvider":"Rocm"}}"#), "unknown variant `Rocm`"),
            (r#"{"version":1}"#.to_owned(), "model or modelRepository must be set, and neither is"),
            (format!(r#"{{"version":1,{model},"modelRepository":"/r"}}"#), "must be set, and both are"),
            (
                format!(r#"{{"version":1,{model},"models":{{"m":{{}}}}}}"#),
                "models is for the models of modelRepository",
            ),
            (
                r#"{"version":1,"modelRepository":"/r","loadModels":["a"]}"#.to_owned(),
                "loadModels is for modelControlMode",
            ),
            (
                r#"{"version":1,"modelRepository":"/r","models":{"..":{}}}"#.to_owned(),
                "models must be 1 to 253 letters",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }
}
