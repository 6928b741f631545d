//! The wire, spoken to a whole server: routes, forms of a request, errors, overload, and what the metrics say about it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]
#![allow(clippy::float_cmp, reason = "metrics count whole things")]

mod common;

use std::time::Duration;

use common::{Server, Timer, eventually, json_of, rows, value};
use flotilla_server::protocol::inflate::Encoding;
use reqwest::StatusCode;
use serde_json::{Value, json};

const FAST: Timer = Timer { alpha: 0, tau0: 1 };
const INFER: &str = "/v2/models/timer/infer";
/// How many requests have begun to be executed.
const STARTED: &str = r#"flotilla_queue_duration_seconds_count{model="timer",version="1"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn it_is_live_at_once_and_ready_after_the_warm_up() {
    let server = Server::start_timer(Timer { alpha: 20, tau0: 60 }, json!({})).await;
    assert_eq!(server.get("/v2/health/live").await.status(), 200);
    let ready = server.get("/v2/health/ready").await;
    assert_eq!((ready.status().as_u16(), json_of(ready).await), (503, json!({"ready": false})));
    assert_eq!(server.infer("timer", &rows(1)).await, (503, json!({"error": "the model is not ready"})));
    assert!(server.page().await.contains("process_start_time_seconds"));
    server.await_ready().await;
    assert_eq!(server.get_json("/v2/models/timer/ready").await, json!({"name": "timer", "ready": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_config_and_statistics_are_triton_s() {
    let server = Server::timer(FAST, json!({})).await;
    let about = server.get_json("/v2").await;
    assert!(about["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
    let tensor = |name: &str| json!({"name": name, "datatype": "FP32", "shape": [-1, 4]});
    let metadata = json!({
        "name": "timer", "versions": ["1"], "platform": "flotilla_timer",
        "inputs": [tensor("input")], "outputs": [tensor("output")],
    });
    assert_eq!(server.get_json("/v2/models/timer").await, metadata);
    assert_eq!(server.get_json("/v2/models/timer/versions/1").await, metadata);
    let config = server.get_json("/v2/models/timer/config").await;
    assert_eq!((&config["max_batch_size"], &config["input"][0]["dims"]), (&json!(4), &json!([4])));
    assert_eq!(server.infer("timer", &rows(3)).await.0, 200);
    let stats = server.get_json("/v2/models/timer/stats").await;
    let stats = &stats["model_stats"][0];
    assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(3), &json!(1)));
    assert_eq!(stats["batch_stats"][0]["batch_size"], 3);
    for part in
        ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"]
    {
        assert!(stats["inference_stats"][part]["ns"].is_u64(), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_in_and_out() {
    let server = Server::timer(FAST, json!({})).await;
    let mut request = rows(1);
    request["id"] = json!("seven");
    request["inputs"][0]["data"] = json!([[1, 2.5, -3e2, 0]]);
    let expected = json!({
        "id": "seven", "model_name": "timer", "model_version": "1",
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.5, -300.0, 0.0]}],
    });
    assert_eq!(server.infer("timer", &request).await, (200, expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_in_and_out() {
    let server = Server::timer(FAST, json!({})).await;
    let header = json!({
        "inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
        "parameters": {"binary_data_output": true},
    })
    .to_string();
    let blob: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let send = async |extra: &[u8], header_length: String| {
        let body = [header.as_bytes(), &blob, extra].concat();
        server.post(INFER).header("Inference-Header-Content-Length", header_length).body(body).send().await.unwrap()
    };
    let response = send(b"", header.len().to_string()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    let split: usize = response.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let bytes = response.bytes().await.unwrap();
    let json: Value = serde_json::from_slice(&bytes[..split]).unwrap();
    let output = json!({"name": "output", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}});
    assert_eq!(json["outputs"][0], output);
    assert_eq!(bytes[split..], blob);

    for (extra, length, part) in [
        (&b"x"[..], header.len().to_string(), "unexpected additional input data for model"),
        (b"", (header.len() + 17).to_string(), "header size should be in range"),
        (b"", "-1".to_owned(), "must be a number of bytes"),
    ] {
        let response = send(extra, length).await;
        assert_eq!(response.status(), 400);
        let error = json_of(response).await["error"].as_str().unwrap().to_owned();
        assert!(error.contains(part), "{error:?} should say {part:?}");
    }
    // A raw binary request: header length 0, the body is one row of the only input.
    let request = server.post(INFER).header("Inference-Header-Content-Length", "0").body(blob.clone());
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.unwrap().ends_with(&blob));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_compressed_for_whom_it_suits() {
    let server = Server::timer(FAST, json!({"batching": {"maxBatchSize": 64}})).await;
    for (count, accepts, expected) in [(400, "br, gzip", Some("gzip")), (400, "br", None), (1, "gzip", None)] {
        let response = server.post(INFER).header("accept-encoding", accepts).json(&rows(count)).send().await.unwrap();
        let encoding = response.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(encoding.as_deref(), expected, "{count} rows");
        let body = response.bytes().await.unwrap();
        let body = match expected {
            Some(_) => Encoding::Gzip.inflate(&body, 1 << 20, |_| true).unwrap(),
            None => body.to_vec(),
        };
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["outputs"][0]["data"].as_array().unwrap().len(), 4 * count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_in_base64_become_rows() {
    let server = Server::timer(FAST, json!({"model": {"preprocessing": {"preset": "Clip"}}})).await;
    let request = json!({"images": ["eA==", "data:image/png;base64,eQ=="], "parameters": {"timeout": 5_000_000}});
    let response = server.post("/v1/embed").json(&request).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers()["server-timing"].to_str().unwrap().contains(r#"batch;desc="2""#));
    let row = [0.0; 4];
    let expected = json!({"model": "timer", "version": "1", "output": "output", "embeddings": [row, row]});
    assert_eq!(json_of(response).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_grow_while_the_device_is_busy() {
    let server = Server::timer(Timer { alpha: 0, tau0: 150 }, json!({})).await;
    let first = tokio::spawn(server.post(INFER).json(&rows(1)).send());
    eventually("the first request executes", async || server.metric(STARTED).await > 0.0).await;
    let others: Vec<_> = (0..5).map(|_| tokio::spawn(server.post(INFER).json(&rows(1)).send())).collect();
    for request in others.into_iter().chain([first]) {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    // One alone, then four that had come meanwhile (the most in a batch), then the last.
    let value = async |name: &str| server.metric(&format!(r#"{name}{{model="timer",version="1"}}"#)).await;
    assert_eq!(value("nv_inference_count").await, 6.0);
    assert_eq!(value("nv_inference_exec_count").await, 3.0);
    assert_eq!(value("nv_inference_request_success").await, 6.0);
    assert_eq!(server.metric(r#"flotilla_device_batches_total{batch_size="4",model="timer",version="1"}"#).await, 1.0);
    assert!(value("flotilla_device_busy_seconds_total").await >= 0.45);
    // Each member of a batch counts the whole batch's time, and none counts as waiting any more.
    assert!(value("nv_inference_compute_infer_duration_us").await >= 6.0 * 150_000.0);
    assert_eq!(value("nv_inference_pending_request_count").await, 0.0);
    assert_eq!(value("flotilla_queue_duration_seconds_count").await, 6.0);
    assert!(value("flotilla_queue_duration_seconds_sum").await >= 0.15, "the last waited for the whole second run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batching_delay_gathers_requests_and_is_not_queueing() {
    let settings = json!({"batching": {"maxQueueDelayMicroseconds": 1_000_000}});
    let server = Server::timer(FAST, settings).await;
    let pair: Vec<_> = (0..2).map(|_| tokio::spawn(server.post(INFER).json(&rows(1)).send())).collect();
    for request in pair {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(server.metric(r#"nv_inference_exec_count{model="timer",version="1"}"#).await, 1.0);
    let queued = server.metric(r#"flotilla_queue_duration_seconds_sum{model="timer",version="1"}"#).await;
    assert!(
        queued < 0.9,
        "{queued} s of queueing holds the delay of 1 s, which the first waited and the second nearly"
    );
    assert!(server.metric(r#"nv_inference_queue_duration_us{model="timer",version="1"}"#).await >= 1_000_000.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_says_so() {
    let settings = json!({"batching": {"maxBatchSize": 2, "maxQueueSize": 3}});
    // So long that all twelve have come before the first is done, on a busy machine too.
    let server = Server::timer(Timer { alpha: 0, tau0: 2500 }, settings).await;
    let send = || tokio::spawn(server.post(INFER).json(&rows(2)).send());
    let mut requests = vec![send()];
    // Until its thread has woken, a device's next request is one of those that wait.
    eventually("the first request executes", async || server.metric(STARTED).await > 0.0).await;
    requests.extend((1..12).map(|_| send()));
    eventually("the gauges show the queue", async || {
        let page = server.page().await;
        let waiting = value(&page, r#"nv_inference_pending_request_count{model="timer",version="1"}"#);
        let images = value(&page, r#"flotilla_pending_images{model="timer",version="1"}"#);
        let oldest = value(&page, r#"flotilla_queue_oldest_seconds{model="timer",version="1"}"#);
        waiting == 3.0 && images == 6.0 && oldest > 0.01
    })
    .await;
    let (mut answers, mut refused) = (0, 0);
    for request in requests {
        let response = request.await.unwrap().unwrap();
        if response.status() == StatusCode::OK {
            answers += 1;
        } else {
            refused += 1;
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], "1");
            assert_eq!(json_of(response).await, json!({"error": "Exceeds maximum queue size"}));
        }
    }
    assert_eq!(answers, 4, "one runs and three wait");
    let rejected = r#"flotilla_requests_rejected_total{model="timer",reason="queue_full",version="1"}"#;
    assert_eq!(server.metric(rejected).await, f64::from(refused));
    let images = r#"flotilla_images_rejected_total{model="timer",version="1"}"#;
    assert_eq!(server.metric(images).await, f64::from(2 * refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_no_longer_than_its_timeout() {
    let server = Server::timer(Timer { alpha: 0, tau0: 1500 }, json!({})).await;
    let first = tokio::spawn(server.post(INFER).json(&rows(1)).send());
    eventually("the first request executes", async || server.metric(STARTED).await > 0.0).await;
    let mut hurried = rows(1);
    hurried["parameters"] = json!({"timeout": 50_000});
    let asked = std::time::Instant::now();
    assert_eq!(server.infer("timer", &hurried).await, (503, json!({"error": "Request timeout expired"})));
    assert!(
        asked.elapsed() < Duration::from_millis(1300),
        "it is answered at its timeout, not when the device is free"
    );
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    for line in [
        r#"flotilla_requests_rejected_total{model="timer",reason="timeout",version="1"}"#,
        r#"nv_inference_request_failure{model="timer",reason="REJECTED",version="1"}"#,
        r#"nv_inference_count{model="timer",version="1"}"#,
    ] {
        assert_eq!(server.metric(line).await, 1.0, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_costs_the_device_nothing() {
    let server = Server::timer(Timer { alpha: 0, tau0: 400 }, json!({})).await;
    let first = tokio::spawn(server.post(INFER).json(&rows(1)).send());
    let executing = async |count: f64| {
        server.metric(r#"flotilla_queue_duration_seconds_count{model="timer",version="1"}"#).await >= count
    };
    eventually("the first request executes", async || executing(1.0).await).await;
    let impatient: Vec<_> = (0..3).map(|_| tokio::spawn(server.post(INFER).json(&rows(1)).send())).collect();
    let pending = async || server.metric(r#"nv_inference_pending_request_count{model="timer",version="1"}"#).await;
    eventually("three wait", async || pending().await == 3.0).await;
    for request in impatient {
        request.abort();
    }
    eventually("nobody waits", async || pending().await == 0.0).await;
    assert_eq!(server.infer("timer", &rows(1)).await.0, 200);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(server.metric(r#"nv_inference_count{model="timer",version="1"}"#).await, 2.0);
    assert_eq!(
        server.metric(r#"nv_inference_request_failure{model="timer",reason="CANCELED",version="1"}"#).await,
        3.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timer_counts_images_without_looking_at_them() {
    let settings = json!({"model": {"preprocessing": {"preset": "Clip"}}});
    let server = Server::timer(FAST, settings).await;
    let response = server.post(INFER).header("content-type", "image/jpeg").body("no image").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(json_of(response).await["outputs"][0]["shape"], json!([1, 4]));
    let files =
        json!({"inputs": [{"name": "input", "shape": [3], "datatype": "BYTES", "data": ["eA==", "eQ==", "eg=="]}]});
    assert_eq!(server.infer("timer", &files).await.1["outputs"][0]["shape"], json!([3, 4]));
    assert_eq!(server.metric(r#"nv_inference_count{model="timer",version="1"}"#).await, 4.0);
}
