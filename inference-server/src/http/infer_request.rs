//! From a request's body to the engine's payload: KServe v2 JSON, and Triton's binary tensor extension.
//!
//! The body is JSON, or a JSON header of the length that `Inference-Header-Content-Length` says with the binary tensors behind
//! it in the order of the inputs, or (length 0) one raw tensor.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use super::{error::ApiError, flat::Flat};
use crate::{
    engine::request::{NamedTensor, Payload, element_count},
    protocol::{
        binary,
        parameters::{self, Wishes},
    },
    tensor::{Data, DataType, Tensor},
};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InferRequest {
    /// Given back in the answer.
    pub(super) id: String,
    /// What the model gets.
    pub(super) payload: Payload,
    /// The outputs wanted, in this order; empty for all.
    pub(super) outputs: Vec<RequestedOutput>,
    /// Whether outputs without a choice of their own are binary.
    pub(super) binary_output: bool,
    /// How long the request may wait, and how urgent it is.
    pub(super) wishes: Wishes,
}

/// One wanted output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestedOutput {
    /// Its name.
    pub(super) name: String,
    /// Its own choice of form.
    pub(super) binary: Option<bool>,
}

#[derive(Deserialize)]
struct WireRequest<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow, default)]
    parameters: Option<Parameters<'a>>,
    #[serde(borrow)]
    inputs: Vec<WireInput<'a>>,
    #[serde(borrow, default)]
    outputs: Option<Vec<WireOutput<'a>>>,
}

#[derive(Deserialize)]
struct WireInput<'a> {
    name: String,
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Option<Parameters<'a>>,
    #[serde(default)]
    data: Option<Flat>,
}

#[derive(Deserialize)]
struct WireOutput<'a> {
    name: String,
    #[serde(borrow, default)]
    parameters: Option<Parameters<'a>>,
}

/// Parameters as they come. There are one or two, for which a map's nodes are ten times too large.
#[derive(Default)]
struct Parameters<'a>(Vec<(Cow<'a, str>, Value)>);

impl Parameters<'_> {
    /// The last of that name, as in a map.
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(ApiError::bad_request(format!("parameter '{key}' must be true or false, got {other}"))),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Parameters<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Parameters<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut parameters = Vec::new();
                while let Some((Key(name), value)) = entries.next_entry()? {
                    parameters.push((name, value));
                }
                Ok(Parameters(parameters))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// Parses a body. `header_length` is the header `Inference-Header-Content-Length`; `takes_images` says that strings in JSON
/// may be base64.
///
/// # Errors
/// A client error that says what is wrong.
pub(super) fn parse(body: &Bytes, header_length: Option<usize>, takes_images: bool) -> Result<InferRequest, ApiError> {
    let json_length = match header_length {
        None => body.len(),
        Some(0) => return Ok(raw(body.clone())),
        Some(length) if length <= body.len() => length,
        Some(length) => {
            return Err(ApiError::bad_request(format!(
                "inference header size should be in range (0, {}), got {length}",
                body.len()
            )));
        }
    };
    let json = &body[..json_length];
    // Checked once, its strings need no check each. What is no UTF-8 gets the parser's own words.
    let wire: Result<WireRequest<'_>, _> =
        str::from_utf8(json).map_or_else(|_| serde_json::from_slice(json), serde_json::from_str);
    let wire = wire.map_err(|error| ApiError::bad_request(format!("failed to parse the request JSON: {error}")))?;
    let mut blobs = body.slice(json_length..);
    let inputs =
        wire.inputs.into_iter().map(|input| input_tensor(input, &mut blobs, takes_images)).collect::<Result<_, _>>()?;
    if !blobs.is_empty() {
        return Err(ApiError::bad_request(format!(
            "unexpected additional input data for model: {} bytes are left after the last binary input",
            blobs.len()
        )));
    }
    let parameters = wire.parameters.unwrap_or_default();
    let wishes = parameters::read(parameters.0.iter().map(|(name, value)| (&**name, neutral(value))))
        .map_err(ApiError::bad_request)?;
    Ok(InferRequest {
        id: wire.id.unwrap_or_default(),
        payload: Payload::Tensors(inputs),
        outputs: wire.outputs.unwrap_or_default().into_iter().map(requested_output).collect::<Result<_, _>>()?,
        binary_output: parameters.flag("binary_data_output")?.unwrap_or(false),
        wishes,
    })
}

