//! The calls of `GRPCInferenceService`, one after the other in the order of the `.proto` file.

use std::sync::Arc;

use futures::{StreamExt as _, stream::BoxStream};
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

use super::{
    frames::Messages,
    infer::{Terms, infer, infer_in_stream},
};
use crate::{
    http::App,
    protocol::{self, find, timing::TIMING},
    telemetry::watch::Watch,
    wire::inference::{
        self as wire, grpc_inference_service_server::GrpcInferenceService, model_repository_parameter::ParameterChoice,
    },
};

/// The requests of one stream that are answered at the same time; more wait on the wire.
const STREAM_REQUESTS: usize = 32;
const NO_SHARED_MEMORY: &str = "shared memory is not supported; send the data in the message";

/// The service.
pub(super) struct Inference {
    pub(super) app: Arc<App>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    async fn server_live(&self, _: Request<wire::ServerLiveRequest>) -> Answer<wire::ServerLiveResponse> {
        Ok(Response::new(wire::ServerLiveResponse { live: self.app.repository.is_live() }))
    }

    async fn server_ready(&self, _: Request<wire::ServerReadyRequest>) -> Answer<wire::ServerReadyResponse> {
        Ok(Response::new(wire::ServerReadyResponse { ready: self.app.is_ready() }))
    }

    async fn model_ready(&self, request: Request<wire::ModelReadyRequest>) -> Answer<wire::ModelReadyResponse> {
        let wire::ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.app.is_model_ready(&name, protocol::version(&version))?;
        Ok(Response::new(wire::ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, _: Request<wire::ServerMetadataRequest>) -> Answer<wire::ServerMetadataResponse> {
        Ok(Response::new(protocol::server_metadata(&self.app.repository)))
    }

    async fn model_metadata(
        &self,
        request: Request<wire::ModelMetadataRequest>,
    ) -> Answer<wire::ModelMetadataResponse> {
        let wire::ModelMetadataRequest { name, version } = request.into_inner();
        Ok(Response::new(protocol::model_metadata(
            &self.app.repository,
            &*find(&self.app.repository, &name, &version)?,
        )))
    }

    async fn model_infer(&self, mut request: Request<wire::ModelInferRequest>) -> Answer<wire::ModelInferResponse> {
        let terms = Terms::of(request.metadata())?;
        // The memory of the message counts until it is answered.
        let _messages = request.extensions_mut().remove::<Arc<Messages>>();
        let watch = Watch::of(request.extensions());
        let (response, timing) = infer(&self.app, request.into_inner(), terms, &watch).await?;
        let mut response = Response::new(response);
        if let Ok(timing) = MetadataValue::<Ascii>::try_from(timing.as_bytes()) {
            response.metadata_mut().insert(TIMING, timing);
        }
        Ok(response)
    }

    type ModelStreamInferStream = BoxStream<'static, Result<wire::ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        mut request: Request<Streaming<wire::ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let terms = Terms::of(request.metadata())?;
        let messages = request.extensions_mut().remove::<Arc<Messages>>();
        let app = Arc::clone(&self.app);
        let watch = Watch::of(request.extensions()).into_stream();
        // Answers come in the order of the requests, which are worked on together.
        let answers = request
            .into_inner()
            .map(move |message| {
                let app = Arc::clone(&app);
                let watch = watch.message();
                async move {
                    let message = message.inspect_err(|status| watch.end_message(Some(status)))?;
                    infer_in_stream(app, message, terms, watch).await
                }
            })
            .buffered(STREAM_REQUESTS)
            .inspect(move |_| {
                if let Some(messages) = &messages {
                    messages.answered();
                }
            });
        Ok(Response::new(answers.boxed()))
    }

    async fn model_config(&self, request: Request<wire::ModelConfigRequest>) -> Answer<wire::ModelConfigResponse> {
        let wire::ModelConfigRequest { name, version } = request.into_inner();
        let config = find(&self.app.repository, &name, &version)?.config.clone();
        Ok(Response::new(wire::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<wire::ModelStatisticsRequest>,
    ) -> Answer<wire::ModelStatisticsResponse> {
        let wire::ModelStatisticsRequest { name, version } = request.into_inner();
        let servings = if name.is_empty() {
            self.app.repository.servings()
        } else {
            vec![find(&self.app.repository, &name, &version)?]
        };
        let model_stats = servings.iter().map(|serving| protocol::statistics(serving)).collect();
        Ok(Response::new(wire::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<wire::RepositoryIndexRequest>,
    ) -> Answer<wire::RepositoryIndexResponse> {
        Ok(Response::new(protocol::index(&self.app.repository, request.into_inner().ready)))
    }

    async fn repository_model_load(
        &self,
        request: Request<wire::RepositoryModelLoadRequest>,
    ) -> Answer<wire::RepositoryModelLoadResponse> {
        let wire::RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        let parameters = parameters.into_iter().map(|(name, value)| match value.parameter_choice {
            Some(ParameterChoice::StringParam(value)) => (name, Some(value)),
            _ => (name, None),
        });
        let config = protocol::load_config(parameters)?;
        self.app.repository.load(&model_name, config).await?;
        Ok(Response::new(wire::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<wire::RepositoryModelUnloadRequest>,
    ) -> Answer<wire::RepositoryModelUnloadResponse> {
        self.app.repository.unload(&request.into_inner().model_name).await?;
        Ok(Response::new(wire::RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<wire::SystemSharedMemoryStatusRequest>,
    ) -> Answer<wire::SystemSharedMemoryStatusResponse> {
        Ok(Response::new(wire::SystemSharedMemoryStatusResponse::default()))
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<wire::SystemSharedMemoryRegisterRequest>,
    ) -> Answer<wire::SystemSharedMemoryRegisterResponse> {
        Err(Status::unimplemented(NO_SHARED_MEMORY))
    }

    /// There is nothing to forget, which is what clients want who tidy up before they begin.
    async fn system_shared_memory_unregister(
        &self,
        _: Request<wire::SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<wire::SystemSharedMemoryUnregisterResponse> {
        Ok(Response::new(wire::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<wire::CudaSharedMemoryStatusRequest>,
    ) -> Answer<wire::CudaSharedMemoryStatusResponse> {
        Ok(Response::new(wire::CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<wire::CudaSharedMemoryRegisterRequest>,
    ) -> Answer<wire::CudaSharedMemoryRegisterResponse> {
        Err(Status::unimplemented(NO_SHARED_MEMORY))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<wire::CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<wire::CudaSharedMemoryUnregisterResponse> {
        Ok(Response::new(wire::CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(&self, _: Request<wire::TraceSettingRequest>) -> Answer<wire::TraceSettingResponse> {
        Err(Status::unimplemented(protocol::NO_TRACE_SETTINGS))
    }

    async fn log_settings(&self, _: Request<wire::LogSettingsRequest>) -> Answer<wire::LogSettingsResponse> {
        Err(Status::unimplemented(protocol::NO_LOG_SETTINGS))
    }
}
