//! Bad inputs, one a row, over both protocols: each gets the answer in the table, and the server still serves.
//!
//! `docs/bad-inputs.md` is this table; `FLOTILLA_WRITE_DOCS=1 cargo test -p flotilla-server --test bad_inputs` writes it anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]

mod common;

use std::{fmt::Write as _, path::PathBuf};

use common::{
    Server, Timer, fixture,
    grpc::{self, Grpc, frame, infer_request},
    rows,
};
use flotilla_server::{
    protocol::inflate::Encoding,
    wire::inference::{
        InferParameter, InferTensorContents, ModelInferRequest, SystemSharedMemoryRegisterRequest,
        infer_parameter::ParameterChoice, model_infer_request::InferRequestedOutputTensor,
    },
};
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MAX_BODY: usize = 1_000_000;
const INFER: &str = "/v2/models/timer/infer";
const CALL: &str = "/inference.GRPCInferenceService/ModelInfer";

/// One row of the table.
struct Row {
    input: &'static str,
    send: Send,
    /// The status of HTTP, or gRPC's.
    status: u16,
    /// What the error says.
    says: &'static str,
}

enum Send {
    Http(Method, &'static str, Vec<(&'static str, String)>, Vec<u8>),
    /// Bytes on a connection to the HTTP port.
    Bytes(Vec<u8>),
    /// Headers and body of a call.
    Grpc(&'static str, Vec<(&'static str, &'static str)>, Vec<u8>),
}

fn row(input: &'static str, send: Send, status: u16, says: &'static str) -> Row {
    Row { input, send, status, says }
}

fn post(body: impl Into<Vec<u8>>) -> Send {
    Send::Http(Method::POST, INFER, vec![], body.into())
}

