//! From a message to the engine's payload.
//!
//! The tensors' bytes lie in `raw_input_contents`, in the order of the inputs, or typed in each input's `contents`; not in both.

use axum::http::StatusCode;
use bytes::Bytes;

use crate::{
    engine::request::{NamedTensor, Payload, element_count},
    http::error::ApiError,
    model::Signature,
    protocol::{
        binary,
        parameters::{self, Value, Wishes},
    },
    tensor::{Data, DataType, Tensor, little_endian},
    wire::inference::{
        InferParameter, InferTensorContents, ModelInferRequest,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InferRequest {
    /// Given back in the answer.
    pub(super) id: String,
    /// What the model gets.
    pub(super) payload: Payload,
    /// Indices of the model's outputs, in the order that the client wants.
    pub(super) outputs: Vec<usize>,
    /// How long it may wait, and how urgent it is.
    pub(super) wishes: Wishes,
}

/// Reads a message for a model.
///
/// # Errors
/// A client error that says what is wrong.
pub(super) fn parse(request: ModelInferRequest, signature: &Signature) -> Result<InferRequest, ApiError> {
    let ModelInferRequest { model_name, id, parameters, inputs, outputs, raw_input_contents, .. } = request;
    let wishes = parameters::read(parameters.iter().map(|(name, value)| (name.as_str(), neutral(value))))
        .map_err(ApiError::bad_request)?;
    let is_raw = !raw_input_contents.is_empty();
    if is_raw && raw_input_contents.len() != inputs.len() {
        return Err(ApiError::bad_request(format!(
            "expected {} entries of raw_input_contents, one for each input, but got {} for model '{model_name}'",
            inputs.len(),
            raw_input_contents.len()
        )));
    }
    let blobs = raw_input_contents.into_iter().map(Some).chain(std::iter::repeat(None));
    let tensors = inputs.into_iter().zip(blobs).map(|(input, blob)| tensor(input, blob)).collect::<Result<_, _>>()?;
    Ok(InferRequest {
        id,
        payload: Payload::Tensors(tensors),
        outputs: wanted(&outputs, &model_name, signature)?,
        wishes,
    })
}

fn neutral(parameter: &InferParameter) -> Value<'_> {
    match &parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Value::Bool(*value),
        Some(ParameterChoice::Int64Param(value)) => Value::Int(i128::from(*value)),
        Some(ParameterChoice::Uint64Param(value)) => Value::Int(i128::from(*value)),
        Some(ParameterChoice::StringParam(value)) => Value::Text(value),
        Some(ParameterChoice::DoubleParam(value)) => Value::Double(*value),
        None => Value::Other,
    }
}

fn wanted(outputs: &[InferRequestedOutputTensor], model: &str, signature: &Signature) -> Result<Vec<usize>, ApiError> {
    if outputs.is_empty() {
        return Ok((0..signature.outputs.len()).collect());
    }
    let find =
        |output: &InferRequestedOutputTensor| {
            let name = &output.name;
            for parameter in ["classification", "shared_memory_region"] {
                if output.parameters.contains_key(parameter) {
                    return Err(ApiError::new(
                        StatusCode::BAD_REQUEST,
                        format!(
                            "the parameter '{parameter}' of output '{name}' is not supported; ask for the plain output"
                        ),
                    ));
                }
            }
            signature.outputs.iter().position(|spec| spec.name == *name).ok_or_else(|| {
                ApiError::bad_request(format!("unexpected inference output '{name}' for model '{model}'"))
            })
        };
    outputs.iter().map(find).collect()
}

