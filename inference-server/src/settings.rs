//! The settings file: JSON, version 1, every field but `version` and `model` with a default, unknown fields refused.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The version of this format; only 1 exists.
    pub version: u32,
    /// What to serve.
    pub model: Model,
    /// What executes it.
    #[serde(default)]
    pub execution_provider: ExecutionProvider,
    /// How requests become batches.
    #[serde(default)]
    pub batching: Batching,
    /// The inference port.
    #[serde(default)]
    pub http: Http,
    /// The metrics port.
    #[serde(default)]
    pub metrics: Metrics,
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
    #[serde(default)]
    pub preprocessing: Preprocessing,
}

/// What an image in a request becomes before the model sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preprocessing {
    /// The recipe.
    #[serde(default)]
    pub preset: Preset,
}

/// A named recipe from image to tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Preset {
    /// No images: tensors only.
    #[default]
    None,
    /// Bicubic resize of the short side to the model's size, centre crop, CLIP's mean and deviation.
    Clip,
    /// Bicubic resize of the short side to 256/224 of the model's size, centre crop, `ImageNet`'s mean and deviation.
    ImageNet,
}

/// Which hardware executes the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum ExecutionProvider {
    /// CUDA where the library and a GPU can do it, else the CPU; the choice is logged and in the info metric.
    #[default]
    Auto,
    /// NVIDIA TensorRT, with CUDA for what it leaves; a failure to register it ends the start.
    TensorRt,
    /// NVIDIA CUDA; a failure to register it ends the start.
    Cuda,
    /// The CPU.
    Cpu,
}

/// How requests become batches.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Batching {
    /// The most images in one execution.
    pub max_batch_size: usize,
    /// How long an idle device waits for more, counted from the oldest request's arrival in the queue.
    pub max_queue_delay_microseconds: u64,
    /// The most requests that may wait.
    pub max_queue_size: usize,
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

/// The metrics port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    /// TCP port; 0 takes any free one (for tests).
    pub port: u16,
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

impl Default for Batching {
    fn default() -> Self {
        Self { max_batch_size: 32, max_queue_delay_microseconds: 0, max_queue_size: 1024 }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { port: 8000, max_body_bytes: 64 << 20, max_connection_age_seconds: 20 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { port: 8002 }
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
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When the file can't be read, parsed or used.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path)
            .map_err(|source| SettingsError::Unreadable { path: path.to_path_buf(), source })?;
        let settings: Self = serde_json::from_str(&text)
            .map_err(|source| SettingsError::Malformed { path: path.to_path_buf(), source })?;
        settings.check()?;
        Ok(settings)
    }

    /// Checks what the types can't say.
    ///
    /// # Errors
    /// Names the first field that can't work.
    pub fn check(&self) -> Result<(), SettingsError> {
        let name_is_usable = |name: &str| {
            !name.is_empty()
                && name.len() <= 253
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        require(self.version == 1, "version", || format!("must be 1, not {}", self.version))?;
        require(name_is_usable(&self.model.name), "model.name", || {
            format!("must be 1 to 253 letters, digits, '-', '_' and '.', not {:?}", self.model.name)
        })?;
        between(self.batching.max_batch_size, 1, 1024, "batching.maxBatchSize")?;
        between(self.batching.max_queue_size, 1, 1 << 16, "batching.maxQueueSize")?;
        between(self.batching.max_queue_delay_microseconds, 0, 60_000_000, "batching.maxQueueDelayMicroseconds")?;
        between(self.http.max_body_bytes, 1, 1 << 31, "http.maxBodyBytes")?;
        between(self.http.max_connection_age_seconds, 1, 86_400, "http.maxConnectionAgeSeconds")?;
        between(self.drain.delay_seconds, 0, 3_600, "drain.delaySeconds")?;
        between(self.drain.timeout_seconds, 0, 3_600, "drain.timeoutSeconds")?;
        require(self.http.port == 0 || self.http.port != self.metrics.port, "metrics.port", || {
            format!("must differ from http.port ({})", self.http.port)
        })
    }

    /// The batching delay as a duration.
    pub fn max_queue_delay(&self) -> Duration {
        Duration::from_micros(self.batching.max_queue_delay_microseconds)
    }
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
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        let settings: Settings = serde_json::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    #[test]
    fn the_smallest_file_gets_every_default() {
        let settings = parse(r#"{"version":1,"model":{"name":"clip","path":"/mnt/model"}}"#).unwrap();
        assert_eq!(
            settings.batching,
            Batching { max_batch_size: 32, max_queue_delay_microseconds: 0, max_queue_size: 1024 }
        );
        assert_eq!(settings.http, Http { port: 8000, max_body_bytes: 67_108_864, max_connection_age_seconds: 20 });
        assert_eq!(settings.drain, Drain { delay_seconds: 5, timeout_seconds: 45 });
        assert_eq!(settings.metrics.port, 8002);
        assert_eq!(settings.execution_provider, ExecutionProvider::Auto);
        assert_eq!(settings.model.preprocessing.preset, Preset::None);
    }

    #[test]
    fn a_full_file_is_read_as_written() {
        let settings = parse(
            r#"{"version":1,"model":{"name":"clip","path":"/mnt/model/model","preprocessing":{"preset":"Clip"}},
                "executionProvider":"Cpu",
                "batching":{"maxBatchSize":8,"maxQueueDelayMicroseconds":500,"maxQueueSize":64},
                "http":{"port":8080,"maxBodyBytes":1024,"maxConnectionAgeSeconds":5},
                "metrics":{"port":9002},"drain":{"delaySeconds":1,"timeoutSeconds":2}}"#,
        )
        .unwrap();
        assert_eq!(settings.model.preprocessing.preset, Preset::Clip);
        assert_eq!(settings.execution_provider, ExecutionProvider::Cpu);
        assert_eq!(settings.max_queue_delay(), Duration::from_micros(500));
        assert_eq!(settings.http.port, 8080);
    }

    #[test]
    fn what_can_not_work_is_refused_with_the_field_s_name() {
        let model = r#""model":{"name":"m","path":"/m"}"#;
        for (text, part) in [
            (format!(r#"{{"version":2,{model}}}"#), "version must be 1"),
            (format!(r#"{{"version":1,{model},"surprise":1}}"#), "unknown field `surprise`"),
            (r#"{"version":1,"model":{"name":"a/b","path":"/m"}}"#.to_owned(), "model.name"),
            (
                format!(r#"{{"version":1,{model},"batching":{{"maxBatchSize":0}}}}"#),
                "batching.maxBatchSize must be 1 to 1024",
            ),
            (format!(r#"{{"version":1,{model},"http":{{"port":8002}}}}"#), "metrics.port must differ"),
            (format!(r#"{{"version":1,{model},"executionProvider":"Rocm"}}"#), "unknown variant `Rocm`"),
            (r#"{"version":1}"#.to_owned(), "missing field `model`"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }
}
