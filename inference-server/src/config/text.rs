//! Text and JSON to the message, and the message to the JSON that clients read.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use super::{ConfigError, ModelConfig};
use crate::wire::DESCRIPTORS;

/// The deepest nesting of a configuration that means anything is eight.
const MAX_DEPTH: usize = 64;

static DESCRIPTOR: LazyLock<Result<MessageDescriptor, String>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string())?;
    pool.get_message_by_name("inference.ModelConfig").ok_or_else(|| "there is no inference.ModelConfig".to_owned())
});

/// Reads the text of a `config.pbtxt`.
///
/// # Errors
/// With the place in the text.
pub fn parse(text: &str) -> Result<ModelConfig, ConfigError> {
    let text = prepare(text)?;
    let message =
        DynamicMessage::parse_text_format(descriptor()?, &text).map_err(|error| malformed(&error.to_string()))?;
    typed(&message)
}

/// Reads a configuration in JSON.
///
/// # Errors
/// With the place in the text.
pub fn parse_json(text: &str) -> Result<ModelConfig, ConfigError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(descriptor()?, &mut reader, &options)
        .map_err(|error| malformed(&error.to_string()))?;
    reader.end().map_err(|error| malformed(&error.to_string()))?;
    typed(&message)
}

/// The JSON that clients of Triton read: the field names of the `.proto` file, every default written out, 64-bit numbers as numbers.
///
/// # Errors
/// When the message has what JSON has not, such as a number that is none.
pub fn to_json(config: &ModelConfig) -> Result<Value, ConfigError> {
    let options =
        SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true).skip_default_fields(false);
    dynamic(config)?
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| malformed(&error.to_string()))
}

/// The message with names for its fields.
pub(super) fn dynamic(config: &ModelConfig) -> Result<DynamicMessage, ConfigError> {
    let mut message = DynamicMessage::new(descriptor()?);
    message.transcode_from(config).map_err(|error| malformed(&error.to_string()))?;
    Ok(message)
}

fn typed(message: &DynamicMessage) -> Result<ModelConfig, ConfigError> {
    message.transcode_to().map_err(|error| malformed(&error.to_string()))
}

fn descriptor() -> Result<MessageDescriptor, ConfigError> {
    DESCRIPTOR.clone().map_err(ConfigError::Malformed)
}

fn malformed(problem: &str) -> ConfigError {
    ConfigError::Malformed(format!("the configuration is not understood: {problem}"))
}

