//! Everything that is read and not inferred: health, metadata, configuration and statistics.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    App,
    error::{ApiError, json_response},
};
use crate::{
    config::text,
    metrics::Metrics,
    model::TensorSpec,
    repository::{ModelError, Serving},
};

/// The model that a path names; extracting it is the check that it is one of the server's.
pub(super) struct Target {
    model: String,
    serving: Option<Arc<Serving>>,
}

impl Target {
    /// The model, when it is ready.
    pub(super) fn serving(self) -> Result<Arc<Serving>, ApiError> {
        self.serving.ok_or_else(ApiError::not_ready)
    }
}

impl FromRequestParts<Arc<App>> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Path(mut path) = Path::<HashMap<String, String>>::from_request_parts(parts, app)
            .await
            .map_err(|error| ApiError::bad_request(error.body_text()))?;
        let model = path.remove("model").unwrap_or_default();
        let version = path.get("version").map(String::as_str);
        if version.is_some_and(|version| version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(ApiError::new(StatusCode::NOT_FOUND, "Not Found"));
        }
        let serving = match app.repository.model(&model, version) {
            Ok(serving) => Some(serving),
            Err(ModelError::NotReady) => None,
            Err(unknown) => return Err(ApiError::bad_request(unknown.to_string())),
        };
        Ok(Self { model, serving })
    }
}

pub(super) async fn server() -> Response {
    let extensions = ["binary_tensor_data", "model_configuration", "parameters", "statistics"];
    json_response(
        StatusCode::OK,
        &json!({"name": "flotilla-server", "version": env!("CARGO_PKG_VERSION"), "extensions": extensions}),
    )
}

pub(super) async fn live(State(app): State<Arc<App>>) -> Response {
    let is_live = app.repository.is_live();
    health(is_live, &json!({"live": is_live}))
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let is_ready = app.is_ready();
    health(is_ready, &json!({"ready": is_ready}))
}

pub(super) async fn model_ready(State(app): State<Arc<App>>, target: Target) -> Response {
    let is_ready = app.takes_requests() && target.serving.is_some_and(|serving| serving.engine.is_alive());
    health(is_ready, &json!({"name": target.model, "ready": is_ready}))
}

fn health(is_good: bool, body: &Value) -> Response {
    json_response(if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

pub(super) async fn metadata(target: Target) -> Result<Response, ApiError> {
    let serving = target.serving()?;
    let signature = serving.engine.signature();
    let tensors = |specs: &[TensorSpec]| -> Vec<Value> {
        specs
            .iter()
            .map(|spec| json!({"name": spec.name, "datatype": spec.data_type.name(), "shape": spec.wire_shape()}))
            .collect()
    };
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "name": serving.name,
            "versions": [serving.version],
            "platform": signature.platform,
            "inputs": tensors(&signature.inputs),
            "outputs": tensors(&signature.outputs),
        }),
    ))
}

/// The model's configuration with everything filled in.
pub(super) async fn config(target: Target) -> Result<Response, ApiError> {
    let config = text::to_json(&target.serving()?.config)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(json_response(StatusCode::OK, &config))
}

pub(super) async fn statistics(target: Target) -> Result<Response, ApiError> {
    let statistics = statistics_of(&*target.serving()?);
    Ok(json_response(StatusCode::OK, &json!({"model_stats": [statistics]})))
}

pub(super) async fn all_statistics(State(app): State<Arc<App>>) -> Response {
    let statistics: Vec<Value> = app.repository.servings().iter().map(|serving| statistics_of(serving)).collect();
    json_response(StatusCode::OK, &json!({"model_stats": statistics}))
}

/// Triton's statistics; its clients read every one of these numbers.
fn statistics_of(serving: &Serving) -> Value {
    let metrics: &Metrics = serving.engine.metrics();
    let success = metrics.request_success.get();
    let micros = |sum: u64| json!({"count": success, "ns": sum.saturating_mul(1000)});
    let none = json!({"count": 0, "ns": 0});
    let batches: Vec<Value> = metrics
        .batches()
        .into_iter()
        .map(|(batch_size, times)| {
            let part = |time: Duration| json!({"count": times.count, "ns": u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)});
            json!({
                "batch_size": batch_size,
                "compute_input": part(times.input),
                "compute_infer": part(times.infer),
                "compute_output": part(times.output),
            })
        })
        .collect();
    json!({
        "name": serving.name,
        "version": serving.version,
        "last_inference": 0,
        "inference_count": metrics.inference_count.get(),
        "execution_count": metrics.exec_count.get(),
        "inference_stats": {
            "success": micros(metrics.request_duration_us.get()),
            "fail": {"count": metrics.failures(), "ns": 0},
            "queue": micros(metrics.queue_duration_us.get()),
            "compute_input": micros(metrics.compute_input_duration_us.get()),
            "compute_infer": micros(metrics.compute_infer_duration_us.get()),
            "compute_output": micros(metrics.compute_output_duration_us.get()),
            "cache_hit": none,
            "cache_miss": none,
        },
        "response_stats": {},
        "batch_stats": batches,
    })
}
