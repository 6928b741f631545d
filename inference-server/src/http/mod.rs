//! KServe v2 over HTTP, with Triton's routes, texts and binary tensors.
//!
//! Handlers parse, call the engine and format; what is common to protocols is in [`crate::engine`].

pub mod body;
pub mod connections;
pub mod error;
mod flat;
mod infer_request;
mod infer_response;
mod pages;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use bytes::Bytes;
use tokio::sync::Semaphore;

use self::{
    body::{BodyBudget, BodyLimits},
    error::ApiError,
    infer_request::InferRequest,
    infer_response::Form,
    pages::Target,
};
use crate::{
    engine::{Call, Images},
    repository::Repository,
};

/// JSON beyond this size takes milliseconds to parse.
const LARGE_JSON: usize = 256 * 1024;

/// What the handlers share.
pub struct App {
    /// The models.
    pub repository: Arc<Repository>,
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
    pub fn new(repository: Arc<Repository>, max_body_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            repository,
            max_body_bytes,
            // A full body for each of eight clients; smaller ones share.
            budget: BodyBudget::new(max_body_bytes.saturating_mul(8)),
            large_json: Semaphore::new(2),
            is_leaving: AtomicBool::new(false),
        })
    }

    fn is_ready(&self) -> bool {
        self.takes_requests() && self.repository.is_ready()
    }

    fn takes_requests(&self) -> bool {
        !self.is_leaving.load(Ordering::Acquire)
    }
}

/// The inference port.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/v2", get(pages::server))
        .route("/v2/health/live", get(pages::live))
        .route("/v2/health/ready", get(pages::ready))
        .route("/v2/models/stats", get(pages::all_statistics));
    for prefix in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        router = router
            .route(prefix, get(pages::metadata))
            .route(&format!("{prefix}/ready"), get(pages::model_ready))
            .route(&format!("{prefix}/config"), get(pages::config))
            .route(&format!("{prefix}/stats"), get(pages::statistics))
            .route(&format!("{prefix}/infer"), post(infer));
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

async fn infer(State(app): State<Arc<App>>, target: Target, request: Request) -> Result<Response, ApiError> {
    let serving = target.serving()?;
    serving.engine.begin()?;
    let (parts, body) = request.into_parts();
    let kind = BodyKind::of(&parts.headers)?;
    let body = body::read(&parts.headers, body, &app.budget, BodyLimits::new(app.max_body_bytes)).await?;
    let arrived = Instant::now();
    let takes_images = !matches!(serving.engine.config().images, Images::Refused);
    let request = match kind {
        BodyKind::Image if takes_images => infer_request::image(body),
        BodyKind::Image => {
            let message = format!("the model '{}' has no preprocessing and takes no images", serving.name);
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        BodyKind::Tensors { header_length } => parse(&app, body, header_length, takes_images).await?,
    };
    let form = Form::new(&request, &serving.name, serving.engine.signature())?;
    let InferRequest { payload, timeout_microseconds, .. } = request;
    let timeout = timeout_microseconds.map(Duration::from_micros);
    let answer = serving.engine.infer(Call { payload, arrived, timeout, priority: 0 }).await?;
    Ok(form.respond(&answer, &serving.name, &serving.version))
}

/// Parses a body: a small one here, a large JSON on a thread of its own, so that health probes are answered meanwhile.
async fn parse(
    app: &App,
    body: Bytes,
    header_length: Option<usize>,
    takes_images: bool,
) -> Result<InferRequest, ApiError> {
    if header_length.unwrap_or(body.len()) <= LARGE_JSON {
        return infer_request::parse(&body, header_length, takes_images);
    }
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the request could not be read: {error}"))
    };
    let _place = app.large_json.acquire().await.map_err(|error| failed(&error))?;
    tokio::task::spawn_blocking(move || infer_request::parse(&body, header_length, takes_images))
        .await
        .map_err(|error| failed(&error))?
}

/// What a body is, by its headers.
enum BodyKind {
    /// An image file.
    Image,
    /// JSON, with binary tensors behind it where there is a header length.
    Tensors { header_length: Option<usize> },
}

impl BodyKind {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "image/jpeg" | "image/png" | "image/webp" => return Ok(Self::Image),
            other if other.starts_with("image/") => {
                let message =
                    format!("the Content-Type {other} is not supported; send image/jpeg, image/png or image/webp");
                return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
            }
            _ => {}
        }
        let Some(value) = headers.get(infer_response::HEADER_LENGTH) else {
            return Ok(Self::Tensors { header_length: None });
        };
        let length = value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            ApiError::bad_request(format!("Inference-Header-Content-Length must be a number of bytes, got {value:?}"))
        })?;
        Ok(Self::Tensors { header_length: Some(length) })
    }
}

async fn metrics_page(State(app): State<Arc<App>>) -> Response {
    let mut response = Body::from(app.repository.metrics_page()).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
