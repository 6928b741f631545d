//! Pure: does a live object still carry everything that we applied?

use serde_json::Value;

/// Whether `live` has every field and list item of `desired`, each with the wanted value. What others added does not count.
/// Quantities are compared by value: the API server writes `1000m` as `1`.
pub fn contains(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => desired.iter().all(|(key, desired)| match live.get(key) {
            Some(live) => contains(live, desired),
            None => is_void(desired),
        }),
        (Value::Array(live), Value::Array(desired)) => match keyed_by(desired) {
            Some(keys) => desired.iter().all(|desired| {
                live.iter()
                    .any(|live| keys.iter().all(|key| live.get(key) == desired.get(key)) && contains(live, desired))
            }),
            None => {
                live.len() == desired.len() && live.iter().zip(desired).all(|(live, desired)| contains(live, desired))
            }
        },
        (Value::String(live), Value::String(desired)) => live == desired || same_quantity(live, desired),
        (live, desired) => live == desired || (is_void(desired) && live.is_null()),
    }
}

/// The fields that identify an item of a list, where Kubernetes merges the list by them.
fn keyed_by(list: &[Value]) -> Option<&'static [&'static str]> {
    const KEYS: [&[&str]; 3] = [&["uid"], &["name"], &["containerPort", "protocol"]];
    KEYS.into_iter()
        .find(|keys| !list.is_empty() && list.iter().all(|item| keys.iter().all(|key| item.get(key).is_some())))
}

fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn same_quantity(left: &str, right: &str) -> bool {
    matches!((quantity(left), quantity(right)), (Some(left), Some(right)) if (left - right).abs() <= f64::EPSILON * left.abs())
}

/// The value of a Kubernetes quantity, for example 1536Mi, 500m or 2e3.
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return None;
    }
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let (number, factor) = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))?;
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn additions_of_others_are_no_drift_and_changes_are() {
        let desired = json!({"spec": {"a": 1, "list": [{"name": "x", "v": 1}], "set": ["p"], "empty": {}}});
        let same = [
            json!({"spec": {"a": 1, "list": [{"name": "x", "v": 1}], "set": ["p"]}}),
            json!({"spec": {"a": 1, "b": 2, "list": [{"name": "y"}, {"name": "x", "v": 1, "w": 2}], "set": ["p"], "empty": {}}}),
        ];
        let drifted = [
            json!({"spec": {"a": 2, "list": [{"name": "x", "v": 1}], "set": ["p"]}}),
            json!({"spec": {"list": [{"name": "x", "v": 1}], "set": ["p"]}}),
            json!({"spec": {"a": 1, "list": [{"name": "x", "v": 2}], "set": ["p"]}}),
            json!({"spec": {"a": 1, "list": [], "set": ["p"]}}),
            json!({"spec": {"a": 1, "list": [{"name": "x", "v": 1}], "set": ["p", "q"]}}),
            json!({}),
        ];
        for live in same {
            assert!(contains(&live, &desired), "{live}");
        }
        for live in drifted {
            assert!(!contains(&live, &desired), "{live}");
        }
    }

    #[test]
    fn quantities_are_equal_by_value() {
        for (left, right, equal) in [
            ("1000m", "1", true),
            ("0.5", "500m", true),
            ("1Gi", "1024Mi", true),
            ("1G", "1Gi", false),
            ("abc", "abd", false),
            ("1", "1m", false),
        ] {
            assert_eq!(contains(&json!(left), &json!(right)), equal, "{left} {right}");
        }
    }
}
