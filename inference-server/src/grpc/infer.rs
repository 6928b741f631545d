//! One inference, alone or in a stream.

use std::{sync::Arc, time::Instant};

use axum::http::HeaderValue;
use prost::Message as _;
use tonic::{Status, metadata::MetadataMap};

use super::{deadline::deadline, infer_request, infer_response};
use crate::{
    engine::{Call, InferError},
    http::App,
    protocol::{
        find,
        timing::{TIMING, server_timing},
    },
    telemetry::watch::Watch,
    wire::inference::{
        InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
        infer_parameter::ParameterChoice,
    },
};

/// What a call says about all of its messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// When its client stops waiting.
    deadline: Option<Instant>,
    /// Whether an error ends the stream with its status, and does not travel as an answer.
    errors_end_it: bool,
}

impl Terms {
    /// Reads a call's metadata.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Self, Status> {
        let errors_end_it = metadata.get("triton_grpc_error").is_some_and(|value| value == "true");
        Ok(Self { deadline: deadline(metadata, Instant::now())?, errors_end_it })
    }
}

/// Answers one request; the header says where its time went.
pub(super) async fn infer(
    app: &App,
    request: ModelInferRequest,
    terms: Terms,
    watch: &Watch,
) -> Result<(ModelInferResponse, HeaderValue), Status> {
    let arrived = Instant::now();
    watch.arrived(arrived, || request.encoded_len());
    let serving = find(&app.repository, &request.model_name, &request.model_version)?;
    watch.model(&serving);
    serving.engine.begin()?;
    let request = infer_request::parse(request, serving.engine.signature())?;
    watch.asked(&request.id, &request.payload, &serving);
    let left = terms.deadline.map(|deadline| deadline.saturating_duration_since(arrived));
    let wished = request.wishes.timeout;
    let timeout = left.into_iter().chain(wished).min();
    let call = Call { payload: request.payload, arrived, timeout, priority: request.wishes.priority };
    match serving.engine.infer(call).await {
        Ok(answer) => {
            watch.answered(&answer);
            let timing = server_timing(&answer);
            let response = infer_response::message(request.id, &answer, &request.outputs, &serving);
            watch.sent(|| response.encoded_len());
            Ok((response, timing))
        }
        Err(InferError::Timeout) if left.is_some() && timeout == left => {
            Err(Status::deadline_exceeded("the call's deadline passed while it waited"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Answers one request of a stream. Its error is an answer too, so that the stream goes on.
pub(super) async fn infer_in_stream(
    app: Arc<App>,
    request: ModelInferRequest,
    terms: Terms,
    watch: Watch,
) -> Result<ModelStreamInferResponse, Status> {
    let id = request.id.clone();
    let result = infer(&app, request, terms, &watch).await;
    watch.end_message(result.as_ref().err());
    match result {
        Ok((mut response, timing)) => {
            // Every model here gives one response to a request.
            let mut put = |name: &str, value| {
                response.parameters.insert(name.to_owned(), InferParameter { parameter_choice: Some(value) });
            };
            put("triton_final_response", ParameterChoice::BoolParam(true));
            // A stream's metadata is gone before its first answer.
            if let Ok(timing) = timing.to_str() {
                put(TIMING, ParameterChoice::StringParam(timing.to_owned()));
            }
            Ok(ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) })
        }
        Err(status) if terms.errors_end_it => Err(status),
        Err(status) => Ok(ModelStreamInferResponse {
            error_message: status.message().to_owned(),
            infer_response: Some(ModelInferResponse { id, ..ModelInferResponse::default() }),
        }),
    }
}