fn with(headers: &[(&'static str, &str)], body: impl Into<Vec<u8>>) -> Send {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Send::Http(Method::POST, INFER, headers, body.into())
}

fn to(method: Method, path: &'static str, body: &str) -> Send {
    Send::Http(method, path, vec![], body.into())
}

/// A good request with one thing changed in its input.
fn input(change: &Value) -> Send {
    let mut request = rows(1);
    for (key, value) in change.as_object().unwrap() {
        request["inputs"][0][key] = value.clone();
    }
    post(request.to_string())
}

/// A good request with something added.
fn request(key: &str, value: Value) -> Send {
    let mut request = rows(1);
    request[key] = value;
    post(request.to_string())
}

/// A binary request that says `size` of its blob, and the length of its header plus `more`.
fn binary(datatype: &str, shape: &[i64], size: &Value, blob: &[u8], more: usize) -> Send {
    let input =
        json!({"name": "input", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}});
    let header = json!({"inputs": [input]}).to_string();
    let length = (header.len() + more).to_string();
    with(&[("inference-header-content-length", &length)], [header.as_bytes(), blob].concat())
}

fn json_rows() -> Vec<Row> {
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = r#"{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":NEST}]}"#.replace("NEST", &nested);
    let twice = json!({"inputs": [rows(1)["inputs"][0], rows(1)["inputs"][0]]}).to_string();
    vec![
        row("an empty body", post(""), 400, "failed to parse the request JSON"),
        row("no JSON", post("not json"), 400, "failed to parse the request JSON"),
        row("JSON that ends early", post(r#"{"inputs":[{"name""#), 400, "failed to parse the request JSON"),
        row("`null`", post("null"), 400, "failed to parse the request JSON"),
        row("no inputs", post("{}"), 400, "missing field `inputs`"),
        row("an empty list of inputs", post(r#"{"inputs":[]}"#), 400, "expected 1 inputs but got 0 inputs"),
        row("100,000 nested arrays", post(nested), 400, "failed to parse the request JSON"),
        row("100,000 nested arrays of data", post(deep), 400, "recursion limit exceeded"),
        row("bytes that are no UTF-8", post(vec![b'"', 0xff, 0xfe, b'"']), 400, "failed to parse the request JSON"),
        row("a negative dimension", input(&json!({"shape": [-1, 4]})), 400, "negative dimension"),
        row("a shape that overflows", input(&json!({"shape": [1_u64 << 62, 4]})), 400, "too large"),
        row("a dimension of 2^70", input(&json!({"shape": [1e21, 4]})), 400, "failed to parse the request JSON"),
        row("a dimension of 1.5", input(&json!({"shape": [1.5, 4]})), 400, "failed to parse the request JSON"),
        row("no rows", input(&json!({"shape": [0, 4], "data": []})), 400, "has no rows"),
        row(
            "fewer values than the shape has",
            input(&json!({"shape": [2, 4]})),
            400,
            "unexpected number of elements 4",
        ),
        row("too many dimensions", input(&json!({"shape": [1, 2, 2]})), 400, "unexpected shape for input 'input'"),
        row("an unknown input", input(&json!({"name": "other"})), 400, "unexpected inference input 'other'"),
        row("an input twice", post(twice), 400, "more than once"),
        row("an unknown datatype", input(&json!({"datatype": "FP99"})), 400, "'FP99' is not supported"),
        row("another datatype", input(&json!({"datatype": "INT32", "data": [1, 2, 3, 4]})), 400, "expects 'FP32'"),
        row("text for numbers", input(&json!({"data": ["a", "b", "c", "d"]})), 400, "must be numbers for FP32"),
        row("text among numbers", input(&json!({"data": [1, "b", 3, 4]})), 400, "mixes strings, booleans and numbers"),
        row("an object for data", input(&json!({"data": {"a": 1}})), 400, "expected an array"),
        row("`null` for data", input(&json!({"data": null})), 400, "must have 'data'"),
        row("FP16 in JSON", input(&json!({"datatype": "FP16"})), 400, "has no form in JSON"),
        row(
            "300 as UINT8",
            input(&json!({"datatype": "UINT8", "data": [300, 0, 0, 0]})),
            400,
            "does not fit into UINT8",
        ),
        row("shared memory", input(&json!({"parameters": {"shared_memory_region": "r"}})), 400, "is not supported"),
        row("an unknown output", request("outputs", json!([{"name": "x"}])), 400, "unexpected inference output 'x'"),
        row(
            "classification",
            request("outputs", json!([{"name": "output", "parameters": {"classification": 3}}])),
            400,
            "is not supported",
        ),
        row("a timeout of \"soon\"", request("parameters", json!({"timeout": "soon"})), 400, "'timeout' must be"),
        row("a priority of -1", request("parameters", json!({"priority": -1})), 400, "'priority' must be"),
        row("a reserved parameter", request("parameters", json!({"triton_x": 1})), 400, "are reserved"),
        row("more rows than a request may have", post(rows(1000).to_string()), 400, "batch-size must be <="),
    ]
}

fn binary_rows() -> Vec<Row> {
    let length = |value| with(&[("inference-header-content-length", value)], rows(1).to_string());
    let both = input(&json!({"parameters": {"binary_data_size": 16}}));
    vec![
        row("a header length that is no number", length("many"), 400, "must be a number of bytes"),
        row("a header length of -1", length("-1"), 400, "must be a number of bytes"),
        row("a header length beyond the body", length("99999"), 400, "header size should be in range"),
        row("a header length within the JSON", length("5"), 400, "failed to parse the request JSON"),
        row("values twice, in JSON and binary", both, 400, "not both"),
        row(
            "a blob that ends early",
            binary("FP32", &[1, 4], &json!(16), &[0; 15], 0),
            400,
            "expecting 1 additional bytes",
        ),
        row(
            "bytes behind the last blob",
            binary("FP32", &[1, 4], &json!(16), &[0; 17], 0),
            400,
            "unexpected additional input data",
        ),
        row(
            "a blob of another size than its shape",
            binary("FP32", &[1, 4], &json!(12), &[0; 12], 0),
            400,
            "are not 12 bytes",
        ),
        row("a blob of size -16", binary("FP32", &[1, 4], &json!(-16), &[0; 16], 0), 400, "must be a number of bytes"),
        row("a blob of 2^63 bytes", binary("FP32", &[1, 4], &json!(1_u64 << 63), &[0; 16], 0), 400, "additional bytes"),
        row(
            "BYTES whose length lies",
            binary("BYTES", &[1], &json!(6), b"\xff\xff\xff\xffab", 0),
            400,
            "has only 2 left",
        ),
        row("BYTES without a length", binary("BYTES", &[1], &json!(2), b"ab", 0), 400, "lacks its four bytes"),
        row(
            "more BYTES than the shape has",
            binary("BYTES", &[1], &json!(8), &[0; 8], 0),
            400,
            "there are more than 1",
        ),
        row(
            "a raw tensor of half a row",
            with(&[("inference-header-content-length", "0")], [0; 8]),
            400,
            "unexpected size",
        ),
    ]
}

fn body_rows() -> Vec<Row> {
    let bomb = Encoding::Gzip.deflate(&vec![b' '; 64 << 20]).unwrap();
    let half = Encoding::Gzip.deflate(rows(1).to_string().as_bytes()).unwrap();
    let half = half[..half.len() / 2].to_vec();
    let announced = format!("POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n");
    let chunks = format!("POST {INFER} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n");
    let lengths = format!("POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{{}}");
    let headers = format!("GET /v2 HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(200_000));
    let embed = |body: &str| to(Method::POST, "/v1/embed", body);
    vec![
        row("a body beyond the bound", post(vec![b' '; MAX_BODY + 1]), 413, "larger than 1000000 bytes"),
        row("a body that is announced as 100 GB", Send::Bytes(announced.into()), 413, "larger than 1000000 bytes"),
        row("64 MiB in 64 KiB of gzip", with(&[("content-encoding", "gzip")], bomb), 413, "becomes larger than"),
        row("gzip that ends early", with(&[("content-encoding", "gzip")], half), 400, "compressed data can't be read"),
        row("no gzip", with(&[("content-encoding", "gzip")], "plain"), 400, "compressed data can't be read"),
        row("no deflate", with(&[("content-encoding", "deflate")], "plain"), 400, "compressed data can't be read"),
        row("an unknown compression", with(&[("content-encoding", "br")], "x"), 415, "is not supported"),
        row(
            "an unknown kind of image",
            with(&[("content-type", "image/gif")], "GIF89a"),
            415,
            "image/gif is not supported",
        ),
        row("an image for a model of tensors", with(&[("content-type", "image/png")], "x"), 415, "takes no images"),
        row("an unknown model", to(Method::POST, "/v2/models/x/infer", "{}"), 400, "'x' is not found"),
        row("an unknown version", to(Method::GET, "/v2/models/timer/versions/9", ""), 400, "version 9 is not found"),
        row("a version that is no number", to(Method::GET, "/v2/models/timer/versions/a", ""), 404, "Not Found"),
        row("a model's name that is no UTF-8", to(Method::GET, "/v2/models/%ff", ""), 400, "Invalid UTF-8"),
        row("a path that climbs", to(Method::GET, "/v2/models/%2e%2e%2fetc", ""), 400, "is not found"),
        row("an unknown path", to(Method::GET, "/nowhere", ""), 404, "Not Found"),
        row("another method", to(Method::GET, INFER, ""), 405, "Method Not Allowed"),
        row(
            "an order to load a model",
            to(Method::POST, "/v2/repository/models/timer/load", ""),
            403,
            "is not allowed",
        ),
        row("an order that is no JSON", to(Method::POST, "/v2/repository/index", "{"), 400, "failed to parse"),
        row(
            "a region of shared memory",
            to(Method::POST, "/v2/systemsharedmemory/region/r/register", "{}"),
            501,
            "is not supported",
        ),
        row("settings of the log", to(Method::POST, "/v2/logging", "{}"), 501, "can't be read or changed"),
        row("base64 that is none", embed(r#"{"images":["?"]}"#), 400, "must be base64"),
        row("an unknown field", embed(r#"{"image":"eA=="}"#), 400, "unknown field `image`"),
        row("a request line that is none", Send::Bytes(b"\x00\x01\x02\r\n\r\n".to_vec()), 400, ""),
        row("200 KB of headers", Send::Bytes(headers.into()), 431, ""),
        row("two lengths", Send::Bytes(lengths.into()), 400, ""),
        row("a chunk whose length is no number", Send::Bytes(chunks.into()), 400, "broke off"),
    ]
}

fn call(message: &ModelInferRequest) -> Send {
    Send::Grpc(CALL, vec![], frame(0, &message.encode_to_vec()))
}

/// A good request with one thing changed.
fn changed(change: impl FnOnce(&mut ModelInferRequest)) -> Send {
    let mut request = infer_request(1);
    change(&mut request);
    call(&request)
}

fn parameter(name: &str, value: ParameterChoice) -> Send {
    changed(|request| {
        request.parameters.insert(name.to_owned(), InferParameter { parameter_choice: Some(value) });
    })
}

fn typed(datatype: &str, contents: InferTensorContents, keep_raw: bool) -> Send {
    changed(|request| {
        datatype.clone_into(&mut request.inputs[0].datatype);
        request.inputs[0].contents = Some(contents);
        if !keep_raw {
            request.raw_input_contents.clear();
        }
    })
}

fn raw(datatype: &str, shape: &[i64], blob: &'static [u8]) -> Send {
    changed(|request| {
        datatype.clone_into(&mut request.inputs[0].datatype);
        request.inputs[0].shape = shape.to_vec();
        request.raw_input_contents = vec![blob.into()];
    })
}

fn grpc_rows() -> Vec<Row> {
    let good = infer_request(1).encode_to_vec();
    let whole = frame(0, &good);
    let with = |headers: &[(&'static str, &'static str)], body: Vec<u8>| Send::Grpc(CALL, headers.to_vec(), body);
    let bomb = Encoding::Gzip.deflate(&vec![0; 64 << 20]).unwrap();
    let ints = |values: &[i32]| InferTensorContents { int_contents: values.to_vec(), ..Default::default() };
    let register = frame(0, &SystemSharedMemoryRegisterRequest::default().encode_to_vec());
    vec![
        row("no message", with(&[], vec![]), 3, "the call has no message"),
        row("a message that ends early", with(&[], whole[..20].to_vec()), 3, "ends within a message"),
        row("two messages", with(&[], [&whole[..], &whole].concat()), 3, "more than one message"),
        row("a flag of 7", with(&[], frame(7, &good)), 3, "begins with 7"),
        row("bytes that are no message", with(&[], frame(0, b"\xff\xff\xff\xff")), 3, "the message can't be read"),
        row("a message of 4 GB", with(&[], vec![0, 255, 255, 255, 255]), 8, "is larger than 1000000 bytes"),
        row(
            "a message beyond the bound",
            with(&[], frame(0, &vec![0; MAX_BODY + 1])),
            8,
            "is larger than 1000000 bytes",
        ),
        row("a compressed message of no encoding", with(&[], frame(1, &good)), 13, "no grpc-encoding"),
        row("no gzip", with(&[("grpc-encoding", "gzip")], frame(1, &good)), 3, "compressed data can't be read"),
        row("64 MiB in 64 KiB of gzip", with(&[("grpc-encoding", "gzip")], frame(1, &bomb)), 8, "becomes larger than"),
        row("an unknown compression", with(&[("grpc-encoding", "snappy")], whole.clone()), 12, "is not supported"),
        row("a deadline of \"soon\"", with(&[("grpc-timeout", "soon")], whole.clone()), 3, "grpc-timeout must be"),
        row("an unknown method", Send::Grpc("/inference.GRPCInferenceService/No", vec![], whole.clone()), 12, ""),
        row("an unknown service", Send::Grpc("/a.B/C", vec![], whole), 12, "there is no service a.B"),
        row("an unknown model", changed(|request| request.model_name = "x".into()), 3, "'x' is not found"),
        row("an unknown version", changed(|request| request.model_version = "9".into()), 3, "version 9 is not found"),
        row(
            "no inputs",
            call(&ModelInferRequest { model_name: "timer".to_owned(), ..Default::default() }),
            3,
            "expected 1 inputs",
        ),
        row(
            "an unknown input",
            changed(|request| request.inputs[0].name = "x".into()),
            3,
            "unexpected inference input 'x'",
        ),
        row(
            "more blobs than inputs",
            changed(|request| request.raw_input_contents.push("x".into())),
            3,
            "expected 1 entries",
        ),
        row("values twice, typed and raw", typed("FP32", ints(&[1]), true), 3, "must not have 'contents'"),
        row(
            "fewer typed values than the shape has",
            typed("INT32", ints(&[1]), false),
            3,
            "unexpected number of elements 1",
        ),
        row("300 as INT8", typed("INT8", ints(&[300; 4]), false), 3, "does not fit into INT8"),
        row("typed FP16", typed("FP16", ints(&[1; 4]), false), 3, "no typed form"),
        row("a blob of another size than its shape", raw("FP32", &[1, 4], b"abc"), 3, "are not 3 bytes"),
        row("a negative dimension", raw("FP32", &[-1, 4], b""), 3, "negative dimension"),
        row("a shape that overflows", raw("FP32", &[i64::MAX, i64::MAX], b""), 3, "too large"),
        row("another datatype", raw("INT32", &[1, 4], &[0; 16]), 3, "expects 'FP32'"),
        row("an unknown datatype", raw("FP99", &[1, 4], b""), 3, "'FP99' is not supported"),
        row("BYTES whose length lies", raw("BYTES", &[1], b"\xff\xff\xff\xff"), 3, "has only 0 left"),
        row(
            "a timeout of \"soon\"",
            parameter("timeout", ParameterChoice::StringParam("soon".to_owned())),
            3,
            "'timeout' must be",
        ),
        row("a reserved parameter", parameter("triton_x", ParameterChoice::BoolParam(true)), 3, "are reserved"),
        row(
            "an unknown output",
            changed(|request| {
                request.outputs = vec![InferRequestedOutputTensor { name: "x".to_owned(), ..Default::default() }];
            }),
            3,
            "unexpected inference output 'x'",
        ),
        row(
            "a region of shared memory",
            Send::Grpc("/inference.GRPCInferenceService/SystemSharedMemoryRegister", vec![], register),
            12,
            "is not supported",
        ),
    ]
}

/// Files for a model that takes images.
fn image_rows() -> Vec<Row> {
    let file = |name: &str| std::fs::read(fixture("images").join(name)).unwrap();
    let image = |content_type: &'static str, body: Vec<u8>| {
        Send::Http(Method::POST, "/v2/models/tiny-image/infer", vec![("content-type", content_type.to_owned())], body)
    };
    let photo = file("photo.jpg");
    let png = file("small.png");
    // The size in a PNG's first chunk, and its checksum, say 60,000 by 60,000.
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let mut hasher = flate2::Crc::new();
    hasher.update(&huge[12..29]);
    huge[29..33].copy_from_slice(&hasher.sum().to_be_bytes());
    vec![
        row("an empty image", image("image/jpeg", vec![]), 400, ""),
        row("text for an image", image("image/jpeg", b"no image".to_vec()), 400, ""),
        row("a JPEG of its first 100 bytes", image("image/jpeg", photo[..100].to_vec()), 400, ""),
        row("a PNG that ends early", image("image/png", png[..png.len() / 2].to_vec()), 400, ""),
        row("a PNG that says 60,000 by 60,000", image("image/png", huge), 413, ""),
    ]
}

async fn answer(server: &Server, grpc: &Grpc, send: &Send) -> (u16, String) {
    match send {
        Send::Http(method, path, headers, body) => {
            let mut request = server.client.request(method.clone(), server.url(path)).body(body.clone());
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            assert_eq!(response.headers()["content-type"], "application/json");
            let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
            assert_eq!(body.as_object().unwrap().len(), 1, "an error and nothing else: {body}");
            (status, body["error"].as_str().unwrap().to_owned())
        }
        Send::Bytes(bytes) => {
            let mut stream = tokio::net::TcpStream::connect(server.http).await.unwrap();
            // A server that has heard enough may hang up before the end.
            drop(stream.write_all(bytes).await);
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            while !text.windows(4).any(|four| four == b"\r\n\r\n") {
                match stream.read(&mut piece).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => text.extend_from_slice(&piece[..count]),
                }
            }
            let text = String::from_utf8(text).unwrap();
            (text.split(' ').nth(1).unwrap_or_else(|| panic!("{text:?}")).parse().unwrap(), text)
        }
        Send::Grpc(path, headers, body) => {
            let mut request = grpc::post();
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let reply = grpc::send(grpc, server, request, path, body.clone()).await;
            (reply.status.unwrap_or_else(|| panic!("{reply:?}")), reply.message)
        }
    }
}

async fn check(server: &Server, table: &[Row]) {
    let grpc = grpc::client();
    for row in table {
        let (status, says) = answer(server, &grpc, &row.send).await;
        assert_eq!(status, row.status, "{}: {says:?}", row.input);
        assert!(says.contains(row.says), "{}: {says:?} should say {:?}", row.input, row.says);
    }
}

fn tables() -> [(&'static str, Vec<Row>); 5] {
    [
        ("JSON over HTTP", json_rows()),
        ("Binary tensors over HTTP", binary_rows()),
        ("Bodies, paths and connections", body_rows()),
        (
            "gRPC (statuses are gRPC's: 3 INVALID_ARGUMENT, 8 RESOURCE_EXHAUSTED, 12 UNIMPLEMENTED, 13 INTERNAL)",
            grpc_rows(),
        ),
        ("Images", image_rows()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_input_gets_its_answer_and_the_server_still_serves() {
    let server = Server::timer(Timer { alpha: 0, tau0: 1 }, json!({"http": {"maxBodyBytes": MAX_BODY}})).await;
    let [json, binary, bodies, grpc, _] = tables();
    for (_, table) in [json, binary, bodies, grpc] {
        check(&server, &table).await;
        assert_eq!(server.infer("timer", &rows(1)).await.0, 200);
        let reply = grpc::call(&grpc::client(), &server, "ModelInfer", &infer_request(1)).await;
        assert_eq!(reply.status, Some(0));
    }
    // Clients that vanish in the middle of a body leave nothing behind.
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(server.http).await.unwrap();
        let start = format!("POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n{{");
        stream.write_all(start.as_bytes()).await.unwrap();
    }
    assert_eq!(server.infer("timer", &rows(1)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_image_gets_its_answer_and_the_server_still_serves() {
    let settings = json!({"model": {"preprocessing": {"preset": "Clip"}}});
    let Some(server) = Server::onnx("tiny-image", settings).await else { return };
    check(&server, &image_rows()).await;
    let body = std::fs::read(fixture("images/photo.jpg")).unwrap();
    let good = server.post("/v2/models/tiny-image/infer").header("content-type", "image/jpeg").body(body);
    assert_eq!(good.send().await.unwrap().status(), 200);
}

#[test]
fn the_page_is_this_table() {
    let mut page = "# Bad inputs and their answers\n\n\
        What `inference-server/tests/bad_inputs.rs` sends to a server, and what it gets. After each table the same server answers a\n\
        good request over both protocols. Bodies are at most 1,000,000 bytes there. What is no HTTP at all gets a status without a\n\
        body; every other answer over HTTP is `{\"error\": …}`.\n"
        .to_owned();
    let mut count = 0;
    for (title, table) in tables() {
        write!(page, "\n## {title}\n\n| input | answer | its text has |\n| --- | --- | --- |\n").unwrap();
        for Row { input, status, says, .. } in &table {
            writeln!(page, "| {input} | {status} | {says} |").unwrap();
        }
        count += table.len();
    }
    assert!(count >= 100, "{count}");
    let path = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../docs/bad-inputs.md");
    if std::env::var_os("FLOTILLA_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        page,
        "write it anew, as this file's first lines say"
    );
}
