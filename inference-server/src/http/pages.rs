//! Everything that is read and not inferred: health, metadata, configuration and statistics.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, RawPathParams, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
};
use prost::Message;
use serde_json::{Value, json};

use super::{
    App,
    error::{ApiError, json_response},
};
use crate::{
    config::text,
    protocol::{self, json},
    repository::Serving,
    wire::inference::ModelStatisticsResponse,
};

/// The model that a path names.
pub(super) struct Target {
    pub(super) model: String,
    pub(super) version: Option<String>,
}

impl Target {
    /// The model, when it is there and ready.
    pub(super) fn serving(&self, app: &App) -> Result<Arc<Serving>, ApiError> {
        Ok(app.repository.model(&self.model, self.version.as_deref())?)
    }
}

impl FromRequestParts<Arc<App>> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let path = RawPathParams::from_request_parts(parts, app)
            .await
            .map_err(|error| ApiError::bad_request(error.body_text()))?;
        let find = |wanted: &str| path.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
        let version = find("version");
        if version.as_ref().is_some_and(|version| !version.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(ApiError::new(StatusCode::NOT_FOUND, "Not Found"));
        }
        Ok(Self { model: find("model").unwrap_or_default(), version })
    }
}

/// A message as the answer.
pub(super) fn message(name: &str, message: &impl Message) -> Response {
    match json::of(name, message) {
        Ok(json) => json_response(StatusCode::OK, &json),
        Err(error) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer can't be written: {error}"))
            .into_response(),
    }
}

pub(super) async fn server(State(app): State<Arc<App>>) -> Response {
    message("ServerMetadataResponse", &protocol::server_metadata(&app.repository))
}

pub(super) async fn live(State(app): State<Arc<App>>) -> Response {
    let is_live = app.repository.is_live();
    health(is_live, &json!({"live": is_live}))
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let is_ready = app.is_ready();
    health(is_ready, &json!({"ready": is_ready}))
}

pub(super) async fn model_ready(State(app): State<Arc<App>>, target: Target) -> Result<Response, ApiError> {
    let is_ready = app.is_model_ready(&target.model, target.version.as_deref())?;
    Ok(health(is_ready, &json!({"name": target.model, "ready": is_ready})))
}

fn health(is_good: bool, body: &Value) -> Response {
    json_response(if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

pub(super) async fn metadata(State(app): State<Arc<App>>, target: Target) -> Result<Response, ApiError> {
    Ok(message("ModelMetadataResponse", &protocol::model_metadata(&app.repository, &*target.serving(&app)?)))
}

pub(super) async fn config(State(app): State<Arc<App>>, target: Target) -> Result<Response, ApiError> {
    let config = text::to_json(&target.serving(&app)?.config)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(json_response(StatusCode::OK, &config))
}

pub(super) async fn statistics(State(app): State<Arc<App>>, target: Target) -> Result<Response, ApiError> {
    Ok(statistics_of(&[target.serving(&app)?]))
}

pub(super) async fn all_statistics(State(app): State<Arc<App>>) -> Response {
    statistics_of(&app.repository.servings())
}

fn statistics_of(servings: &[Arc<Serving>]) -> Response {
    let model_stats = servings.iter().map(|serving| protocol::statistics(serving)).collect();
    message("ModelStatisticsResponse", &ModelStatisticsResponse { model_stats })
}

/// There are no regions of shared memory.
pub(super) async fn no_regions() -> Response {
    json_response(StatusCode::OK, &json!([]))
}

/// So there is nothing to forget, which is what clients want who tidy up before they begin.
pub(super) async fn forget_region() -> StatusCode {
    StatusCode::OK
}

pub(super) async fn register_region() -> ApiError {
    ApiError::unsupported("shared memory is not supported; send the data in the body")
}

pub(super) async fn trace_settings() -> ApiError {
    ApiError::unsupported(protocol::NO_TRACE_SETTINGS)
}

pub(super) async fn log_settings() -> ApiError {
    ApiError::unsupported(protocol::NO_LOG_SETTINGS)
}
