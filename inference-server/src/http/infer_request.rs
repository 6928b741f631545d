//! From a request's body to the engine's payload: KServe v2 JSON, and Triton's binary tensor extension.
//!
//! The body is JSON, or a JSON header of the length that `Inference-Header-Content-Length` says with the binary tensors behind
//! it in the order of the inputs, or (length 0) one raw tensor. Numbers in JSON are kept in columns of eight bytes while they
//! are read, so that a body needs a few times its own size at most.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::{
    engine::request::{NamedTensor, Payload, element_count},
    tensor::{Data, DataType, Tensor, little_endian},
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
    /// How long the request may wait.
    pub(super) timeout_microseconds: Option<u64>,
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
struct WireRequest {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
    inputs: Vec<WireInput>,
    #[serde(default)]
    outputs: Option<Vec<WireOutput>>,
}

#[derive(Deserialize)]
struct WireInput {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
    #[serde(default)]
    data: Option<Flat>,
}

#[derive(Deserialize)]
struct WireOutput {
    name: String,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
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
    let wire: WireRequest = serde_json::from_slice(&body[..json_length])
        .map_err(|error| ApiError::bad_request(format!("failed to parse the request JSON: {error}")))?;
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
    if let Some(key) = parameters.keys().find(|key| key.starts_with("triton_")) {
        return Err(ApiError::bad_request(format!("parameter keys starting with 'triton_' are reserved, got '{key}'")));
    }
    let timeout_microseconds = match parameters.get("timeout") {
        None => None,
        Some(value) => {
            let timeout = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
            Some(timeout.ok_or_else(|| {
                ApiError::bad_request(format!("parameter 'timeout' must be a number of microseconds, got {value}"))
            })?)
        }
    };
    Ok(InferRequest {
        id: wire.id.unwrap_or_default(),
        payload: Payload::Tensors(inputs),
        outputs: wire.outputs.unwrap_or_default().into_iter().map(requested_output).collect::<Result<_, _>>()?,
        binary_output: flag(&parameters, "binary_data_output")?.unwrap_or(false),
        timeout_microseconds: timeout_microseconds.filter(|timeout| *timeout > 0),
    })
}

/// A body that is one tensor or one image; its outputs are binary, as Triton's are.
fn raw(body: Bytes) -> InferRequest {
    InferRequest {
        id: String::new(),
        payload: Payload::Raw(body),
        outputs: Vec::new(),
        binary_output: true,
        timeout_microseconds: None,
    }
}

/// A body that is an image by its content type; its answer is JSON, for whoever types the request by hand.
pub(super) fn image(body: Bytes) -> InferRequest {
    InferRequest { binary_output: false, ..raw(body) }
}

fn requested_output(output: WireOutput) -> Result<RequestedOutput, ApiError> {
    let parameters = output.parameters.unwrap_or_default();
    if parameters.contains_key("classification") {
        return Err(ApiError::bad_request(format!(
            "the classification of output '{}' is not supported; ask for the output and sort it",
            output.name
        )));
    }
    if parameters.contains_key("shared_memory_region") {
        return Err(ApiError::bad_request(
            "shared memory is not supported; ask for the output in the answer".to_owned(),
        ));
    }
    Ok(RequestedOutput { binary: flag(&parameters, "binary_data")?, name: output.name })
}

fn flag(parameters: &Map<String, Value>, key: &str) -> Result<Option<bool>, ApiError> {
    match parameters.get(key) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(ApiError::bad_request(format!("parameter '{key}' must be true or false, got {other}"))),
    }
}

