//! What both protocols say, built once: gRPC sends the messages, HTTP writes them as JSON.

pub mod binary;
pub mod inflate;
pub mod json;
pub mod parameters;
mod statistics;
pub mod timing;

use std::sync::Arc;

pub use self::statistics::statistics;
use crate::{
    http::error::ApiError,
    model::TensorSpec,
    repository::{ModelError, Repository, Serving, State},
    wire::inference::{
        ModelMetadataResponse, RepositoryIndexResponse, ServerMetadataResponse,
        model_metadata_response::TensorMetadata, repository_index_response::ModelIndex,
    },
};

/// The extensions of KServe v2 that this server has, in Triton's words; its clients look here before they use one.
const EXTENSIONS: [&str; 5] =
    ["schedule_policy", "model_configuration", "binary_tensor_data", "parameters", "statistics"];
/// The extension that it has under explicit control.
const CONTROL: &str = "model_repository";

/// Why there is nothing to read or to set of traces and logs while the server runs.
pub const NO_TRACE_SETTINGS: &str =
    "trace settings can't be read or changed here; they are part of the server's settings";
/// The same for logs.
pub const NO_LOG_SETTINGS: &str = "log settings can't be read or changed here; they are flags of the server";

/// A version as the repository takes it: none for an empty text, which is how messages leave it out.
pub fn version(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The model that answers.
///
/// # Errors
/// When it is not there or not ready.
pub fn find(repository: &Repository, name: &str, wanted: &str) -> Result<Arc<Serving>, ModelError> {
    repository.model(name, version(wanted))
}

/// The configuration that a client loads a model with, out of the parameters of its request.
///
/// # Errors
/// When there is a parameter that this server does not have.
pub fn load_config(parameters: impl Iterator<Item = (String, Option<String>)>) -> Result<Option<String>, ApiError> {
    let mut config = None;
    for (name, value) in parameters {
        match (name.as_str(), value) {
            ("config", Some(value)) => config = Some(value),
            ("config", None) => return Err(ApiError::bad_request("the parameter 'config' must be a string")),
            (other, _) => {
                return Err(ApiError::bad_request(format!(
                    "the parameter '{other}' is not supported; only 'config' is"
                )));
            }
        }
    }
    Ok(config)
}

/// What the server is.
pub fn server_metadata(repository: &Repository) -> ServerMetadataResponse {
    let control = repository.is_controlled().then_some(CONTROL);
    ServerMetadataResponse {
        name: "flotilla-server".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: control.into_iter().chain(EXTENSIONS).map(str::to_owned).collect(),
    }
}

/// What a model takes and gives, with the batch dimension.
pub fn model_metadata(repository: &Repository, serving: &Serving) -> ModelMetadataResponse {
    let signature = serving.engine.signature();
    let tensors = |specs: &[TensorSpec]| {
        let tensor = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.data_type.name().to_owned(),
            shape: spec.wire_shape(),
        };
        specs.iter().map(tensor).collect()
    };
    ModelMetadataResponse {
        name: serving.name.clone(),
        versions: repository.versions(&serving.name),
        platform: signature.platform.to_owned(),
        inputs: tensors(&signature.inputs),
        outputs: tensors(&signature.outputs),
    }
}

/// The models of the repository, or only those that are ready.
pub fn index(repository: &Repository, only_ready: bool) -> RepositoryIndexResponse {
    let models = repository
        .index()
        .into_iter()
        .filter(|entry| !only_ready || entry.state == State::Ready)
        .map(|entry| ModelIndex {
            name: entry.name,
            version: entry.version,
            state: entry.state.name().to_owned(),
            reason: entry.reason,
        })
        .collect();
    RepositoryIndexResponse { models }
}
