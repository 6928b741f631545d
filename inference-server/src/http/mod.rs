//! KServe v2 over HTTP, with Triton's routes, texts and binary tensors.
//!
//! Handlers parse, call the engine and format; what is common to protocols is in [`crate::engine`].

pub mod body;
pub mod connections;
mod control;
mod embed;
pub mod error;
mod fast_path;
mod flat;
mod infer;
mod infer_request;
mod infer_response;
mod pages;
mod reply;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use tokio::sync::Semaphore;

use self::{body::BodyBudget, connections::Service, error::ApiError};
use crate::{
    repository::{ModelError, Repository},
    telemetry::Telemetry,
};

/// What the handlers share.
pub struct App {
    /// The models.
    pub repository: Arc<Repository>,
    /// What is told of requests.
    pub telemetry: Arc<Telemetry>,
    /// The most bytes in one body.
    pub max_body_bytes: usize,
    /// The bytes of all bodies.
    pub budget: Arc<BodyBudget>,
    /// Places for reading large JSON, which takes several times its size in memory, and a core for a while.
    pub large_json: Semaphore,
    /// Whether the server is on its way out: not ready, and answering with `Connection: close`.
    pub is_leaving: AtomicBool,
}

impl App {
    /// The state of a server.
    pub fn new(repository: Arc<Repository>, telemetry: Arc<Telemetry>, max_body_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            repository,
            telemetry,
            max_body_bytes,
            // A full body for each of eight clients; smaller ones share.
            budget: BodyBudget::new(max_body_bytes.saturating_mul(8)),
            large_json: Semaphore::new(2),
            is_leaving: AtomicBool::new(false),
        })
    }

    /// Whether requests may be sent here.
    pub fn is_ready(&self) -> bool {
        self.takes_requests() && self.repository.is_ready()
    }

    /// Whether requests for a model may be sent here.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn is_model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, ModelError> {
        match self.repository.model(name, version) {
            Ok(serving) => Ok(self.takes_requests() && serving.engine.is_alive()),
            Err(ModelError::NotReady) => Ok(false),
            Err(unknown) => Err(unknown),
        }
    }

    fn takes_requests(&self) -> bool {
        !self.is_leaving.load(Ordering::Acquire)
    }
}

/// The inference port, with the fast path.
pub fn service(app: Arc<App>) -> Service {
    Service::with_fast_path(router(Arc::clone(&app)), app)
}

/// The inference port.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/v2", get(pages::server))
        .route("/v2/health/live", get(pages::live))
        .route("/v2/health/ready", get(pages::ready))
        .route("/v2/models/stats", get(pages::all_statistics))
        .route("/v2/repository/index", post(control::index))
        .route("/v2/repository/models/{model}/load", post(control::load))
        .route("/v2/repository/models/{model}/unload", post(control::unload))
        .route("/v2/trace/setting", get(pages::trace_settings).post(pages::trace_settings))
        .route("/v2/logging", get(pages::log_settings).post(pages::log_settings))
        .route("/v1/embed", post(embed::embed));
    for prefix in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        router = router
            .route(prefix, get(pages::metadata))
            .route(&format!("{prefix}/ready"), get(pages::model_ready))
            .route(&format!("{prefix}/config"), get(pages::config))
            .route(&format!("{prefix}/stats"), get(pages::statistics))
            .route(&format!("{prefix}/infer"), post(infer::infer))
            .route(&format!("{prefix}/trace/setting"), get(pages::trace_settings).post(pages::trace_settings));
    }
    for memory in ["/v2/systemsharedmemory", "/v2/cudasharedmemory"] {
        router = router
            .route(&format!("{memory}/status"), get(pages::no_regions))
            .route(&format!("{memory}/unregister"), post(pages::forget_region))
            .route(&format!("{memory}/region/{{region}}/status"), get(pages::no_regions))
            .route(&format!("{memory}/region/{{region}}/register"), post(pages::register_region))
            .route(&format!("{memory}/region/{{region}}/unregister"), post(pages::forget_region));
    }
    with_errors(router).with_state(app)
}

/// The metrics port.
pub fn metrics_router(app: Arc<App>) -> Router {
    with_errors(Router::new().route("/metrics", get(metrics_page))).with_state(app)
}

/// What the router itself refuses is an error like all others.
fn with_errors(router: Router<Arc<App>>) -> Router<Arc<App>> {
    router
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "Not Found"))
        .method_not_allowed_fallback(async || ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
}

async fn metrics_page(State(app): State<Arc<App>>) -> Response {
    let mut response = Body::from(app.repository.metrics_page() + &app.telemetry.page()).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
