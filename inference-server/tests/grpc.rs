//! gRPC, spoken to a whole server: what a client gets, in a stream and out of it, and what it is told when there is no answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]

mod common;

use std::time::Duration;

use common::{
    Server, Timer, eventually,
    grpc::{Grpc, Reply, call, client, frame, infer_request, messages, post, send},
};
use flotilla_server::{
    protocol::inflate::Encoding,
    wire::{
        health::{HealthCheckRequest, HealthCheckResponse},
        inference::{
            InferParameter, ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
            ModelMetadataRequest, ModelMetadataResponse, ModelStatisticsRequest, ModelStatisticsResponse,
            ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse, ServerReadyRequest,
            ServerReadyResponse, infer_parameter::ParameterChoice, model_config::SchedulingChoice,
        },
    },
};
use prost::Message;
use serde_json::json;

const FAST: Timer = Timer { alpha: 0, tau0: 1 };
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

fn only<M: Message + Default>(reply: &Reply) -> M {
    assert_eq!(reply.status, Some(0), "{reply:?}");
    messages(reply).pop().unwrap()
}

async fn is_ready(grpc: &Grpc, server: &Server) -> bool {
    only::<ServerReadyResponse>(&call(grpc, server, "ServerReady", &ServerReadyRequest {}).await).ready
}