fn tensor(input: InferInputTensor, blob: Option<Bytes>) -> Result<NamedTensor, ApiError> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    let bad = |problem: String| ApiError::bad_request(format!("input '{name}': {problem}"));
    let data_type =
        DataType::from_name(&datatype).ok_or_else(|| bad(format!("the datatype '{datatype}' is not supported")))?;
    let shape: Vec<usize> = shape
        .iter()
        .map(|size| usize::try_from(*size).map_err(|_| bad(format!("the shape {shape:?} has a negative dimension"))))
        .collect::<Result<_, _>>()?;
    let count = element_count(&shape).ok_or_else(|| bad(format!("the shape {shape:?} is too large")))?;
    if parameters.contains_key("shared_memory_region") {
        return Err(bad("shared memory is not supported; send the data in the message".to_owned()));
    }
    let contents = contents.unwrap_or_default();
    let data = match blob {
        Some(_) if contents != InferTensorContents::default() => {
            return Err(bad("must not have 'contents' when the request has raw_input_contents".to_owned()));
        }
        Some(blob) => binary::read(blob, data_type, count).map_err(&bad)?,
        None => typed(contents, data_type, count).map_err(&bad)?,
    };
    Ok(NamedTensor { name, tensor: Tensor { data_type, shape, data } })
}

