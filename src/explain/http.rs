//! `/debug/scaling` of the operator's HTTP server: read-only, and only the leader knows anything.
//!
//! Errors are a Kubernetes `Status`, so that they come through the API server's proxy to `kubectl` and clients as any other.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use serde_json::json;

use super::records::Records;
use super::schema::{Explanation, Summaries, Summary, VERSION};

/// The reason of an operator that stands by.
pub const NOT_LEADING: &str = "NotLeading";
/// The reason where nothing was decided about a service.
pub const NO_DECISION: &str = "NoDecision";

/// The paths `/debug/scaling`, `/debug/scaling/NAMESPACE` and `/debug/scaling/NAMESPACE/NAME`.
pub fn router(records: Arc<Records>) -> Router {
    Router::new()
        .route("/debug/scaling", get(all))
        .route("/debug/scaling/{namespace}", get(of_namespace))
        .route("/debug/scaling/{namespace}/{name}", get(one))
        .with_state(records)
}

async fn all(State(records): State<Arc<Records>>) -> Response {
    summaries(&records, None)
}

async fn of_namespace(State(records): State<Arc<Records>>, Path(namespace): Path<String>) -> Response {
    summaries(&records, Some(&namespace))
}

async fn one(State(records): State<Arc<Records>>, Path((namespace, name)): Path<(String, String)>) -> Response {
    match records.get(&namespace, &name) {
        Some(record) => answer(StatusCode::OK, &Explanation::new(&namespace, &name, &record)),
        None if records.is_leading() => problem(
            StatusCode::NOT_FOUND,
            NO_DECISION,
            &format!(
                "nothing was decided about InferenceService {namespace}/{name}: there is none that this operator \
                 serves, its spec is invalid, or it is new"
            ),
        ),
        None => standby(),
    }
}

fn summaries(records: &Records, namespace: Option<&str>) -> Response {
    if !records.is_leading() {
        return standby();
    }
    let services = records.all(namespace).into_iter();
    let services = services.map(|((namespace, name), record)| Summary::new(namespace, name, &record)).collect();
    answer(StatusCode::OK, &Summaries { version: VERSION, services })
}

fn standby() -> Response {
    problem(StatusCode::MISDIRECTED_REQUEST, NOT_LEADING, "this operator stands by: ask the one that the Lease names")
}

fn problem(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message,
    });
    answer(code, &status)
}

fn answer(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => (code, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
