//! The model repository: which models there are, and loading and unloading them.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    App,
    body::{self, BodyLimits},
    error::{ApiError, json_response},
    pages::Target,
};
use crate::protocol::{self, json};

/// The most bytes of an order; a model's configuration has a few thousand.
const MAX_ORDER_BYTES: usize = 1 << 20;

#[derive(Default, Deserialize)]
struct IndexOrder {
    #[serde(default)]
    ready: bool,
}

#[derive(Default, Deserialize)]
struct LoadOrder {
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
}

pub(super) async fn index(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let order: IndexOrder = order(&app, request).await?;
    let index = json::of("RepositoryIndexResponse", &protocol::index(&app.repository, order.ready));
    let entries = index.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    // Over HTTP the index is the list itself.
    Ok(json_response(StatusCode::OK, &entries["models"]))
}

pub(super) async fn load(
    State(app): State<Arc<App>>,
    target: Target,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let order: LoadOrder = order(&app, request).await?;
    let parameters = order.parameters.into_iter().map(|(name, value)| match value {
        Value::String(text) => (name, Some(text)),
        _ => (name, None),
    });
    app.repository.load(&target.model, protocol::load_config(parameters)?).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn unload(State(app): State<Arc<App>>, target: Target) -> Result<StatusCode, ApiError> {
    app.repository.unload(&target.model).await?;
    Ok(StatusCode::OK)
}

/// The JSON of a small body; an empty one asks for nothing special.
async fn order<T: DeserializeOwned + Default>(app: &App, request: Request) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, &app.budget, BodyLimits::new(MAX_ORDER_BYTES)).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("failed to parse the request JSON: {error}")))
}