fn timeout(micros: i64) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(micros)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_inference() {
    let server = Server::timer(FAST, json!({})).await;
    let grpc = client();
    assert!(is_ready(&grpc, &server).await);
    let name = "timer".to_owned();
    let mut request = infer_request(3);
    request.id = "seven".to_owned();
    let reply = call(&grpc, &server, "ModelInfer", &request).await;
    assert!(reply.headers["server-timing"].to_str().unwrap().contains("compute;dur="));
    let answer: ModelInferResponse = only(&reply);
    assert_eq!((answer.id.as_str(), answer.model_version.as_str()), ("seven", "1"));
    assert_eq!(answer.outputs[0].shape, [3, 4]);
    assert_eq!(answer.raw_output_contents, request.raw_input_contents, "the timer gives back what it got");

    let metadata = ModelMetadataRequest { name: name.clone(), version: "1".to_owned() };
    let metadata: ModelMetadataResponse = only(&call(&grpc, &server, "ModelMetadata", &metadata).await);
    assert_eq!((metadata.versions, &metadata.inputs[0].shape), (vec!["1".to_owned()], &vec![-1, 4]));
    let config = ModelConfigRequest { name: name.clone(), version: String::new() };
    let config: ModelConfigResponse = only(&call(&grpc, &server, "ModelConfig", &config).await);
    let config = config.config.unwrap();
    assert_eq!((config.max_batch_size, &config.input[0].dims), (4, &vec![4]));
    assert!(matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));
    let statistics = ModelStatisticsRequest { name, version: String::new() };
    let statistics: ModelStatisticsResponse = only(&call(&grpc, &server, "ModelStatistics", &statistics).await);
    let statistics = &statistics.model_stats[0];
    assert_eq!((statistics.inference_count, statistics.execution_count), (3, 1));
    assert_eq!(statistics.batch_stats[0].batch_size, 3);
    assert!(statistics.last_inference > 1_600_000_000_000);
    let index: RepositoryIndexResponse =
        only(&call(&grpc, &server, "RepositoryIndex", &RepositoryIndexRequest::default()).await);
    assert_eq!((index.models[0].name.as_str(), index.models[0].state.as_str()), ("timer", "READY"));

    let check = frame(0, &HealthCheckRequest::default().encode_to_vec());
    let health: HealthCheckResponse = only(&send(&grpc, &server, post(), "/grpc.health.v1.Health/Check", check).await);
    assert_eq!(health.status, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_read() {
    let server = Server::timer(FAST, json!({})).await;
    let grpc = client();
    for encoding in [Encoding::Gzip, Encoding::Deflate] {
        let body = frame(1, &encoding.deflate(&infer_request(4).encode_to_vec()).unwrap());
        let request = post().header("grpc-encoding", encoding.name());
        let answer: ModelInferResponse = only(&send(&grpc, &server, request, INFER, body).await);
        assert_eq!(answer.raw_output_contents[0].len(), 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_keeps_its_order_and_outlives_an_error() {
    let server = Server::timer(FAST, json!({})).await;
    let grpc = client();
    let request = |id: usize, model: &str| ModelInferRequest {
        id: id.to_string(),
        model_name: model.to_owned(),
        ..infer_request(1)
    };
    let body: Vec<u8> = (0..40)
        .flat_map(|id| frame(0, &request(id, if id == 7 { "nobody" } else { "timer" }).encode_to_vec()))
        .collect();
    let reply = send(&grpc, &server, post(), STREAM, body.clone()).await;
    assert_eq!(reply.status, Some(0));
    let answers: Vec<ModelStreamInferResponse> = messages(&reply);
    assert_eq!(answers.len(), 40);
    for (id, answer) in answers.iter().enumerate() {
        let response = answer.infer_response.as_ref().unwrap();
        assert_eq!(response.id, id.to_string());
        let expected = if id == 7 { "Request for unknown model: 'nobody' is not found" } else { "" };
        assert_eq!(answer.error_message, expected);
        assert_eq!(response.parameters.contains_key("triton_final_response"), id != 7);
    }
    // A client that prefers gRPC's own errors gets the status, and the stream ends there.
    let reply = send(&grpc, &server, post().header("triton_grpc_error", "true"), STREAM, body).await;
    assert_eq!((reply.status, messages::<ModelStreamInferResponse>(&reply).len()), (Some(3), 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_and_both_timeouts_have_codes_of_their_own() {
    let server = Server::timer(Timer { alpha: 0, tau0: 1000 }, json!({"batching": {"maxQueueSize": 2}})).await;
    let grpc = client();
    let mut patient = infer_request(4);
    patient.parameters.insert("timeout".to_owned(), timeout(20_000_000));
    let waiting = async |count: f64| {
        server.metric(r#"nv_inference_pending_request_count{model="timer",version="1"}"#).await >= count
    };
    let first = tokio::join!(call(&grpc, &server, "ModelInfer", &patient), async {
        eventually("the first executes", async || {
            server.metric(r#"flotilla_queue_duration_seconds_count{model="timer",version="1"}"#).await > 0.0
        })
        .await;
        let mut hurried = infer_request(1);
        hurried.parameters.insert("timeout".to_owned(), timeout(30_000));
        let late = call(&grpc, &server, "ModelInfer", &hurried).await;
        assert_eq!((late.status, late.message.as_str()), (Some(14), "Request timeout expired"));
        let request = post().header("grpc-timeout", "30m");
        let body = frame(0, &infer_request(1).encode_to_vec());
        assert_eq!(send(&grpc, &server, request, INFER, body).await.status, Some(4));
        tokio::join!(
            call(&grpc, &server, "ModelInfer", &patient),
            call(&grpc, &server, "ModelInfer", &patient),
            async {
                eventually("two wait", async || waiting(2.0).await).await;
                let refused = call(&grpc, &server, "ModelInfer", &patient).await;
                assert_eq!((refused.status, refused.message.as_str()), (Some(8), "Exceeds maximum queue size"));
                assert!(refused.headers.contains_key("grpc-retry-pushback-ms"), "{:?}", refused.headers);
            }
        )
    });
    assert_eq!((first.0.status, first.1.0.status, first.1.1.status), (Some(0), Some(0), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_resets_its_call_costs_the_device_nothing() {
    let server = Server::timer(Timer { alpha: 0, tau0: 400 }, json!({})).await;
    let grpc = client();
    let pending = async || server.metric(r#"nv_inference_pending_request_count{model="timer",version="1"}"#).await;
    let request = infer_request(1);
    let gone = tokio::join!(call(&grpc, &server, "ModelInfer", &request), async {
        eventually("the first executes", async || {
            server.metric(r#"flotilla_queue_duration_seconds_count{model="timer",version="1"}"#).await > 0.0
        })
        .await;
        let limit = Duration::from_millis(150);
        drop(tokio::time::timeout(limit, call(&grpc, &server, "ModelInfer", &request)).await);
        eventually("nobody waits", async || pending().await < 1.0).await;
    });
    assert_eq!(gone.0.status, Some(0));
    assert!(server.metric(r#"nv_inference_request_failure{model="timer",reason="CANCELED",version="1"}"#).await > 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aged_connection_is_left_without_losing_a_call() {
    let server = Server::timer(FAST, json!({"http": {"maxConnectionAgeSeconds": 1}})).await;
    let grpc = client();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(call(&grpc, &server, "ModelInfer", &infer_request(1)).await.status, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_has_begun() {
    let mut server = Server::timer(Timer { alpha: 0, tau0: 700 }, json!({})).await;
    let grpc = client();
    let request = infer_request(1);
    let reply = tokio::join!(
        call(&grpc, &server, "ModelInfer", &request),
        eventually("it executes", async || {
            server.metric(r#"flotilla_queue_duration_seconds_count{model="timer",version="1"}"#).await > 0.0
        })
    );
    assert_eq!(reply.0.status, Some(0));
    let address = server.grpc;
    let running = tokio::spawn({
        let grpc = grpc.clone();
        async move {
            let body = frame(0, &infer_request(1).encode_to_vec());
            let request = post().uri(format!("http://{address}{INFER}")).body(body.into()).unwrap();
            let body = grpc.request(request).await.unwrap().into_body();
            http_body_util::BodyExt::collect(body).await.unwrap().trailers().unwrap()["grpc-status"].clone()
        }
    });
    eventually("it executes", async || {
        server.metric(r#"flotilla_queue_duration_seconds_count{model="timer",version="1"}"#).await > 1.0
    })
    .await;
    server.signal();
    assert_eq!(running.await.unwrap(), "0");
    server.ended().await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
