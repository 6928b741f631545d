//! What can be set for a model in more than one place, and which place wins.
//!
//! Every place is one [`Layer`] with most fields empty. They are laid over each other in one order, the same for every field:
//! flag, environment, the settings file's part for the model, the settings file, the model's `config.pbtxt`, the default.

use std::time::Duration;

use serde::Deserialize;

use super::{ExecutionProvider, Preprocessing, SettingsError, between, require};

/// The most instances of a model.
const MAX_INSTANCES: usize = 64;
/// A day: longer than anybody waits.
const MAX_TIMEOUT_MILLISECONDS: u64 = 86_400_000;

/// What one place says about a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Layer {
    /// What an image becomes.
    pub preprocessing: Option<Preprocessing>,
    /// What executes it.
    pub execution_provider: Option<ExecutionProvider>,
    /// How many batches execute at the same time.
    pub instances: Option<usize>,
    /// How requests become batches.
    pub batching: Batching,
}

/// How requests become batches, as far as one place says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Batching {
    /// The most images in one execution.
    pub max_batch_size: Option<usize>,
    /// How long an idle device waits for more, counted from the oldest request's arrival in the queue.
    pub max_queue_delay_microseconds: Option<u64>,
    /// The most requests that may wait.
    pub max_queue_size: Option<usize>,
    /// How many priorities requests may have.
    pub priority_levels: Option<u64>,
    /// The priority of a request that asks for none; 1 is the highest.
    pub default_priority: Option<u64>,
    /// How long a request may wait when its client does not say.
    pub default_timeout_milliseconds: Option<u64>,
    /// The batch sizes that the device takes; smaller batches are padded up to the next. Empty: it takes any.
    pub padding_buckets: Option<Vec<usize>>,
    /// The most images in one request, which is split where it is larger than a batch.
    pub max_request_size: Option<usize>,
}

/// What holds for a model when all places have been heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSettings {
    /// What an image becomes.
    pub preprocessing: Preprocessing,
    /// What executes it.
    pub execution_provider: ExecutionProvider,
    /// How many batches execute at the same time.
    pub instances: usize,
    /// The most images in one execution.
    pub max_batch_size: usize,
    /// How long an idle device waits for more.
    pub max_queue_delay: Duration,
    /// The most requests that may wait.
    pub max_queue_size: usize,
    /// How many priorities requests may have.
    pub priority_levels: u64,
    /// The priority of a request that asks for none.
    pub default_priority: u64,
    /// How long a request may wait when its client does not say.
    pub default_timeout: Duration,
    /// The batch sizes that the device takes; empty where it takes any.
    pub padding_buckets: Vec<usize>,
    /// The most images in one request.
    pub max_request_size: usize,
}

impl Layer {
    /// This layer, and the lower one where this one is silent.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        Self {
            preprocessing: self.preprocessing.or(lower.preprocessing),
            execution_provider: self.execution_provider.or(lower.execution_provider),
            instances: self.instances.or(lower.instances),
            batching: self.batching.over(lower.batching),
        }
    }

    /// The default wherever all layers are silent.
    ///
    /// # Errors
    /// When what holds together can't work; each layer alone was checked before.
    pub fn resolve(self) -> Result<ModelSettings, SettingsError> {
        let batching = self.batching;
        let max_batch_size = batching.max_batch_size.unwrap_or(32);
        let priority_levels = batching.priority_levels.unwrap_or(1);
        let settings = ModelSettings {
            preprocessing: self.preprocessing.unwrap_or_default(),
            execution_provider: self.execution_provider.unwrap_or_default(),
            instances: self.instances.unwrap_or(1),
            max_batch_size,
            max_queue_delay: Duration::from_micros(batching.max_queue_delay_microseconds.unwrap_or(0)),
            max_queue_size: batching.max_queue_size.unwrap_or(1024),
            priority_levels,
            default_priority: batching.default_priority.unwrap_or(priority_levels),
            default_timeout: Duration::from_millis(batching.default_timeout_milliseconds.unwrap_or(60_000)),
            padding_buckets: batching.padding_buckets.unwrap_or_default(),
            max_request_size: batching.max_request_size.unwrap_or(8 * max_batch_size),
        };
        between(settings.default_priority, 1, settings.priority_levels, "batching.defaultPriority")?;
        require(settings.max_request_size >= max_batch_size, "batching.maxRequestSize", || {
            format!("must be at least maxBatchSize ({max_batch_size}), not {}", settings.max_request_size)
        })?;
        let largest = settings.padding_buckets.iter().max().copied();
        require(largest.is_none_or(|size| size == max_batch_size), "batching.paddingBuckets", || {
            format!("must have maxBatchSize ({max_batch_size}) as the largest")
        })?;
        Ok(settings)
    }

    /// Checks what the types can't say.
    ///
    /// # Errors
    /// Names the first field that can't work.
    pub fn check(&self) -> Result<(), SettingsError> {
        within(self.instances, 1, MAX_INSTANCES, "instances")?;
        self.batching.check()
    }
}