/// The text as the parser wants it. Nesting is bounded, because the parser calls itself for each level; and a list of messages
/// gets the colon that people leave out (`input [ { … } ]`), which protobuf's own parser allows.
fn prepare(text: &str) -> Result<String, ConfigError> {
    let mut prepared = String::with_capacity(text.len() + 64);
    let (mut depth, mut quote, mut is_escaped, mut is_comment, mut is_after_word) =
        (0_usize, None, false, false, false);
    for character in text.chars() {
        match (quote, character) {
            _ if is_comment => is_comment = character != '\n',
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            // A string ends with its line, whether it was closed or not.
            (Some(_), '\n') => quote = None,
            (Some(open), _) if character == open => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '#') => is_comment = true,
            (None, '{' | '<' | '[') => depth += 1,
            (None, '}' | '>' | ']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(malformed(&format!("it is nested deeper than {MAX_DEPTH} levels")));
        }
        if quote.is_none() && !is_comment && !character.is_whitespace() {
            if character == '[' && is_after_word {
                prepared.push(':');
            }
            is_after_word = character.is_ascii_alphanumeric() || character == '_';
        }
        prepared.push(character);
    }
    Ok(prepared)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a real Triton 2.51 answers for the text below it.
    const TRITON_JSON: &str = include_str!("../../tests/fixtures/config/triton.json");
    const TRITON_TEXT: &str = include_str!("../../tests/fixtures/config/triton.pbtxt");

    #[test]
    fn the_json_is_triton_s() {
        let truth: Value = serde_json::from_str(TRITON_JSON).unwrap();
        let from_text = parse(TRITON_TEXT).unwrap();
        assert_eq!(to_json(&from_text).unwrap(), truth);
        assert_eq!(parse_json(TRITON_JSON).unwrap(), from_text);
    }

    #[test]
    fn sixty_four_bits_are_numbers() {
        let config = parse("dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }").unwrap();
        let json = to_json(&config).unwrap();
        assert_eq!(json["dynamic_batching"]["max_queue_delay_microseconds"], serde_json::json!(u64::MAX));
    }

    #[test]
    fn what_people_write() {
        let config = parse(
            "# a comment\nname: 'clip'\nplatform: \"onnxruntime_onnx\"; max_batch_size: 0x10,\n\
             input [ # not a list [ of lists\n { name: \"x\" data_type: TYPE_FP32 dims: [ 3, -1 ] } ]\ninstance_group < count: 2 kind: KIND_CPU >\n\
             parameters { key: \"a\" value: { string_value: \"b\" \"c\" } }\nversion_policy: { specific { versions: [1, 3] } }",
        )
        .unwrap();
        assert_eq!((config.name.as_str(), config.max_batch_size), ("clip", 16));
        assert_eq!(config.input[0].dims, [3, -1]);
        assert_eq!(config.instance_group[0].count, 2);
        assert_eq!(config.parameters["a"].string_value, "bc");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("max_batch_sise: 8", "max_batch_sise"),
            ("max_batch_size: \"8\"", "expected"),
            ("max_batch_size: 99999999999", "99999999999"),
            ("input [ { data_type: TYPE_FLOAT } ]", "TYPE_FLOAT"),
            ("input [ {", "reached end of input"),
            ("name: \"a\" name: \"b\"", "name"),
            ("dynamic_batching {} sequence_batching {}", "scheduling_choice"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
        let deep = "[a/inference.ModelConfig] {".repeat(100_000);
        assert!(parse(&deep).unwrap_err().to_string().contains("nested deeper than 64"));
        assert!(parse_json(&"{\"input\":[".repeat(100_000)).is_err());
        assert!(parse_json("{\"surprise\": 1}").unwrap_err().to_string().contains("surprise"));
        assert!(parse_json("{} {}").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            drop(parse(&text));
            drop(parse_json(&text));
        }

        /// Parts of real configurations in any order reach further into the parser than random characters do.
        #[test]
        fn no_heap_of_parts_panics(parts in prop::collection::vec(prop::sample::select(PARTS.to_vec()), 0..40)) {
            let text = parts.join(" ");
            if let Ok(config) = parse(&text) {
                drop(super::super::wish::Wish::read(&config));
                let json = to_json(&config).unwrap();
                prop_assert_eq!(parse_json(&json.to_string()).unwrap(), config);
            }
        }
    }

    const PARTS: [&str; 32] = [
        "name",
        ":",
        "\"x\"",
        "{",
        "}",
        "[",
        "]",
        "<",
        ">",
        ",",
        ";",
        "max_batch_size: 8",
        "-1",
        "0x7f",
        "1e9",
        "'",
        "input [ { name: \"x\" data_type: TYPE_FP32 dims: [3] } ]",
        "output { name: \"y\" dims: -1 }",
        "instance_group { count: -5 kind: KIND_GPU }",
        "dynamic_batching { preferred_batch_size: [ 4 ] }",
        "dynamic_batching { default_queue_policy { max_queue_size: 4294967295 } }",
        "parameters { key: \"preprocessing\" value { string_value: \"{\" } }",
        "version_policy { all {} }",
        "#",
        "\n",
        "version_policy { latest { num_versions: 4294967295 } }",
        "sequence_batching {}",
        "TYPE_INVALID",
        "[a/inference.ModelConfig] {}",
        "model_warmup { name: \"w\" inputs { key: \"x\" value { zero_data: true } } }",
        "metric_tags { key: \"a\" value: \"b\" }",
        "optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\" } } }",
    ];
}
