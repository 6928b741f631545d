//! A server of several models, over real HTTP: what is ready when, what a bad model costs, and whose settings win.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail their test")]

mod common;

use std::{fs, path::Path, process::Stdio, time::Duration};

use common::{Server, eventually, fixture, json_of, library, rows};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// A repository with timers; a model's text is its `config.pbtxt`.
fn repository(models: &[(&str, &[u64], &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, versions, config) in models {
        add_timer(folder.path(), name, versions, config);
    }
    folder
}

fn add_timer(repository: &Path, name: &str, versions: &[u64], config: &str) {
    let folder = repository.join(name);
    for version in versions {
        fs::create_dir_all(folder.join(version.to_string())).unwrap();
        let timer = json!({"alphaMicroseconds": 0, "tau0Microseconds": 1000, "dims": [4]});
        fs::write(folder.join(version.to_string()).join("timer.json"), timer.to_string()).unwrap();
    }
    if !config.is_empty() {
        fs::write(folder.join("config.pbtxt"), config).unwrap();
    }
}

async fn start(folder: TempDir, settings: Value) -> Server {
    let mut all = settings;
    all["modelRepository"] = json!(folder.path());
    Server::run(folder, all, library()).await
}

async fn status(server: &Server, path: &str) -> u16 {
    server.get(path).await.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_model_has_its_own_engine_and_metrics() {
    let folder = repository(&[
        ("a", &[1], ""),
        ("b", &[1, 2, 3], "max_batch_size: 2 version_policy { latest { num_versions: 2 } }"),
    ]);
    fs::create_dir(folder.path().join("..data")).unwrap();
    fs::write(folder.path().join("README.md"), "no model").unwrap();
    let server = start(folder, json!({"metrics": {"summaries": true}})).await;
    server.await_ready().await;
    for (model, count) in [("a", 4), ("b", 2)] {
        let (code, answer) = server.infer(model, &rows(count)).await;
        assert_eq!((code, &answer["model_name"]), (200, &json!(model)), "{answer}");
    }
    assert_eq!(server.infer("b/versions/2", &rows(1)).await.1["model_version"], "2");
    assert_eq!(server.infer("b", &rows(1)).await.1["model_version"], "3");
    assert_eq!(status(&server, "/v2/models/b/versions/1/ready").await, 400, "the policy leaves it out");
    assert_eq!(status(&server, "/v2/models/c/ready").await, 400);
    let page = server.page().await;
    for (line, value) in [
        (r#"nv_inference_count{model="a",version="1"}"#, "4"),
        (r#"nv_inference_count{model="b",version="2"}"#, "1"),
        (r#"nv_inference_count{model="b",version="3"}"#, "3"),
    ] {
        assert!(page.contains(&format!("{line} {value}\n")), "{line} {value} is not in\n{page}");
    }
    assert_eq!(page.matches("# TYPE nv_inference_count counter").count(), 1);
    for model in ["a", "b"] {
        assert!(
            server
                .metric(&format!(
                    r#"nv_model_load_duration_secs{{model="{model}",version="{}"}}"#,
                    if model == "a" { 1 } else { 3 }
                ))
                .await
                > 0.0
        );
    }
    assert!(server.metric(r#"nv_inference_request_summary_us{model="a",version="1",quantile="0.5"}"#).await >= 1000.0);
    assert!(server.metric("nv_cpu_memory_total_bytes").await > 0.0);
    assert_eq!(server.get_json("/v2/models/b").await["versions"], json!(["2", "3"]));
    let stats = server.get_json("/v2/models/stats").await;
    assert_eq!(stats["model_stats"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_model_does_not_end_the_others_and_the_server_is_not_ready() {
    let folder =
        repository(&[("bad", &[1], "sequence_batching {}"), ("good", &[1], ""), ("worse", &[1], "max_batch_sise: 4")]);
    let server = start(folder, json!({})).await;
    eventually("the good model is ready", async || status(&server, "/v2/models/good/ready").await == 200).await;
    eventually("the last model has failed", async || index(&server).await[2]["state"] == "UNAVAILABLE").await;
    let index = index(&server).await;
    for (entry, name, state, part) in [
        (&index[0], "bad", "UNAVAILABLE", "sequence_batching is not supported"),
        (&index[1], "good", "READY", ""),
        (&index[2], "worse", "UNAVAILABLE", "max_batch_sise"),
    ] {
        assert_eq!((&entry["name"], &entry["state"]), (&json!(name), &json!(state)));
        assert!(entry["reason"].as_str().unwrap_or_default().contains(part), "{entry}");
    }
    assert_eq!(status(&server, "/v2/health/live").await, 200);
    assert_eq!(status(&server, "/v2/health/ready").await, 503);
    assert_eq!(server.infer("good", &rows(1)).await.0, 200);
    assert_eq!(server.infer("bad", &rows(1)).await.0, 503);
}

/// Sends an order to the repository; its status and its error.
async fn order(server: &Server, path: &str, body: &Value) -> (u16, String) {
    let response = server.post(&format!("/v2/repository/models/{path}")).json(body).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn index(server: &Server) -> Value {
    json_of(server.post("/v2/repository/index").send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_load_and_unload_under_explicit_control() {
    let folder = repository(&[("a", &[1], ""), ("b", &[1], "max_batch_size: 4")]);
    let server = start(folder, json!({"modelControlMode": "Explicit", "batching": {"maxBatchSize": null}})).await;
    server.await_ready().await;
    assert_eq!(server.infer("b", &rows(1)).await.0, 400, "nobody has loaded it");
    assert_eq!(order(&server, "b/load", &json!({})).await.0, 200);
    assert_eq!(server.infer("b", &rows(4)).await.0, 200);
    let config = json!({"parameters": {"config": "{\"max_batch_size\": 2}"}});
    assert_eq!(order(&server, "b/load", &config).await.0, 200);
    assert_eq!(server.get_json("/v2/models/b/config").await["max_batch_size"], 2);
    let bad = json!({"parameters": {"config": "{\"ensemble_scheduling\": {}}"}});
    let (code, error) = order(&server, "b/load", &bad).await;
    assert!(code == 400 && error.contains("ensemble_scheduling is not supported"), "{code} {error}");
    assert_eq!(server.infer("b", &rows(1)).await.0, 200, "the older one answers");
    assert_eq!(order(&server, "b/unload", &json!({})).await.0, 200);
    assert_eq!(server.infer("b", &rows(1)).await.0, 503);
    let index = index(&server).await;
    assert_eq!((&index[0]["name"], &index[0]["state"]), (&json!("a"), &json!("UNAVAILABLE")));
    assert_eq!((&index[1]["name"], &index[1]["reason"]), (&json!("b"), &json!("unloaded")));
    assert_eq!(order(&server, "none/load", &json!({})).await.0, 400);
    assert_eq!(status(&server, "/v2/health/ready").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_model_the_start_fails_with_the_reason() {
    for (folder, part) in [
        (repository(&[("a", &[1], "ensemble_scheduling {}"), ("b", &[], "")]), "none of 1 models could be loaded; 'a'"),
        (repository(&[]), "has no model"),
        (repository(&[("a", &[1], "backend: \"python\"")]), "backend must be 'onnxruntime', not 'python'"),
    ] {
        let failure = start(folder, json!({})).await.ended().await.unwrap_err();
        let part = part.replace("none of 1 models could be loaded; ", "");
        assert!(failure.message.contains(&part), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_honoured_and_given_out() {
    let folder = repository(&[(
        "m",
        &[1],
        r#"max_batch_size: 8
        input { name: "input" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: [ 4 ] } }
        dynamic_batching { max_queue_delay_microseconds: 250 }
        instance_group { count: 2 kind: KIND_CPU }
        metric_tags { key: "team" value: "photos" }
        model_warmup { name: "w" batch_size: 8 inputs { key: "input" value { data_type: TYPE_FP32 dims: [ 2, 2 ] random_data: true } } }"#,
    )]);
    let server = start(folder, json!({"batching": {"maxBatchSize": null}})).await;
    server.await_ready().await;
    let config = server.get_json("/v2/models/m/config").await;
    assert_eq!(config["max_batch_size"], 8, "{config}");
    assert_eq!(config["dynamic_batching"]["max_queue_delay_microseconds"], json!(250));
    assert_eq!(config["instance_group"][0]["count"], 2);
    assert_eq!(config["input"][0]["dims"], json!([2, 2]));
    assert_eq!(server.get_json("/v2/models/m").await["inputs"][0]["shape"], json!([-1, 2, 2]));
    let body = json!({"inputs": [{"name": "input", "shape": [1, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]});
    let (code, answer) = server.infer("m", &body).await;
    assert_eq!((code, &answer["outputs"][0]["data"]), (200, &json!([1.0, 2.0, 3.0, 4.0])), "{answer}");
    assert!(server.page().await.contains(r#"nv_inference_count{_team="photos",model="m",version="1"} 1"#));
    assert!(
        server
            .metric(r#"flotilla_model_load_seconds{_team="photos",model="m",phase="model_warmup",version="1"}"#)
            .await
            > 0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_real_models_on_one_library() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["tiny-image", "types"] {
        let version = folder.path().join(name).join("7");
        fs::create_dir_all(&version).unwrap();
        fs::copy(fixture(name).join("1/model.onnx"), version.join("tower.onnx")).unwrap();
        let mut config = "default_model_filename: \"tower.onnx\" max_batch_size: 4\n".to_owned();
        if name == "tiny-image" {
            config += r#"input { name: "pixel_values" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 32, 32 ] }
                output { name: "means" data_type: TYPE_FP32 dims: [ 3 ] }
                parameters { key: "preprocessing" value { string_value: "Clip" } }"#;
        }
        fs::write(folder.path().join(name).join("config.pbtxt"), config).unwrap();
    }
    let server = start(folder, json!({"batching": {"maxBatchSize": null}})).await;
    server.await_ready().await;
    let photo = fs::read(fixture("images").join("photo.jpg")).unwrap();
    let post = server.post("/v2/models/tiny-image/infer").header("content-type", "image/jpeg").body(photo);
    let answer = json_of(post.send().await.unwrap()).await;
    assert_eq!(answer["outputs"].as_array().unwrap().len(), 1, "the configuration names one of two outputs: {answer}");
    assert_eq!((&answer["outputs"][0]["name"], &answer["model_version"]), (&json!("means"), &json!("7")));
    assert_eq!(server.get_json("/v2/models/types").await["inputs"].as_array().unwrap().len(), 13);
    let config = server.get_json("/v2/models/tiny-image/config").await;
    assert_eq!(config["default_model_filename"], "tower.onnx");
    assert_eq!(config["parameters"]["execution_provider"]["string_value"], "Cpu");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_contradicts_the_graph_is_refused_by_the_field() {
    let Some(library) = library() else { return };
    for (config, part) in [
        (
            "max_batch_size: 4 input { name: \"pixels\" dims: [ 3, 32, 32 ] }",
            "input[0].name is 'pixels', and the graph has 'pixel_values'",
        ),
        (
            "max_batch_size: 4 input { name: \"pixel_values\" data_type: TYPE_UINT8 dims: [ 3, 32, 32 ] }",
            "input[0].data_type is TYPE_UINT8, and the graph has TYPE_FP32",
        ),
        (
            "max_batch_size: 4 input { name: \"pixel_values\" dims: [ 3, 224, 224 ] }",
            "input[0].dims is [3,224,224], and the graph has [3,32,32]",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let version = folder.path().join("m/1");
        fs::create_dir_all(&version).unwrap();
        fs::copy(fixture("tiny-image").join("1/model.onnx"), version.join("model.onnx")).unwrap();
        fs::write(folder.path().join("m/config.pbtxt"), config).unwrap();
        let settings = json!({"modelRepository": folder.path()});
        let failure = Server::run(folder, settings, Some(library.clone())).await.ended().await.unwrap_err();
        assert!(failure.message.contains(part), "{failure}");
    }
}

/// The whole binary with each place speaking or silent: the highest that speaks wins.
#[tokio::test(flavor = "multi_thread")]
async fn flag_environment_file_and_configuration_in_this_order() {
    for (flag, variable, own, file, config, expected) in [
        (Some(2), Some(3), Some(4), Some(5), Some(6), 2),
        (None, Some(3), Some(4), Some(5), Some(6), 3),
        (None, None, Some(4), Some(5), Some(6), 4),
        (None, None, None, Some(5), Some(6), 5),
        (None, None, None, None, Some(6), 6),
        (None, None, None, None, None, 32),
        (Some(2), None, None, None, Some(6), 2),
    ] {
        let folder =
            repository(&[("m", &[1], &config.map_or(String::new(), |size| format!("max_batch_size: {size}")))]);
        let mut settings = json!({"version": 1, "modelRepository": "/replaced/by/the/flag", "models": {"m": {"batching": {"maxBatchSize": own}}}});
        settings["batching"] = json!({"maxBatchSize": file});
        let settings_file = folder.path().join("settings.json");
        fs::write(&settings_file, settings.to_string()).unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_flotilla-server"));
        command.arg("--settings").arg(settings_file).arg("--model-repository").arg(folder.path());
        command.args(["--http-port=0", "--grpc-port=0", "--metrics-port=0", "--log-format=json"]);
        if let Some(size) = flag {
            command.arg(format!("--max-batch-size={size}"));
        }
        if let Some(size) = variable {
            command.env("FLOTILLA_MAX_BATCH_SIZE", size.to_string());
        }
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let port = listening_port(child.stderr.take().unwrap()).await;
        let client = common::client();
        let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
        eventually("ready", async || client.get(url("/v2/health/ready")).send().await.is_ok_and(|r| r.status() == 200))
            .await;
        let config = json_of(client.get(url("/v2/models/m/config")).send().await.unwrap()).await;
        assert_eq!(config["max_batch_size"], expected, "{flag:?} {variable:?} {own:?} {file:?}");
    }
}

/// The port of the line that the server logs when it listens; the rest of its log is read and dropped.
async fn listening_port(log: tokio::process::ChildStderr) -> u16 {
    let mut lines = BufReader::new(log).lines();
    let find = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let line: Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = line["fields"]["http"].as_str() {
                return address.rsplit(':').next().unwrap().parse().unwrap();
            }
        }
        panic!("the server ended before it listened")
    };
    let port = tokio::time::timeout(Duration::from_secs(30), find).await.unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    port
}
