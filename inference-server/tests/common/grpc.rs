//! gRPC by hand, so that a test can send what no client would.

use bytes::Bytes;
use flotilla_server::wire::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message;

use super::Server;

/// The answer of a call.
#[derive(Debug)]
pub struct Reply {
    /// The status of HTTP.
    pub http: u16,
    /// `grpc-status`; none where the answer is not gRPC's.
    pub status: Option<u16>,
    /// `grpc-message`.
    pub message: String,
    /// The headers.
    pub headers: hyper::HeaderMap,
    /// The messages' bytes, with their five bytes in front.
    pub body: Bytes,
}

pub type Grpc = Client<HttpConnector, Full<Bytes>>;

pub fn client() -> Grpc {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

/// Sends a body to a call.
pub async fn send(
    client: &Grpc,
    server: &Server,
    request: hyper::http::request::Builder,
    path: &str,
    body: Vec<u8>,
) -> Reply {
    let request = request.uri(format!("http://{}{path}", server.grpc)).body(Full::from(body)).unwrap();
    let (parts, body) = client.request(request).await.unwrap().into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let find = |name: &str| trailers.get(name).or_else(|| parts.headers.get(name)).cloned();
    let message = find("grpc-message").map(|value| percent_decode(value.to_str().unwrap())).unwrap_or_default();
    Reply {
        http: parts.status.as_u16(),
        status: find("grpc-status").map(|value| value.to_str().unwrap().parse().unwrap()),
        message,
        headers: parts.headers.clone(),
        body: collected.to_bytes(),
    }
}

pub fn post() -> hyper::http::request::Builder {
    hyper::Request::post("/").header("content-type", "application/grpc").header("te", "trailers")
}

/// A call of the inference service with one message.
pub async fn call(client: &Grpc, server: &Server, method: &str, message: &impl Message) -> Reply {
    let path = format!("/inference.GRPCInferenceService/{method}");
    send(client, server, post(), &path, frame(0, &message.encode_to_vec())).await
}

/// The messages of an answer.
pub fn messages<M: Message + Default>(reply: &Reply) -> Vec<M> {
    let mut rest = &reply.body[..];
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let size = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        messages.push(M::decode(&rest[5..5 + size]).unwrap());
        rest = &rest[5 + size..];
    }
    messages
}

/// A message behind its five bytes.
pub fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// A request for the timer with some rows.
pub fn infer_request(rows: i64) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "timer".to_owned(),
        inputs: vec![InferInputTensor {
            name: "input".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![rows, 4],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![Bytes::from(vec![0; usize::try_from(rows).unwrap() * 16])],
        ..ModelInferRequest::default()
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|_| first == b'%');
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}
