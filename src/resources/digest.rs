//! A digest of a JSON value that does not depend on the order of its keys.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// SHA-256 of the value's canonical text (keys sorted, no spaces), as 64 hexadecimal digits.
pub fn of(value: &Value) -> String {
    of_text(&canonical(value))
}

/// SHA-256 of a text, as 64 hexadecimal digits.
pub fn of_text(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The value as JSON with its keys sorted: equal values have equal texts, whatever map type `serde_json` was built with.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(&Value::from(key.as_str()), text);
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(list) => {
            text.push('[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(value, text);
            }
            text.push(']');
        }
        scalar => {
            let _ = write!(text, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_order_of_keys_does_not_matter_and_the_order_of_items_does() {
        let one: Value = serde_json::from_str(r#"{"b": [1, 2], "a": {"d": null, "c": "x"}}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"a": {"c": "x", "d": null}, "b": [1, 2]}"#).unwrap();
        assert_eq!(canonical(&one), r#"{"a":{"c":"x","d":null},"b":[1,2]}"#);
        assert_eq!(of(&one), of(&other));
        assert_ne!(of(&one), of(&json!({"a": {"c": "x", "d": null}, "b": [2, 1]})));
    }

    /// If this fails, an upgrade of the operator rolls every pod of every service.
    #[test]
    fn the_digest_of_a_known_value_stays() {
        assert_eq!(of(&json!({})), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(canonical(&json!({"\"": "\n\u{1}é"})), "{\"\\\"\":\"\\n\\u0001é\"}");
    }
}