/// Takes an input's values from the JSON, or from the front of the binary part.
fn input_tensor(input: WireInput, blobs: &mut Bytes, takes_images: bool) -> Result<NamedTensor, ApiError> {
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
    if parameters.contains_key("shared_memory_region") {
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
            binary_data(blobs.split_to(size), data_type, count).map_err(&bad)?
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

/// A blob, checked against the shape; a BYTES blob is a sequence of lengths and contents.
fn binary_data(blob: Bytes, data_type: DataType, count: usize) -> Result<Data, String> {
    if let Some(size) = data_type.size() {
        return match count.checked_mul(size) {
            Some(wanted) if wanted == blob.len() => Ok(Data::Fixed(blob)),
            _ => Err(format!(
                "unexpected size: its {count} elements of {} are not {} bytes",
                data_type.name(),
                blob.len()
            )),
        };
    }
    let mut strings = Vec::new();
    let mut rest = blob;
    while !rest.is_empty() {
        let Some(prefix) = rest.first_chunk::<4>().copied() else {
            return Err("a BYTES element lacks its four bytes of length".to_owned());
        };
        let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
        let _prefix = rest.split_to(4);
        if length > rest.len() {
            return Err(format!("a BYTES element of {length} bytes has only {} left", rest.len()));
        }
        strings.push(rest.split_to(length));
    }
    if strings.len() == count {
        Ok(Data::Strings(strings))
    } else {
        Err(format!("unexpected number of string elements {}, expecting {count}", strings.len()))
    }
}

/// The values of `data`, nested or flat, in the narrowest column that holds what has been read.
#[derive(Debug, Clone, PartialEq)]
enum Flat {
    Empty,
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Wide(Vec<u64>),
    Floats(Vec<f64>),
    Strings(Vec<String>),
}

impl Flat {
    /// The values as the model's type; a number that does not fit is an error and not another number.
    fn into_data(self, data_type: DataType, takes_images: bool) -> Result<Data, String> {
        macro_rules! integers {
            ($type:ty) => {{
                let outside = || format!("a value does not fit into {}", data_type.name());
                let values: Vec<$type> = match self {
                    Self::Empty => Vec::new(),
                    Self::Ints(values) => values
                        .into_iter()
                        .map(|value| <$type>::try_from(value))
                        .collect::<Result<_, _>>()
                        .map_err(|_| outside())?,
                    Self::Wide(values) => values
                        .into_iter()
                        .map(|value| <$type>::try_from(value))
                        .collect::<Result<_, _>>()
                        .map_err(|_| outside())?,
                    _ => return Err(format!("its data must be whole numbers for {}", data_type.name())),
                };
                little_endian(&values, <$type>::to_le_bytes)
            }};
        }
        Ok(match data_type {
            DataType::Uint8 => integers!(u8),
            DataType::Uint16 => integers!(u16),
            DataType::Uint32 => integers!(u32),
            DataType::Uint64 => integers!(u64),
            DataType::Int8 => integers!(i8),
            DataType::Int16 => integers!(i16),
            DataType::Int32 => integers!(i32),
            DataType::Int64 => integers!(i64),
            #[expect(clippy::cast_possible_truncation, reason = "JSON's numbers are doubles; FP32 takes the nearest")]
            DataType::Fp32 => little_endian(&self.into_floats(data_type)?, |value| (value as f32).to_le_bytes()),
            DataType::Fp64 => little_endian(&self.into_floats(data_type)?, f64::to_le_bytes),
            DataType::Fp16 => return Err("FP16 has no form in JSON; send it with 'binary_data_size'".to_owned()),
            DataType::Bool => match self {
                Self::Empty => Data::Fixed(Bytes::new()),
                Self::Bools(values) => little_endian(&values, |value| [u8::from(value)]),
                Self::Ints(values) if values.iter().all(|value| matches!(value, 0 | 1)) => {
                    little_endian(&values, |value| [u8::from(value == 1)])
                }
                _ => return Err("its data must be true and false for BOOL".to_owned()),
            },
            DataType::Bytes => match self {
                Self::Empty => Data::Strings(Vec::new()),
                Self::Strings(strings) => Data::Strings(
                    strings
                        .into_iter()
                        .map(|text| if takes_images { decode_base64(&text) } else { Ok(Bytes::from(text)) })
                        .collect::<Result<_, _>>()?,
                ),
                _ => return Err("its data must be strings for BYTES".to_owned()),
            },
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "JSON's numbers are doubles")]
    fn into_floats(self, data_type: DataType) -> Result<Vec<f64>, String> {
        match self {
            Self::Empty => Ok(Vec::new()),
            Self::Floats(values) => Ok(values),
            Self::Ints(values) => Ok(values.into_iter().map(|value| value as f64).collect()),
            Self::Wide(values) => Ok(values.into_iter().map(|value| value as f64).collect()),
            Self::Bools(_) | Self::Strings(_) => Err(format!("its data must be numbers for {}", data_type.name())),
        }
    }

    fn push_int<E: de::Error>(&mut self, value: i64) -> Result<(), E> {
        match self {
            Self::Empty => *self = Self::Ints(vec![value]),
            Self::Ints(values) => values.push(value),
            #[expect(clippy::cast_precision_loss, reason = "JSON's numbers are doubles")]
            Self::Floats(values) => values.push(value as f64),
            Self::Wide(values) => match u64::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return Err(E::custom("data mixes negative numbers and numbers beyond 2^63")),
            },
            Self::Bools(_) | Self::Strings(_) => return Err(mixed()),
        }
        Ok(())
    }

    fn push_wide<E: de::Error>(&mut self, value: u64) -> Result<(), E> {
        if let Ok(value) = i64::try_from(value) {
            return self.push_int(value);
        }
        match self {
            Self::Empty => *self = Self::Wide(vec![value]),
            Self::Wide(values) => values.push(value),
            #[expect(clippy::cast_precision_loss, reason = "JSON's numbers are doubles")]
            Self::Floats(values) => values.push(value as f64),
            Self::Ints(values) => {
                let wide: Result<Vec<u64>, _> = values.iter().map(|value| u64::try_from(*value)).collect();
                let mut wide = wide.map_err(|_| E::custom("data mixes negative numbers and numbers beyond 2^63"))?;
                wide.push(value);
                *self = Self::Wide(wide);
            }
            Self::Bools(_) | Self::Strings(_) => return Err(mixed()),
        }
        Ok(())
    }

    fn push_float<E: de::Error>(&mut self, value: f64) -> Result<(), E> {
        if !matches!(self, Self::Floats(_)) {
            let values = std::mem::replace(self, Self::Empty).into_floats(DataType::Fp64).map_err(|_| mixed())?;
            *self = Self::Floats(values);
        }
        if let Self::Floats(values) = self {
            values.push(value);
        }
        Ok(())
    }

    fn push_bool<E: de::Error>(&mut self, value: bool) -> Result<(), E> {
        match self {
            Self::Empty => *self = Self::Bools(vec![value]),
            Self::Bools(values) => values.push(value),
            _ => return Err(mixed()),
        }
        Ok(())
    }

    fn push_string<E: de::Error>(&mut self, value: String) -> Result<(), E> {
        match self {
            Self::Empty => *self = Self::Strings(vec![value]),
            Self::Strings(values) => values.push(value),
            _ => return Err(mixed()),
        }
        Ok(())
    }
}

fn mixed<E: de::Error>() -> E {
    E::custom("data mixes strings, booleans and numbers")
}

/// An image in a JSON string is base64, because its bytes are no text.
fn decode_base64(text: &str) -> Result<Bytes, String> {
    let encoded = text.split_once(";base64,").filter(|_| text.starts_with("data:")).map_or(text, |(_, rest)| rest);
    STANDARD
        .decode(encoded.trim())
        .map(Bytes::from)
        .map_err(|error| format!("an image in JSON must be base64: {error}"))
}

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = Self::Empty;
        Collect { flat: &mut flat, is_nested: false }.deserialize(deserializer)?;
        Ok(flat)
    }
}

/// Adds every scalar below one place of the JSON to a column.
struct Collect<'a> {
    flat: &'a mut Flat,
    /// A scalar is a value only inside an array.
    is_nested: bool,
}

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.is_nested { deserializer.deserialize_any(self) } else { deserializer.deserialize_seq(self) }
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers, booleans or strings, nested or flat")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Collect { flat: self.flat, is_nested: true })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.flat.push_bool(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.flat.push_int(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.flat.push_wide(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.flat.push_float(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.flat.push_string(value.to_owned())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<(), E> {
        self.flat.push_string(value)
    }
}
