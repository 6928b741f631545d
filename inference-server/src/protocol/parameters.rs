//! The parameters of a request that this server acts on: how long it may wait, and how urgent it is.

use std::time::Duration;

/// A parameter's value, whichever protocol brought it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Double(f64),
    /// Text.
    Text(&'a str),
    /// Something that no parameter is.
    Other,
}

/// What a client wishes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// How long the request may wait.
    pub timeout: Option<Duration>,
    /// 1 is the highest; 0 is the model's default.
    pub priority: u64,
}

/// What gRPC's clients ask for in a stream; a model that gives one response has nothing to change for it.
const ALLOWED: &str = "triton_enable_empty_final_response";

/// Reads the wishes; parameters of the user's own are left alone.
///
/// # Errors
/// When a value is not what the parameter takes, or a name is reserved.
pub fn read<'a>(parameters: impl Iterator<Item = (&'a str, Value<'a>)>) -> Result<Wishes, String> {
    let mut wishes = Wishes::default();
    for (name, value) in parameters {
        match name {
            "timeout" => {
                let micros = whole(name, "microseconds", &value)?;
                wishes.timeout = (micros > 0).then(|| Duration::from_micros(micros));
            }
            "priority" => wishes.priority = whole(name, "level", &value)?,
            _ if name.starts_with("triton_") && name != ALLOWED => {
                return Err(format!("parameter keys starting with 'triton_' are reserved, got '{name}'"));
            }
            _ => {}
        }
    }
    Ok(wishes)
}

/// Clients send numbers in every form that their language has.
fn whole(name: &str, what: &str, value: &Value<'_>) -> Result<u64, String> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::Text(text) => text.parse().ok(),
        Value::Bool(_) | Value::Double(_) | Value::Other => None,
    }
    .ok_or_else(|| format!("parameter '{name}' must be a whole number ({what}), got {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_many_forms() {
        let read = |name, value| read([(name, value)].into_iter());
        let timeout = |micros| Ok(Wishes { timeout: Some(Duration::from_micros(micros)), priority: 0 });
        assert_eq!(read("timeout", Value::Int(250)), timeout(250));
        assert_eq!(read("timeout", Value::Text("250")), timeout(250));
        assert_eq!(read("timeout", Value::Int(0)), Ok(Wishes::default()), "none is Triton's 0");
        assert_eq!(read("priority", Value::Int(2)), Ok(Wishes { timeout: None, priority: 2 }));
        assert_eq!(read("custom", Value::Other), Ok(Wishes::default()));
        assert_eq!(read(ALLOWED, Value::Bool(true)), Ok(Wishes::default()));
        for (name, value, part) in [
            ("timeout", Value::Int(-1), "must be a whole number (microseconds)"),
            ("timeout", Value::Text("soon"), "must be a whole number"),
            ("priority", Value::Double(0.5), "must be a whole number (level)"),
            ("triton_x", Value::Int(1), "are reserved"),
        ] {
            let error = read(name, value).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }
}