impl Batching {
    fn over(self, lower: Self) -> Self {
        Self {
            max_batch_size: self.max_batch_size.or(lower.max_batch_size),
            max_queue_delay_microseconds: self.max_queue_delay_microseconds.or(lower.max_queue_delay_microseconds),
            max_queue_size: self.max_queue_size.or(lower.max_queue_size),
            priority_levels: self.priority_levels.or(lower.priority_levels),
            default_priority: self.default_priority.or(lower.default_priority),
            default_timeout_milliseconds: self.default_timeout_milliseconds.or(lower.default_timeout_milliseconds),
            padding_buckets: self.padding_buckets.or(lower.padding_buckets),
            max_request_size: self.max_request_size.or(lower.max_request_size),
        }
    }

    fn check(&self) -> Result<(), SettingsError> {
        within(self.max_batch_size, 1, 1024, "batching.maxBatchSize")?;
        within(self.max_queue_delay_microseconds, 0, 60_000_000, "batching.maxQueueDelayMicroseconds")?;
        within(self.max_queue_size, 1, 1 << 16, "batching.maxQueueSize")?;
        within(self.priority_levels, 1, 1 << 16, "batching.priorityLevels")?;
        within(self.default_priority, 1, 1 << 16, "batching.defaultPriority")?;
        within(self.default_timeout_milliseconds, 1, MAX_TIMEOUT_MILLISECONDS, "batching.defaultTimeoutMilliseconds")?;
        within(self.max_request_size, 1, 1 << 16, "batching.maxRequestSize")?;
        let buckets = self.padding_buckets.as_deref().unwrap_or_default();
        let grows = buckets.first() != Some(&0) && buckets.is_sorted_by(|smaller, larger| smaller < larger);
        require(grows && buckets.len() <= 64, "batching.paddingBuckets", || {
            format!("must be at most 64 growing sizes, each at least 1, not {buckets:?}")
        })
    }
}

