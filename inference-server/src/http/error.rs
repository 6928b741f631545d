//! Errors on the wire: always `{"error": "..."}`, with the status that a client can act on.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use crate::{engine::InferError, repository::ModelError, telemetry::watch::Reason};

/// When to try again, where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// The sentence.
    pub message: String,
    /// When another attempt has a chance, where that is known.
    pub delay: Option<Duration>,
}

impl ApiError {
    /// An answer with any status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), delay: None }
    }

    /// The client's fault.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// What this server does not have.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// When to try again, where that can help: another replica, or this one in a moment, may well answer.
    pub fn retry_after(&self) -> Option<Duration> {
        matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
            .then(|| self.delay.unwrap_or(RETRY_AFTER))
    }
}

impl From<InferError> for ApiError {
    fn from(error: InferError) -> Self {
        let (status, delay) = match error {
            InferError::Invalid(_) => (StatusCode::BAD_REQUEST, None),
            InferError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, None),
            InferError::QueueFull { retry_after } => (StatusCode::TOO_MANY_REQUESTS, Some(retry_after)),
            InferError::Timeout | InferError::Draining | InferError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, None),
            InferError::Backend(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        Self { status, message: error.to_string(), delay }
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        let status = match error {
            // A load fails for the model's files, or for the configuration that came with the order.
            ModelError::Unknown(_) | ModelError::UnknownVersion(..) | ModelError::LoadFailed { .. } => {
                StatusCode::BAD_REQUEST
            }
            ModelError::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            ModelError::ControlDisabled => StatusCode::FORBIDDEN,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &json!({"error": &self.message}));
        if let Some(delay) = self.retry_after() {
            // The header knows whole seconds; 0 would mean "at once".
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response.extensions_mut().insert(Reason(self.message));
        response
    }
}

/// An answer in JSON.
pub fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
