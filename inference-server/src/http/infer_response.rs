//! From the engine's answer to a response: JSON, or a JSON header with binary tensors behind it.

use axum::http::HeaderName;
use bytes::Bytes;
use half::f16;
use serde::{Serialize, Serializer, ser::SerializeStruct};

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

#[derive(Serialize)]
struct WireResponse<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    model_name: &'a str,
    model_version: &'a str,
    outputs: Vec<WireOutput<'a>>,
}

struct WireOutput<'a> {
    output: &'a NamedTensor,
    /// The size of the blob; none for values in the JSON.
    blob: Option<usize>,
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
        let mut blobs: Vec<Bytes> = Vec::new();
        let outputs = self
            .outputs
            .iter()
            .filter_map(|(index, is_binary)| Some((answer.outputs.get(*index)?, *is_binary)))
            .map(|(output, is_binary)| {
                let blob = is_binary.then(|| {
                    let blob = binary::write(&output.tensor.data);
                    let size = blob.len();
                    blobs.push(blob);
                    size
                });
                WireOutput { output, blob }
            })
            .collect();
        let header = WireResponse { id: &self.id, model_name: model, model_version: version, outputs };
        let blob_length: usize = blobs.iter().map(Bytes::len).sum();
        let mut body = Vec::with_capacity(blob_length + 256);
        if let Err(error) = serde_json::to_writer(&mut body, &header) {
            tracing::error!(%error, "an answer can't be written");
        }
        let header_length = (blob_length > 0).then_some(body.len());
        for blob in blobs {
            body.extend_from_slice(&blob);
        }
        Reply { body: Bytes::from(body), header_length }
    }
}

impl Serialize for WireOutput<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Parameters {
            binary_data_size: usize,
        }
        let NamedTensor { name, tensor } = self.output;
        let mut output = serializer.serialize_struct("output", 4)?;
        output.serialize_field("name", name)?;
        output.serialize_field("datatype", tensor.data_type.name())?;
        output.serialize_field("shape", &tensor.shape)?;
        // Triton's C++ client takes any `parameters` for a sign of binary data, so values in JSON come without.
        match self.blob {
            Some(binary_data_size) => output.serialize_field("parameters", &Parameters { binary_data_size })?,
            None => output.serialize_field("data", &Values(tensor))?,
        }
        output.end()
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
