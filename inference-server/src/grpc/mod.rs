//! KServe v2 over gRPC, as Triton speaks it, and gRPC's own health service.
//!
//! In reading order: [`frames`] bounds what comes, [`codec`] makes messages of it, [`service`] answers them with [`infer`] and
//! [`infer_request`], [`infer_response`]; [`status`] says what went wrong. Connections are those of [`crate::http::connections`].

mod codec;
mod deadline;
mod frames;
mod health;
mod infer;
mod infer_request;
mod infer_response;
mod service;
mod status;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use tonic::Status;
use tower::Service as _;

pub use self::codec::Messages;
use self::{frames::Frames, health::Health, service::Inference};
use crate::{
    http::{App, body::BodyLimits},
    protocol::inflate::Encoding,
    wire::{
        health::health_server::HealthServer,
        inference::grpc_inference_service_server::{GrpcInferenceServiceServer, SERVICE_NAME},
    },
};

const ENCODING: &str = "grpc-encoding";
/// The one call whose client may send any number of messages.
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

struct Services {
    app: Arc<App>,
    inference: GrpcInferenceServiceServer<Inference>,
    health: HealthServer<Health>,
}

/// The gRPC port.
pub fn router(app: &Arc<App>) -> Router {
    let inference = GrpcInferenceServiceServer::new(Inference { app: Arc::clone(app) })
        // The bound is in front of it, with a better answer.
        .max_decoding_message_size(usize::MAX);
    let health = HealthServer::new(Health { app: Arc::clone(app) });
    let services = Arc::new(Services { app: Arc::clone(app), inference, health });
    Router::new()
        .route("/{service}/{method}", post(call))
        .fallback(async || unimplemented("there is no such call"))
        .with_state(services)
}

/// Bounds a call and hands it to its service.
async fn call(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let is_grpc =
        parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let encoding = match encoding(&parts.headers) {
        Ok(encoding) => encoding,
        Err(status) => return status.into_http::<Body>(),
    };
    // What comes out of the frames is not compressed.
    parts.headers.remove(ENCODING);
    let limits = BodyLimits::new(services.app.max_body_bytes);
    let is_stream = parts.uri.path() == STREAM;
    let (frames, messages) = Frames::new(body, encoding, is_stream, limits, &services.app.budget);
    parts.extensions.insert(messages);
    let service = parts.uri.path().split('/').nth(1).unwrap_or_default();
    let is_health = service == crate::wire::health::health_server::SERVICE_NAME;
    if !is_health && service != SERVICE_NAME {
        return unimplemented(&format!("there is no service {service}"));
    }
    let request = Request::from_parts(parts, frames);
    let result = if is_health {
        services.health.clone().call(request).await
    } else {
        services.inference.clone().call(request).await
    };
    let Ok(response) = result;
    response.map(Body::new)
}

fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Status> {
    let Some(value) = headers.get(ENCODING).filter(|value| *value != "identity") else { return Ok(None) };
    value.to_str().ok().and_then(Encoding::from_name).map(Some).ok_or_else(|| {
        let mut status =
            Status::unimplemented(format!("the grpc-encoding {value:?} is not supported; use gzip or deflate"));
        if let Ok(known) = "identity,gzip,deflate".parse() {
            status.metadata_mut().insert("grpc-accept-encoding", known);
        }
        status
    })
}

fn unimplemented(message: &str) -> Response {
    Status::unimplemented(message).into_http::<Body>()
}
