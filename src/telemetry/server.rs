//! The operator's own HTTP: `/metrics`, `/livez`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio_util::sync::CancellationToken;

/// What the endpoints report.
#[derive(Clone, Default)]
pub struct Health {
    /// Set once the operator has started; a standby is ready too, or a rolling update could never end.
    pub ready: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Shared {
    health: Health,
    registry: Registry,
}

/// The paths that every operator serves.
pub fn routes(registry: Registry, health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Shared { health, registry })
}

/// Serves until `shutdown`.
///
/// # Errors
/// The address can't be bound.
pub async fn serve(address: SocketAddr, routes: Router, shutdown: CancellationToken) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.health.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting: the API server has not answered yet")
    }
}

async fn metrics(State(shared): State<Shared>) -> (StatusCode, String) {
    match TextEncoder::new().encode_to_string(&shared.registry.gather()) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
