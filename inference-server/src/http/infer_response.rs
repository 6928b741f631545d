//! From the engine's answer to a response: JSON, or a JSON header with binary tensors behind it.

use axum::http::HeaderName;
use bytes::Bytes;
use half::f16;
use serde::{Serialize, Serializer};

use super::{
    error::ApiError,
    infer_request::{InferRequest, RequestedOutput},
    reply::Reply,
};
use crate::{
    engine::{Answer, request::NamedTensor},
    model::Signature,
    protocol::binary,
    tensor::{Data, DataType, Tensor, elements},
};

/// The header that says where the JSON ends and the binary tensors begin.
pub(super) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How the client wants its answer.
#[derive(Debug)]
pub(super) struct Form {
    id: String,
    /// Indices of the model's outputs, and whether each is binary.
    outputs: Vec<(usize, bool)>,
}

impl Form {
    /// Takes the client's wishes out of its request.
    ///
    /// # Errors
    /// When the client asks for an output that the model does not have.
    pub(super) fn new(request: &InferRequest, model: &str, signature: &Signature) -> Result<Self, ApiError> {
        let find = |wanted: &RequestedOutput| {
            let index = signature.outputs.iter().position(|spec| spec.name == wanted.name).ok_or_else(|| {
                ApiError::bad_request(format!("unexpected inference output '{}' for model '{model}'", wanted.name))
            })?;
            Ok((index, wanted.binary.unwrap_or(request.binary_output)))
        };
        let outputs = if request.outputs.is_empty() {
            (0..signature.outputs.len()).map(|index| (index, request.binary_output)).collect()
        } else {
            request.outputs.iter().map(find).collect::<Result<_, ApiError>>()?
        };
        Ok(Self { id: request.id.clone(), outputs })
    }

    /// Writes the answer.
    pub(super) fn write(&self, answer: &Answer, model: &str, version: &str) -> Reply {
        let outputs = || self.outputs.iter().filter_map(|(at, is_binary)| Some((answer.outputs.get(*at)?, *is_binary)));
        let blobs: usize =
            outputs().filter(|output| output.1).map(|(output, _)| binary::size(&output.tensor.data)).sum();
        let mut body = Vec::with_capacity(blobs + 128 + 128 * self.outputs.len());
        body.push(b'{');
        if !self.id.is_empty() {
            field(&mut body, r#""id":"#, &self.id);
        }
        field(&mut body, r#""model_name":"#, model);
        field(&mut body, r#""model_version":"#, version);
        body.extend_from_slice(br#""outputs":["#);
        for (place, (output, is_binary)) in outputs().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            write_output(&mut body, output, is_binary);
        }
        body.extend_from_slice(b"]}");
        let header_length = (blobs > 0).then_some(body.len());
        for (output, _) in outputs().filter(|output| output.1) {
            binary::append(&output.tensor.data, &mut body);
        }
        Reply { body: Bytes::from(body), header_length }
    }
}

/// Written out, because a serializer's steps for each name take longer than all the rest.
fn write_output(body: &mut Vec<u8>, NamedTensor { name, tensor }: &NamedTensor, is_binary: bool) {
    body.push(b'{');
    field(body, r#""name":"#, name);
    field(body, r#""datatype":"#, tensor.data_type.name());
    body.extend_from_slice(br#""shape":["#);
    for (place, size) in tensor.shape.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        number(body, *size);
    }
    // Triton's C++ client takes any `parameters` for a sign of binary data, so values in JSON come without.
    if is_binary {
        body.extend_from_slice(br#"],"parameters":{"binary_data_size":"#);
        number(body, binary::size(&tensor.data));
        body.extend_from_slice(b"}}");
    } else {
        body.extend_from_slice(br#"],"data":"#);
        json(body, &Values(tensor));
        body.push(b'}');
    }
}

/// A string behind its key, and a comma.
fn field(body: &mut Vec<u8>, key: &str, text: &str) {
    body.extend_from_slice(key.as_bytes());
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        body.push(b'"');
        body.extend_from_slice(text.as_bytes());
        body.push(b'"');
    } else {
        json(body, text);
    }
    body.push(b',');
}

fn number(body: &mut Vec<u8>, number: usize) {
    body.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn json<T: Serialize + ?Sized>(body: &mut Vec<u8>, value: &T) {
    if let Err(error) = serde_json::to_writer(body, value) {
        tracing::error!(%error, "an answer can't be written");
    }
}

/// A tensor's elements as flat JSON; a number that JSON does not have is null.
pub(super) struct Values<'a>(pub(super) &'a Tensor);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = match &self.0.data {
            Data::Strings(strings) => {
                return serializer.collect_seq(strings.iter().map(|string| String::from_utf8_lossy(string)));
            }
            Data::Fixed(bytes) => bytes,
        };
        match self.0.data_type {
            DataType::Bool => serializer.collect_seq(bytes.iter().map(|byte| *byte != 0)),
            DataType::Uint8 | DataType::Bytes => serializer.collect_seq(bytes.iter()),
            DataType::Int8 => serializer.collect_seq(bytes.iter().map(|byte| byte.cast_signed())),
            DataType::Uint16 => serializer.collect_seq(elements(bytes).map(u16::from_le_bytes)),
            DataType::Int16 => serializer.collect_seq(elements(bytes).map(i16::from_le_bytes)),
            DataType::Uint32 => serializer.collect_seq(elements(bytes).map(u32::from_le_bytes)),
            DataType::Int32 => serializer.collect_seq(elements(bytes).map(i32::from_le_bytes)),
            DataType::Uint64 => serializer.collect_seq(elements(bytes).map(u64::from_le_bytes)),
            DataType::Int64 => serializer.collect_seq(elements(bytes).map(i64::from_le_bytes)),
            DataType::Fp16 => serializer.collect_seq(elements(bytes).map(|bytes| f16::from_le_bytes(bytes).to_f32())),
            DataType::Fp32 => serializer.collect_seq(elements(bytes).map(f32::from_le_bytes)),
            DataType::Fp64 => serializer.collect_seq(elements(bytes).map(f64::from_le_bytes)),
        }
    }
}
