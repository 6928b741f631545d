//! One inference: tensors, or images for a model that takes them.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;

use super::{
    App,
    body::{self, BodyLimits},
    error::ApiError,
    infer_request::{self, InferRequest},
    infer_response::{self, Form},
    pages::Target,
    reply::{self, Reply},
};
use crate::{
    engine::{Answer, Call, Images},
    protocol::{
        inflate::Encoding,
        timing::{SERVER_TIMING, server_timing},
    },
    repository::Serving,
    telemetry::watch::Watch,
};

/// JSON beyond this size takes milliseconds to parse.
const LARGE_JSON: usize = 256 * 1024;

pub(super) async fn infer(State(app): State<Arc<App>>, target: Target, request: Request) -> Result<Response, ApiError> {
    let serving = target.serving(&app)?;
    serving.engine.begin()?;
    let (parts, body) = request.into_parts();
    let watch = Watch::of(&parts.extensions);
    watch.model(&serving);
    let value = |name: HeaderName| parts.headers.get(name).map(HeaderValue::as_bytes);
    let kind = BodyKind::of(value(header::CONTENT_TYPE), value(infer_response::HEADER_LENGTH))?;
    let body = body::read(&parts.headers, body, &app.budget, BodyLimits::new(app.max_body_bytes)).await?;
    let answered = answer(&app, &serving, kind, body, &watch).await?;
    Ok(answered.respond(reply::accepted(&parts.headers)).await)
}

/// A model's answer, and what is sent of it.
pub(super) struct Answered {
    /// The body.
    pub(super) reply: Reply,
    /// What it took.
    pub(super) answer: Answer,
}

impl Answered {
    /// Makes a response of it, compressed if that is worth the while.
    pub(super) async fn respond(self, encoding: Option<Encoding>) -> Response {
        let mut response = reply::respond(self.reply, encoding).await;
        response.headers_mut().insert(SERVER_TIMING, server_timing(&self.answer));
        response
    }
}

/// From a body to the answer, whatever it came by.
///
/// # Errors
/// When the body is not what its headers say, or the model gives no answer.
pub(super) async fn answer(
    app: &App,
    serving: &Serving,
    kind: BodyKind,
    body: Bytes,
    watch: &Watch,
) -> Result<Answered, ApiError> {
    let arrived = Instant::now();
    watch.arrived(arrived, || body.len());
    let takes_images = !matches!(serving.engine.config().images, Images::Refused);
    let request = match kind {
        BodyKind::Image if takes_images => infer_request::image(body),
        BodyKind::Image => return Err(no_images(&serving.name)),
        BodyKind::Tensors { header_length } => {
            let json = header_length.unwrap_or(body.len());
            parse(app, json, move || infer_request::parse(&body, header_length, takes_images)).await?
        }
    };
    let form = Form::new(&request, &serving.name, serving.engine.signature())?;
    let InferRequest { id, payload, wishes, .. } = request;
    watch.asked(&id, &payload, serving);
    let call = Call { payload, arrived, timeout: wishes.timeout, priority: wishes.priority };
    let answer = serving.engine.infer(call).await?;
    watch.answered(&answer);
    let reply = form.write(&answer, &serving.name, &serving.version);
    Ok(Answered { reply, answer })
}

/// Why a model gets no image.
pub(super) fn no_images(model: &str) -> ApiError {
    let message = format!("the model '{model}' has no preprocessing and takes no images");
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}

/// Parses a body: a small one here, a large JSON on a thread of its own, so that health probes are answered meanwhile.
pub(super) async fn parse<T: Send + 'static>(
    app: &App,
    json_length: usize,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if json_length <= LARGE_JSON {
        return work();
    }
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the request could not be read: {error}"))
    };
    let _place = app.large_json.acquire().await.map_err(|error| failed(&error))?;
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))?
}

/// What a body is, by its headers.
pub(super) enum BodyKind {
    /// An image file.
    Image,
    /// JSON, with binary tensors behind it where there is a header length.
    Tensors { header_length: Option<usize> },
}

impl BodyKind {
    /// By `Content-Type` and `Inference-Header-Content-Length`.
    pub(super) fn of(content_type: Option<&[u8]>, header_length: Option<&[u8]>) -> Result<Self, ApiError> {
        if let Some(media_type) = content_type.and_then(image_type) {
            return match media_type.as_str() {
                "image/jpeg" | "image/png" | "image/webp" => Ok(Self::Image),
                other => Err(ApiError::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    format!("the Content-Type {other} is not supported; send image/jpeg, image/png or image/webp"),
                )),
            };
        }
        let Some(value) = header_length else { return Ok(Self::Tensors { header_length: None }) };
        let length = str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            ApiError::bad_request(format!(
                "Inference-Header-Content-Length must be a number of bytes, got \"{}\"",
                value.escape_ascii()
            ))
        })?;
        Ok(Self::Tensors { header_length: Some(length) })
    }
}

/// The media type of a body that is said to be an image.
fn image_type(content_type: &[u8]) -> Option<String> {
    let content_type = str::from_utf8(content_type).ok()?;
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let is_image = media_type.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("image/"));
    is_image.then(|| media_type.to_ascii_lowercase())
}