fn within<T: PartialOrd + Copy + std::fmt::Display>(
    value: Option<T>,
    low: T,
    high: T,
    field: &'static str,
) -> Result<(), SettingsError> {
    value.map_or(Ok(()), |value| between(value, low, high, field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Preset;

    fn layer(text: &str) -> Layer {
        let layer: Layer = serde_json::from_str(text).unwrap();
        layer.check().unwrap();
        layer
    }

    /// One value of each field, all different from the defaults; `n` tells layers apart.
    fn full(n: usize) -> String {
        let preset = ["Clip", "ImageNet"][n % 2];
        let provider = ["Cpu", "Cuda", "TensorRt"][n % 3];
        format!(
            r#"{{"preprocessing":{{"preset":"{preset}"}},"executionProvider":"{provider}","instances":{0},
                "batching":{{"maxBatchSize":{0},"maxQueueDelayMicroseconds":{0},"maxQueueSize":{0},"priorityLevels":{0},
                "defaultPriority":{0},"defaultTimeoutMilliseconds":{0},"paddingBuckets":[{0}],"maxRequestSize":{0}}}}}"#,
            n + 2
        )
    }

    #[test]
    fn for_every_field_the_highest_layer_that_speaks_wins() {
        let fields: serde_json::Value = serde_json::from_str(&full(0)).unwrap();
        let paths: Vec<String> = fields
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "batching")
            .map(|key| format!("/{key}"))
            .chain(fields["batching"].as_object().unwrap().keys().map(|key| format!("/batching/{key}")))
            .collect();
        assert_eq!(paths.len(), 11, "{paths:?}");
        for path in paths {
            // Five places; every one of the 32 combinations of who speaks.
            for speakers in 0..32_u32 {
                let places: Vec<Layer> = (0..5)
                    .map(|place| {
                        let mut text: serde_json::Value = serde_json::from_str(&full(place)).unwrap();
                        if speakers & (1 << place) == 0 {
                            text.pointer_mut(&path).unwrap().take();
                        }
                        serde_json::from_value(text).unwrap()
                    })
                    .collect();
                let result = places.into_iter().reduce(Layer::over).unwrap();
                let winner = (0..5).find(|place| speakers & (1 << place) != 0);
                let mut expected: serde_json::Value = serde_json::from_str(&full(0)).unwrap();
                *expected.pointer_mut(&path).unwrap() = winner.map_or(serde_json::Value::Null, |winner| {
                    let text: serde_json::Value = serde_json::from_str(&full(winner)).unwrap();
                    text.pointer(&path).unwrap().clone()
                });
                assert_eq!(result, serde_json::from_value(expected).unwrap(), "{path}, speakers {speakers:b}");
            }
        }
    }

    #[test]
    fn silence_is_the_default() {
        let settings = Layer::default().resolve().unwrap();
        assert_eq!(settings.max_batch_size, 32);
        assert_eq!(settings.max_queue_delay, Duration::ZERO);
        assert_eq!(settings.max_queue_size, 1024);
        assert_eq!((settings.priority_levels, settings.default_priority), (1, 1));
        assert_eq!(settings.default_timeout, Duration::from_mins(1));
        assert_eq!((settings.instances, settings.max_request_size), (1, 256));
        assert_eq!(settings.preprocessing.preset, Preset::None);
        assert_eq!(settings.execution_provider, ExecutionProvider::Auto);
    }

    #[test]
    fn what_can_not_work_is_refused_with_the_field_s_name() {
        for (text, part) in [
            (r#"{"instances":0}"#, "instances must be 1 to 64"),
            (r#"{"batching":{"maxBatchSize":0}}"#, "batching.maxBatchSize must be 1 to 1024"),
            (r#"{"batching":{"paddingBuckets":[4,2]}}"#, "batching.paddingBuckets must be at most 64 growing sizes"),
            (r#"{"batching":{"paddingBuckets":[0,2]}}"#, "batching.paddingBuckets"),
            (r#"{"batching":{"paddingBuckets":[1,2]}}"#, "must have maxBatchSize (32) as the largest"),
            (r#"{"batching":{"defaultTimeoutMilliseconds":0}}"#, "batching.defaultTimeoutMilliseconds"),
            (r#"{"batching":{"priorityLevels":2,"defaultPriority":3}}"#, "batching.defaultPriority must be 1 to 2"),
            (r#"{"batching":{"maxRequestSize":3}}"#, "must be at least maxBatchSize (32), not 3"),
        ] {
            let layer: Layer = serde_json::from_str(text).unwrap();
            let error = layer.check().and_then(|()| layer.resolve().map(drop)).unwrap_err().to_string();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
        assert_eq!(
            layer(r#"{"batching":{"maxBatchSize":8,"paddingBuckets":[1,8]}}"#).resolve().unwrap().max_batch_size,
            8
        );
    }
}