pub(super) fn neutral(value: &Value) -> parameters::Value<'_> {
    match value {
        Value::Bool(value) => parameters::Value::Bool(*value),
        Value::String(text) => parameters::Value::Text(text),
        Value::Number(number) => match number.as_i128() {
            Some(whole) => parameters::Value::Int(whole),
            None => parameters::Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => parameters::Value::Other,
    }
}

/// A body that is one tensor or one image; its outputs are binary, as Triton's are.
fn raw(body: Bytes) -> InferRequest {
    InferRequest {
        id: String::new(),
        payload: Payload::Raw(body),
        outputs: Vec::new(),
        binary_output: true,
        wishes: Wishes::default(),
    }
}

/// A body that is an image by its content type; its answer is JSON, for whoever types the request by hand.
pub(super) fn image(body: Bytes) -> InferRequest {
    InferRequest { binary_output: false, ..raw(body) }
}

fn requested_output(output: WireOutput<'_>) -> Result<RequestedOutput, ApiError> {
    let parameters = output.parameters.unwrap_or_default();
    if parameters.get("classification").is_some() {
        return Err(ApiError::bad_request(format!(
            "the classification of output '{}' is not supported; ask for the output and sort it",
            output.name
        )));
    }
    if parameters.get("shared_memory_region").is_some() {
        return Err(ApiError::bad_request(
            "shared memory is not supported; ask for the output in the answer".to_owned(),
        ));
    }
    Ok(RequestedOutput { binary: parameters.flag("binary_data")?, name: output.name })
}

