//! From the engine's answer to a message. Tensors are always in `raw_output_contents`, as Triton's are.

use crate::{
    engine::Answer,
    protocol::binary,
    repository::Serving,
    wire::inference::{ModelInferResponse, model_infer_response::InferOutputTensor},
};

/// Writes an answer with the outputs of these indices.
pub(super) fn message(id: String, answer: &Answer, outputs: &[usize], serving: &Serving) -> ModelInferResponse {
    let chosen = || outputs.iter().filter_map(|index| answer.outputs.get(*index));
    ModelInferResponse {
        model_name: serving.name.clone(),
        model_version: serving.version.clone(),
        id,
        outputs: chosen()
            .map(|output| InferOutputTensor {
                name: output.name.clone(),
                datatype: output.tensor.data_type.name().to_owned(),
                shape: output.tensor.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
                ..InferOutputTensor::default()
            })
            .collect(),
        raw_output_contents: chosen().map(|output| binary::write(&output.tensor.data)).collect(),
        ..ModelInferResponse::default()
    }
}
