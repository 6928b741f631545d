//! gRPC's health service: the answer of `/v2/health/ready`, and its changes.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tonic::{Request, Response, Status};

use crate::{
    http::App,
    wire::{
        health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server},
        inference::grpc_inference_service_server::SERVICE_NAME,
    },
};

/// How often a watched state is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// The service.
pub(super) struct Health {
    pub(super) app: Arc<App>,
}

/// Of a service that is not there, `Check` says so by an error and `Watch` by a status.
fn status(app: &App, service: &str) -> ServingStatus {
    match service {
        "" | SERVICE_NAME if app.is_ready() => ServingStatus::Serving,
        "" | SERVICE_NAME => ServingStatus::NotServing,
        _ => ServingStatus::ServiceUnknown,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match status(&self.app, &service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!("there is no service '{service}'"))),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (app, service) = (Arc::clone(&self.app), request.into_inner().service);
        let changes = stream::unfold(None, move |last| {
            let (app, service) = (Arc::clone(&app), service.clone());
            async move {
                loop {
                    let now = status(&app, &service);
                    if last != Some(now) {
                        return Some((Ok(response(now)), Some(now)));
                    }
                    tokio::time::sleep(PERIOD).await;
                }
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}