/// Takes an input's values from the JSON, or from the front of the binary part.
fn input_tensor(input: WireInput<'_>, blobs: &mut Bytes, takes_images: bool) -> Result<NamedTensor, ApiError> {
    let WireInput { name, shape, datatype, parameters, data } = input;
    let bad = |problem: String| ApiError::bad_request(format!("input '{name}': {problem}"));
    let data_type =
        DataType::from_name(&datatype).ok_or_else(|| bad(format!("the datatype '{datatype}' is not supported")))?;
    let shape: Vec<usize> = shape
        .iter()
        .map(|size| usize::try_from(*size).map_err(|_| bad(format!("the shape {shape:?} has a negative dimension"))))
        .collect::<Result<_, _>>()?;
    let count = element_count(&shape).ok_or_else(|| bad(format!("the shape {shape:?} is too large")))?;
    let parameters = parameters.unwrap_or_default();
    if parameters.get("shared_memory_region").is_some() {
        return Err(bad("shared memory is not supported; send the data in the body".to_owned()));
    }
    let data = match (parameters.get("binary_data_size"), data) {
        (Some(_), Some(_)) => return Err(bad("must have 'data' or 'binary_data_size', not both".to_owned())),
        (None, None) => return Err(bad("must have 'data' or the parameter 'binary_data_size'".to_owned())),
        (Some(size), None) => {
            let size = size
                .as_u64()
                .and_then(|size| usize::try_from(size).ok())
                .ok_or_else(|| bad(format!("'binary_data_size' must be a number of bytes, got {size}")))?;
            if size > blobs.len() {
                let missing = size - blobs.len();
                return Err(bad(format!("unexpected size for input '{name}', expecting {missing} additional bytes")));
            }
            binary::read(blobs.split_to(size), data_type, count).map_err(&bad)?
        }
        (None, Some(flat)) => {
            let data = flat.into_data(data_type, takes_images).map_err(&bad)?;
            let given = match (&data, data_type.size()) {
                (Data::Fixed(bytes), Some(size)) => bytes.len() / size,
                (Data::Fixed(bytes), None) => bytes.len(),
                (Data::Strings(strings), _) => strings.len(),
            };
            if given != count {
                return Err(bad(format!("unexpected number of elements {given}, its shape {shape:?} needs {count}")));
            }
            data
        }
    };
    Ok(NamedTensor { name, tensor: Tensor { data_type, shape, data } })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn binary(datatype: &str, shape: &[usize], size: usize, blob: &[u8]) -> Result<InferRequest, String> {
        let input =
            json!({"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}});
        let header = json!({"inputs": [input]}).to_string();
        let body = Bytes::from([header.as_bytes(), blob].concat());
        parse(&body, Some(header.len()), false).map_err(|error| error.message)
    }

    fn data(request: InferRequest) -> Data {
        let Payload::Tensors(mut tensors) = request.payload else { panic!("tensors") };
        tensors.remove(0).tensor.data
    }

    #[test]
    fn binary_sizes_are_checked_from_both_sides() {
        assert_eq!(data(binary("INT16", &[2], 4, b"abcd").unwrap()), Data::Fixed(Bytes::from_static(b"abcd")));
        for (size, blob, part) in [
            (4, &b"abc"[..], "expecting 1 additional bytes"),
            (4, b"abcde", "1 bytes are left"),
            (3, b"abc", "its 2 elements of INT16 are not 3 bytes"),
        ] {
            let error = binary("INT16", &[2], size, blob).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }

    #[test]
    fn the_choice_of_outputs_and_the_parameters_are_read() {
        let body = json!({
            "id": "a",
            "parameters": {"binary_data_output": true, "timeout": "250", "custom": 1},
            "inputs": [{"name": "x", "datatype": "BOOL", "shape": [2], "data": [true, 0]}],
            "outputs": [{"name": "y", "parameters": {"binary_data": false}}, {"name": "z"}],
        });
        // A number among booleans is no boolean.
        let error = parse(&Bytes::from(body.to_string()), None, false).unwrap_err();
        assert!(error.message.contains("mixes strings, booleans and numbers"), "{}", error.message);
        let body = body.to_string().replace("true,0", "true,false");
        let request = parse(&Bytes::from(body), None, false).unwrap();
        assert!(request.binary_output);
        let wishes = Wishes { timeout: Some(Duration::from_micros(250)), priority: 0 };
        assert_eq!((request.id.as_str(), request.wishes), ("a", wishes));
        let output = |name: &str, binary| RequestedOutput { name: name.to_owned(), binary };
        assert_eq!(request.outputs, [output("y", Some(false)), output("z", None)]);
        assert_eq!(data(request), Data::Fixed(Bytes::from_static(&[1, 0])));
    }

    proptest! {
        /// Whatever a client sends, it gets a payload or an error; nothing it sends can end the server.
        #[test]
        fn no_body_panics(
            json in r#"[{}\[\]",:a-z0-9.-]{0,80}"#,
            blob in prop::collection::vec(any::<u8>(), 0..40),
            header_length in prop::option::of(0_usize..140),
        ) {
            let body = Bytes::from([json.as_bytes(), &blob].concat());
            drop(parse(&body, header_length, true));
        }

        /// The same for requests that are nearly right.
        #[test]
        fn no_nearly_right_body_panics(
            shape in prop::collection::vec(any::<i64>(), 0..4),
            datatype in prop::sample::select(vec!["FP32", "FP16", "BYTES", "BOOL", "UINT64", "INT8", "X"]),
            size in any::<u64>(),
            blob in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let input = json!({"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}});
            let header = json!({"inputs": [input]}).to_string();
            let body = Bytes::from([header.as_bytes(), &blob].concat());
            drop(parse(&body, Some(header.len()), true));
        }
    }
}