/// Takes typed values; each type has a field, and the narrow ones share that of the next wider.
fn typed(contents: InferTensorContents, data_type: DataType, count: usize) -> Result<Data, String> {
    macro_rules! narrow {
        ($values:expr, $type:ty) => {{
            let values: Result<Vec<$type>, _> = $values.into_iter().map(<$type>::try_from).collect();
            let values = values.map_err(|_| format!("a value does not fit into {}", data_type.name()))?;
            (values.len(), little_endian(&values, <$type>::to_le_bytes))
        }};
    }
    macro_rules! plain {
        ($values:expr, $type:ty) => {
            ($values.len(), little_endian(&$values, <$type>::to_le_bytes))
        };
    }
    let (given, data) = match data_type {
        DataType::Bool => {
            (contents.bool_contents.len(), little_endian(&contents.bool_contents, |value| [u8::from(value)]))
        }
        DataType::Int8 => narrow!(contents.int_contents, i8),
        DataType::Int16 => narrow!(contents.int_contents, i16),
        DataType::Int32 => plain!(contents.int_contents, i32),
        DataType::Int64 => plain!(contents.int64_contents, i64),
        DataType::Uint8 => narrow!(contents.uint_contents, u8),
        DataType::Uint16 => narrow!(contents.uint_contents, u16),
        DataType::Uint32 => plain!(contents.uint_contents, u32),
        DataType::Uint64 => plain!(contents.uint64_contents, u64),
        DataType::Fp32 => plain!(contents.fp32_contents, f32),
        DataType::Fp64 => plain!(contents.fp64_contents, f64),
        DataType::Bytes => (contents.bytes_contents.len(), Data::Strings(contents.bytes_contents)),
        DataType::Fp16 => return Err("FP16 has no typed form; send it in raw_input_contents".to_owned()),
    };
    if given == count {
        Ok(data)
    } else {
        Err(format!(
            "unexpected number of elements {given} in 'contents' for {}, its shape needs {count}",
            data_type.name()
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::TensorSpec;

    fn signature() -> Signature {
        let spec = |name: &str| TensorSpec { name: name.to_owned(), data_type: DataType::Fp32, dims: vec![None] };
        Signature { inputs: vec![spec("x")], outputs: vec![spec("y"), spec("z")], platform: "test" }
    }

    fn request(
        datatype: &str,
        shape: &[i64],
        contents: Option<InferTensorContents>,
        raw: &[&[u8]],
    ) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "m".to_owned(),
            inputs: vec![InferInputTensor {
                name: "x".to_owned(),
                datatype: datatype.to_owned(),
                shape: shape.to_vec(),
                contents,
                ..InferInputTensor::default()
            }],
            raw_input_contents: raw.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect(),
            ..ModelInferRequest::default()
        }
    }

    fn data(request: ModelInferRequest) -> Result<Data, String> {
        let parsed = parse(request, &signature()).map_err(|error| error.message)?;
        let Payload::Tensors(mut tensors) = parsed.payload else { panic!("tensors") };
        Ok(tensors.remove(0).tensor.data)
    }

    #[test]
    fn raw_bytes_are_not_copied() {
        let request = request("FP32", &[2], None, &[b"abcdefgh"]);
        let before = request.raw_input_contents[0].as_ptr();
        let Ok(Data::Fixed(bytes)) = data(request) else { panic!("bytes") };
        assert_eq!(bytes.as_ptr(), before);
    }

    #[test]
    fn typed_values_become_the_type() {
        let ints = |values: &[i32]| InferTensorContents { int_contents: values.to_vec(), ..Default::default() };
        let fixed = |bytes: &[u8]| Ok(Data::Fixed(Bytes::copy_from_slice(bytes)));
        assert_eq!(data(request("INT8", &[2], Some(ints(&[-1, 1])), &[])), fixed(&[255, 1]));
        assert_eq!(data(request("INT16", &[1], Some(ints(&[-2])), &[])), fixed(&[254, 255]));
        let strings = InferTensorContents { bytes_contents: vec![Bytes::from_static(b"a")], ..Default::default() };
        assert_eq!(data(request("BYTES", &[1], Some(strings), &[])), Ok(Data::Strings(vec![Bytes::from_static(b"a")])));
        let both = Some(ints(&[1]));
        for (request, part) in [
            (request("INT8", &[1], Some(ints(&[128])), &[]), "does not fit into INT8"),
            (request("INT32", &[2], Some(ints(&[1])), &[]), "unexpected number of elements 1"),
            (request("FP32", &[1], Some(ints(&[1])), &[]), "unexpected number of elements 0"),
            (request("FP16", &[1], Some(ints(&[1])), &[]), "no typed form"),
            (request("INT32", &[1], both, &[b"abcd"]), "must not have 'contents'"),
            (request("FP32", &[1], None, &[b"abcd", b"abcd"]), "expected 1 entries of raw_input_contents"),
            (request("FP32", &[1], None, &[b"abc"]), "are not 3 bytes"),
            (request("FP32", &[-1], None, &[b"abcd"]), "negative dimension"),
            (request("FP32", &[i64::MAX, 4], None, &[b"abcd"]), "too large"),
            (request("FP99", &[1], None, &[b"abcd"]), "'FP99' is not supported"),
            (request("BYTES", &[1], None, &[b"\xff\xff\xff\xff"]), "has only 0 left"),
        ] {
            let error = data(request).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }

    #[test]
    fn outputs_and_parameters_are_the_client_s_choice() {
        let output = |name: &str, parameter: Option<&str>| InferRequestedOutputTensor {
            name: name.to_owned(),
            parameters: parameter.map(|name| (name.to_owned(), InferParameter::default())).into_iter().collect(),
        };
        let with = |outputs: Vec<InferRequestedOutputTensor>| {
            let parameters = BTreeMap::from([(
                "priority".to_owned(),
                InferParameter { parameter_choice: Some(ParameterChoice::Uint64Param(3)) },
            )]);
            parse(ModelInferRequest { outputs, parameters, ..request("FP32", &[1], None, &[b"abcd"]) }, &signature())
        };
        let parsed = with(vec![output("z", Some("binary_data"))]).unwrap();
        assert_eq!((parsed.outputs, parsed.wishes.priority), (vec![1], 3));
        assert_eq!(with(vec![]).unwrap().outputs, [0, 1]);
        for (outputs, part) in [
            (vec![output("w", None)], "unexpected inference output 'w'"),
            (vec![output("y", Some("classification"))], "'classification' of output 'y' is not supported"),
        ] {
            let error = with(outputs).unwrap_err().message;
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_panics(
            datatype in prop::sample::select(vec!["FP32", "FP16", "BYTES", "BOOL", "UINT64", "INT8", "X"]),
            shape in prop::collection::vec(any::<i64>(), 0..4),
            ints in prop::collection::vec(any::<i32>(), 0..4),
            raw in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..3),
        ) {
            let contents = InferTensorContents { int_contents: ints, ..Default::default() };
            let raw: Vec<&[u8]> = raw.iter().map(Vec::as_slice).collect();
            drop(parse(request(datatype, &shape, Some(contents), &raw), &signature()));
        }
    }
}
