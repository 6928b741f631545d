//! What the server tells of each request, by those who receive it: a collector of OTLP, and whoever reads standard error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]
#![allow(clippy::float_cmp, reason = "metrics count whole things")]

mod common;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use common::{
    LIMIT, Server, Timer, eventually,
    grpc::{self, Grpc, frame, infer_request, messages},
    rows,
};
use flotilla_server::wire::inference::{ModelInferRequest, ModelStreamInferResponse, infer_parameter::ParameterChoice};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const QUICK: Timer = Timer { alpha: 0, tau0: 0 };

/// A collector that keeps what it gets, as OTLP over HTTP has it.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&received);
        let receive = async move |body: Bytes| {
            kept.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
            ExportTraceServiceResponse::default().encode_to_vec()
        };
        let router = Router::new().route("/v1/traces", post(receive));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, received }
    }

    fn settings(&self) -> Value {
        json!({"tracing": {"endpoint": format!("http://{}", self.address)}})
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans).cloned().collect()
    }

    /// The servers' own spans, one for each request, when there are so many.
    async fn requests(&self, count: usize) -> Vec<Span> {
        let requests = || -> Vec<Span> {
            self.spans().into_iter().filter(|span| span.kind == i32::from(SpanKind::Server)).collect()
        };
        eventually("the spans arrive", async || requests().len() >= count).await;
        requests()
    }

    /// The children of a span, by name.
    fn children(&self, of: &Span) -> BTreeMap<String, Span> {
        let spans = self.spans().into_iter().filter(|span| span.parent_span_id == of.span_id);
        spans.map(|span| (span.name.clone(), span)).collect()
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<&str, Value> {
    let value = |pair: &KeyValue| match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
        Any::StringValue(text) => json!(text),
        Any::IntValue(number) => json!(number),
        other => panic!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.as_str(), value(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// The phases are there, in their order and within the request's span.
fn check_phases(collector: &Collector, request: &Span, batch: i64) {
    let children = collector.children(request);
    assert_eq!(children.keys().collect::<Vec<_>>(), ["execute", "queue", "receive", "reply"]);
    let mut earlier = request.start_time_unix_nano;
    for name in ["receive", "queue", "execute", "reply"] {
        let span = &children[name];
        assert_eq!(span.trace_id, request.trace_id, "{name}");
        assert!(earlier <= span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano, "{name}");
        earlier = span.start_time_unix_nano;
        assert!(span.end_time_unix_nano <= request.end_time_unix_nano, "{name}");
    }
    let execute = &children["execute"];
    assert_eq!(attributes(&execute.attributes)["flotilla.batch.size"], batch);
    assert!(execute.end_time_unix_nano - execute.start_time_unix_nano >= 20_000_000, "the timer takes 20 ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_over_http() {
    let collector = Collector::start().await;
    let server = Server::timer(Timer { alpha: 0, tau0: 20 }, collector.settings()).await;
    let mut body = rows(2);
    body["id"] = json!("r-1");
    let request = server.post("/v2/models/timer/infer").header("traceparent", traceparent("01"));
    assert_eq!(request.header("tracestate", "a=1").json(&body).send().await.unwrap().status(), 200);
    let request = collector.requests(1).await.remove(0);
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!((request.name.as_str(), request.trace_state.as_str()), ("POST /v2/models/{model}/infer", "a=1"));
    let known = attributes(&request.attributes);
    for (name, value) in [
        ("http.response.status_code", json!(200)),
        ("url.path", json!("/v2/models/timer/infer")),
        ("client.address", json!("127.0.0.1")),
        ("flotilla.model.name", json!("timer")),
        ("flotilla.model.version", json!("1")),
        ("flotilla.request.id", json!("r-1")),
        ("flotilla.images", json!(2)),
        ("http.request.body.size", json!(body.to_string().len())),
    ] {
        assert_eq!(known[name], value, "{name}");
    }
    check_phases(&collector, &request, 2);
    let received = collector.received.lock().unwrap();
    let resource = received[0].resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "flotilla-server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_over_grpc_and_through_a_stream() {
    let collector = Collector::start().await;
    let server = Server::timer(Timer { alpha: 0, tau0: 20 }, collector.settings()).await;
    let client = grpc::client();
    let call = || grpc::post().header("traceparent", traceparent("01"));
    let message = frame(0, &infer_request(1).encode_to_vec());
    let path = "/inference.GRPCInferenceService/ModelInfer";
    assert_eq!(grpc::send(&client, &server, call(), path, message.clone()).await.status, Some(0));
    let unknown = ModelInferRequest { model_name: "other".to_owned(), ..infer_request(1) };
    let unknown = frame(0, &unknown.encode_to_vec());
    let reply = grpc::send(&client, &server, call(), STREAM, [message, unknown].concat()).await;
    assert_eq!(messages::<ModelStreamInferResponse>(&reply).len(), 2);

    let requests = collector.requests(3).await;
    assert_eq!(requests.len(), 3, "a stream is its messages");
    for request in &requests {
        assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert!(request.name.starts_with("inference.GRPCInferenceService/Model"), "{}", request.name);
    }
    let codes: Vec<_> =
        requests.iter().map(|request| attributes(&request.attributes)["rpc.grpc.status_code"].clone()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 2, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 3).count(), 1, "{codes:?}");
    for request in requests.iter().filter(|request| attributes(&request.attributes)["rpc.grpc.status_code"] == 0) {
        check_phases(&collector, request, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_decides_what_is_sampled_and_an_invalid_parent_is_none() {
    let collector = Collector::start().await;
    let mut settings = collector.settings();
    settings["tracing"]["samplingRatio"] = json!(1);
    let server = Server::timer(QUICK, settings).await;
    let infer = async |parent: &str| {
        let request = server.post("/v2/models/timer/infer").header("traceparent", parent).json(&rows(1));
        assert_eq!(request.send().await.unwrap().status(), 200, "{parent}");
    };
    infer(&traceparent("00")).await;
    infer("00-not-a-parent-01").await;
    infer(&format!("{}-", traceparent("01"))).await;
    let requests = collector.requests(2).await;
    assert_eq!(requests.len(), 2, "the first was not to be sampled");
    for request in requests {
        assert_ne!(hex(&request.trace_id), TRACE);
        assert!(request.parent_span_id.is_empty(), "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_exported_when_the_server_ends() {
    let collector = Collector::start().await;
    let mut server = Server::timer(QUICK, collector.settings()).await;
    for _ in 0..5 {
        assert_eq!(server.infer("timer", &rows(1)).await.0, 200);
    }
    server.signal();
    server.ended().await.unwrap();
    assert_eq!(collector.requests(5).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_told_of() {
    let collector = Collector::start().await;
    let server = Server::timer(Timer { alpha: 0, tau0: 2_000 }, collector.settings()).await;
    let pending = r#"nv_inference_pending_request_count{model="timer",version="1"}"#;
    // The batch of the first is executed while those of the others wait, four rows each.
    let requests: Vec<_> =
        (0..3).map(|_| tokio::spawn(server.post("/v2/models/timer/infer").json(&rows(4)).send())).collect();
    eventually("requests wait", async || server.metric(pending).await >= 1.0).await;
    for request in requests {
        request.abort();
    }
    for request in collector.requests(3).await {
        let known = attributes(&request.attributes);
        assert_eq!((&known["http.response.status_code"], &known["error.type"]), (&json!(499), &json!("499")));
        assert_eq!(known["flotilla.model.name"], "timer");
    }
}

/// One that refuses connections, one that never answers, and one that says no.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_work_costs_no_request() {
    let closed = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        listener.local_addr().unwrap()
    };
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let refusing = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let refuses = refusing.local_addr().unwrap();
    let router = Router::new().route("/v1/traces", post(async || StatusCode::BAD_REQUEST));
    tokio::spawn(async move { axum::serve(refusing, router).await });
    for address in [closed, silent.local_addr().unwrap(), refuses] {
        let settings = json!({"tracing": {"endpoint": format!("http://{address}")}});
        let mut server = Server::timer(QUICK, settings).await;
        for _ in 0..20 {
            assert_eq!(server.infer("timer", &rows(1)).await.0, 200);
        }
        assert_eq!(server.metric(r#"flotilla_traced_requests_total{result="exported"}"#).await, 0.0);
        if address == refuses {
            let failed = r#"flotilla_traced_requests_total{result="failed"}"#;
            eventually("the failure is counted", async || server.metric(failed).await == 20.0).await;
        }
        server.signal();
        server.ended().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_can_not_be_one_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(&folder, &["--otlp-endpoint=collector:4317"], Stdio::null());
    assert!(!process.child.wait().unwrap().success());
    let message = fs::read_to_string(folder.path().join("termination.json")).unwrap();
    assert!(message.contains("SettingsInvalid") && message.contains("tracing.endpoint must be"), "{message}");
}

/// The families of a page with their types, and the names of their series' labels.
fn families(page: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut families = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.insert(name.to_owned(), (kind.to_owned(), Vec::new()));
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels =
                labels.trim_end_matches('}').split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            let mut labels: Vec<String> = labels.collect();
            labels.sort();
            // Series of a histogram or a summary have endings.
            if let Some((_, known)) = families.get_mut(name) {
                *known = labels;
            }
        }
    }
    families
}

/// The pages of a real Triton that the operator is tested with.
#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_triton_s_by_name_type_and_label() {
    const TRITON: &str = include_str!("../../src/scrape/testdata/triton-under-load.txt");
    // Memory that Triton pins for GPUs; this server has no such pool.
    const NOT_HERE: [&str; 2] = ["nv_pinned_memory_pool_total_bytes", "nv_pinned_memory_pool_used_bytes"];
    // Newer than the page: Triton 2.5x has it since 24.09.
    const NEWER: &str = "nv_model_load_duration_secs";
    let server = Server::timer(QUICK, json!({})).await;
    assert_eq!(server.infer("timer", &rows(1)).await.0, 200);
    let ours = families(&server.page().await);
    let triton = families(TRITON);
    assert!(triton.len() >= 15, "{triton:?}");
    for (name, family) in triton.iter().filter(|(name, _)| !NOT_HERE.contains(&name.as_str())) {
        assert_eq!(ours.get(name), Some(family), "{name}");
    }
    let more = ours.keys().filter(|name| name.starts_with("nv_") && !triton.contains_key(*name));
    assert_eq!(more.collect::<Vec<_>>(), [NEWER], "what Triton does not have is not called as if it did");
}

/// Every form of an answer says where its time went; an error has no phases.
#[tokio::test(flavor = "multi_thread")]
async fn phases_are_in_every_form_of_an_answer() {
    let server = Server::timer(QUICK, json!({"model": {"preprocessing": {"preset": "Clip"}}})).await;
    let check = |text: &str| {
        let names: Vec<&str> = text.split(", ").map(|part| part.split(';').next().unwrap()).collect();
        assert_eq!(names, ["decode", "queue", "input", "compute", "output", "batch"], "{text}");
    };
    let json_request = || server.post("/v2/models/timer/infer").json(&rows(1));
    let header = json!({
        "inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
        "parameters": {"binary_data_output": true},
    });
    let header = header.to_string();
    let binary = server
        .post("/v2/models/timer/infer")
        .header("inference-header-content-length", header.len())
        .body([header.as_bytes(), &[0; 16]].concat());
    let requests = [
        json_request(),
        json_request().header("accept-encoding", "gzip"),
        binary,
        server.post("/v2/models/timer/infer").header("content-type", "image/jpeg").body("x"),
        server.post("/v2/models/timer/infer").header("inference-header-content-length", 0).body("x"),
        server.post("/v1/embed").json(&json!({"images": ["eA=="]})),
    ];
    for (index, request) in requests.into_iter().enumerate() {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{index}");
        check(response.headers()["server-timing"].to_str().unwrap());
    }
    let response = server.post("/v2/models/timer/infer").json(&json!({"inputs": []})).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("server-timing")), (400, None));
    let client = grpc::client();
    let reply = grpc::call(&client, &server, "ModelInfer", &infer_request(1)).await;
    check(reply.headers["server-timing"].to_str().unwrap());
    let reply = grpc::call(&client, &server, "ModelStreamInfer", &infer_request(1)).await;
    let answer = messages::<ModelStreamInferResponse>(&reply).remove(0).infer_response.unwrap();
    let Some(ParameterChoice::StringParam(text)) = &answer.parameters["server-timing"].parameter_choice else {
        panic!("{answer:?}")
    };
    check(text);
}

/// The binary with a timer device, killed at the end of a test that fails.
struct Process {
    child: Child,
}

impl Process {
    fn start(folder: &tempfile::TempDir, arguments: &[&str], log: impl Into<Stdio>) -> Self {
        let version = folder.path().join("1");
        fs::create_dir(&version).unwrap();
        let timer = json!({"alphaMicroseconds": 0, "tau0Microseconds": 5_000, "dims": [4]});
        fs::write(version.join("timer.json"), timer.to_string()).unwrap();
        let settings = json!({
            "version": 1,
            "model": {"name": "timer", "path": folder.path()},
            "http": {"port": 0}, "grpc": {"port": 0}, "metrics": {"port": 0},
            "drain": {"delaySeconds": 0, "timeoutSeconds": 5},
        });
        let file = folder.path().join("settings.json");
        fs::write(&file, settings.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla-server"));
        command.arg("--settings").arg(file).args(arguments).env_remove("FLOTILLA_ORT_LIBRARY").stderr(log);
        command.env("FLOTILLA_TERMINATION_LOG", folder.path().join("termination.json"));
        Self { child: command.spawn().unwrap() }
    }

    /// Ends it as a node does, and waits.
    fn end(mut self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The lines of a log so far, whole ones.
fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

/// A server of the binary whose log is in a file, as the helpers take it.
async fn logged(folder: &tempfile::TempDir, log: &Path, arguments: &[&str]) -> (Process, [SocketAddr; 2]) {
    let process = Process::start(folder, arguments, File::create(log).unwrap());
    let find = |message: &str| lines(log).into_iter().find(|line| line["fields"]["message"] == message);
    eventually("the model is ready", async || find("all models are ready").is_some()).await;
    let listening = find("listening").unwrap();
    let local = |name: &str| {
        let address: SocketAddr = listening["fields"][name].as_str().unwrap().parse().unwrap();
        SocketAddr::from(([127, 0, 0, 1], address.port()))
    };
    (process, [local("http"), local("grpc")])
}

async fn infer_over_http(address: SocketAddr, model: &str, body: &Value, headers: &[(&str, &str)]) -> u16 {
    let mut request = common::client().post(format!("http://{address}/v2/models/{model}/infer")).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap().status().as_u16()
}

async fn infer_over_grpc(client: &Grpc, address: SocketAddr, path: &str, body: Vec<u8>) {
    let request = grpc::post().uri(format!("http://{address}{path}")).body(http_body_util::Full::from(body)).unwrap();
    let response = client.request(request).await.unwrap();
    http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_a_line_for_each_request() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let (process, [http, grpc]) = logged(&folder, &log, &["--access-log"]).await;
    let mut body = rows(2);
    body["id"] = json!("r-1");
    assert_eq!(infer_over_http(http, "timer", &body, &[("traceparent", &traceparent("00"))]).await, 200);
    assert_eq!(infer_over_http(http, "other", &body, &[("x-request-id", "p-7")]).await, 400);
    let client = grpc::client();
    let good = frame(0, &infer_request(3).encode_to_vec());
    let bad = frame(0, &ModelInferRequest { inputs: Vec::new(), ..infer_request(1) }.encode_to_vec());
    infer_over_grpc(&client, grpc, "/inference.GRPCInferenceService/ModelInfer", good.clone()).await;
    infer_over_grpc(&client, grpc, STREAM, [good, bad].concat()).await;
    process.end();

    let lines = lines(&log);
    let access: Vec<&Value> =
        lines.iter().filter(|line| line["target"] == "access").map(|line| &line["fields"]).collect();
    let find = |what: &dyn Fn(&Value) -> bool| -> &Value {
        let found: Vec<&&Value> = access.iter().filter(|fields| what(fields)).collect();
        assert_eq!(found.len(), 1, "{access:#?}");
        found[0]
    };
    let http = find(&|fields| fields["request_id"] == "r-1" && fields["status"] == 200 && fields["model"] == "timer");
    for (name, value) in [
        ("protocol", json!("http")),
        ("method", json!("POST")),
        ("path", json!("/v2/models/timer/infer")),
        ("version", json!("1")),
        ("images", json!(2)),
        ("batch", json!(2)),
        ("bytes_in", json!(body.to_string().len())),
        ("trace_id", json!(TRACE)),
        ("span_id", json!(PARENT)),
    ] {
        assert_eq!(http[name], value, "{name}");
    }
    assert!(http["client"].as_str().unwrap().starts_with("127.0.0.1:") && http["bytes_out"].as_u64().unwrap() > 0);
    let grpc = find(&|fields| fields["path"] == "/inference.GRPCInferenceService/ModelInfer");
    assert_eq!((&grpc["protocol"], &grpc["status"], &grpc["images"]), (&json!("grpc"), &json!(0), &json!(3)));
    let streamed = find(&|fields| fields["path"] == STREAM && fields["status"] == 0);
    for fields in [http, grpc, streamed] {
        let micros = |name: &str| fields[name].as_u64().unwrap_or_else(|| panic!("{name} in {fields}"));
        let phases = [
            "receive_us",
            "decode_us",
            "queue_us",
            "compute_input_us",
            "compute_infer_us",
            "compute_output_us",
            "reply_us",
        ];
        let sum: u64 = phases.iter().map(|name| micros(name)).sum();
        assert!(micros("compute_infer_us") >= 5_000, "the timer takes 5 ms: {fields}");
        assert!(sum <= micros("total_us") + phases.len() as u64, "phases are parts of the whole: {fields}");
    }
    let unknown = find(&|fields| fields["request_id"] == "p-7");
    assert_eq!((&unknown["status"], unknown.get("model")), (&json!(400), None));
    assert_eq!(unknown["error"], "Request for unknown model: 'other' is not found");
    let wrong = find(&|fields| fields["path"] == STREAM && fields["status"] == 3);
    assert!(wrong["error"].as_str().unwrap().contains("raw_input_contents"), "{wrong}");
    assert!(lines.iter().filter(|line| line["target"] == "access").all(|line| line["level"] == "INFO"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_unless_it_is_asked_for() {
    for (arguments, expected) in [(&[][..], &[][..]), (&["--access-log", "--access-log-fraction=0"], &[400])] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let (process, [http, _]) = logged(&folder, &log, arguments).await;
        for _ in 0..3 {
            assert_eq!(infer_over_http(http, "timer", &rows(1), &[("traceparent", &traceparent("01"))]).await, 200);
        }
        assert_eq!(infer_over_http(http, "other", &rows(1), &[]).await, 400);
        process.end();
        let access = lines(&log).into_iter().filter(|line| line["target"] == "access");
        let statuses: Vec<Value> = access.map(|line| line["fields"]["status"].clone()).collect();
        assert_eq!(statuses, expected, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(&folder, &["--access-log", "--log-format=text"], Stdio::piped());
    // Held, and never read beyond the line that says where the server listens.
    let mut log = std::io::BufReader::new(process.child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        std::io::BufRead::read_line(&mut log, &mut line).unwrap();
    }
    let port = line.split("http=").nth(1).unwrap().split_whitespace().next().unwrap().rsplit(':').next().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let client = common::client();
    eventually("ready", async || {
        client.get(format!("{url}/v2/health/ready")).send().await.is_ok_and(|response| response.status() == 200)
    })
    .await;
    // A pipe holds 64 KiB, and a line is of some 300 bytes at least.
    for _ in 0..600 {
        let response = client.post(format!("{url}/v2/models/none/infer")).body("{}").send();
        assert_eq!(tokio::time::timeout(LIMIT, response).await.expect("an answer").unwrap().status(), 400);
    }
    process.end();
    drop(log);
}
