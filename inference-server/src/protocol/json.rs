//! Messages as JSON, as Triton writes them: names of the `.proto` files, defaults included, 64-bit numbers as numbers.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::wire::DESCRIPTORS;

/// The descriptors of every message; none would mean a build that can't have passed its tests.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// A message of the package `inference` as JSON.
///
/// # Errors
/// When there is no message of this name, which a test rules out for those that are used.
pub fn of(name: &str, message: &impl Message) -> Result<Value, serde_json::Error> {
    let fail = |problem: String| <serde_json::Error as serde::ser::Error>::custom(problem);
    let pool = POOL.as_ref().ok_or_else(|| fail("the descriptors can't be read".to_owned()))?;
    let descriptor = pool
        .get_message_by_name(&format!("inference.{name}"))
        .ok_or_else(|| fail(format!("there is no message {name}")))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).map_err(|error| fail(error.to_string()))?;
    let options =
        SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(false).use_proto_field_name(true);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::inference::{InferStatistics, ModelConfig, ModelInput, ModelStatistics, StatisticDuration};

    #[test]
    fn defaults_are_written_and_numbers_stay_numbers() {
        let config = ModelConfig {
            name: "m".to_owned(),
            input: vec![ModelInput { data_type: 11, dims: vec![3, -1], ..ModelInput::default() }],
            ..ModelConfig::default()
        };
        let json = of("ModelConfig", &config).unwrap();
        assert_eq!(json["input"][0]["data_type"], "TYPE_FP32");
        assert_eq!(json["input"][0]["format"], "FORMAT_NONE");
        assert_eq!(json["input"][0]["dims"], json!([3, -1]));
        assert_eq!((&json["max_batch_size"], &json["model_warmup"]), (&json!(0), &json!([])));
        assert_eq!(json.get("dynamic_batching"), None, "what is not set is not there");

        let all = Some(StatisticDuration { count: 1 << 60, ns: 0 });
        let stats = ModelStatistics {
            inference_stats: Some(InferStatistics { success: all, ..InferStatistics::default() }),
            ..ModelStatistics::default()
        };
        let json = of("ModelStatistics", &stats).unwrap();
        assert_eq!(json["inference_stats"]["success"], json!({"count": 1_u64 << 60, "ns": 0}));
        assert_eq!((&json["response_stats"], &json["memory_usage"]), (&json!({}), &json!([])));
    }

    #[test]
    fn an_unknown_message_is_an_error() {
        assert!(of("Nothing", &ModelConfig::default()).unwrap_err().to_string().contains("no message Nothing"));
    }
}
