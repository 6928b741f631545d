//! A whole server on free ports, for the tests that speak HTTP to it.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]

pub mod grpc;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use flotilla_server::{
    failure::Failure,
    lifecycle::{Listeners, run},
    settings::Settings,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// How long a test waits for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
    pub client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Failure>>,
    _folder: TempDir,
}

/// The timer's times in milliseconds, for a batch of b: `alpha * b + tau0`.
pub struct Timer {
    pub alpha: u64,
    pub tau0: u64,
}

impl Server {
    /// A server with the timer device, not yet ready. `settings` are merged over small defaults.
    pub async fn start_timer(timer: Timer, settings: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let version = folder.path().join("1");
        std::fs::create_dir(&version).unwrap();
        let file = json!({"alphaMicroseconds": timer.alpha * 1000, "tau0Microseconds": timer.tau0 * 1000, "dims": [4]});
        std::fs::write(version.join("timer.json"), file.to_string()).unwrap();
        let path = folder.path().to_path_buf();
        Self::start(folder, "timer", &path, settings, None).await
    }

    /// A ready server with the timer device.
    pub async fn timer(timer: Timer, settings: Value) -> Self {
        let server = Self::start_timer(timer, settings).await;
        server.await_ready().await;
        server
    }

    /// A ready server with a model of the fixtures on the real ONNX Runtime; none where there is no library.
    pub async fn onnx(model: &str, settings: Value) -> Option<Self> {
        let library = library()?;
        let server = Self::start(tempfile::tempdir().unwrap(), model, &fixture(model), settings, Some(library)).await;
        server.await_ready().await;
        Some(server)
    }

    /// A server for any model folder.
    pub async fn start(folder: TempDir, name: &str, path: &Path, settings: Value, library: Option<PathBuf>) -> Self {
        let mut all = json!({"model": {"name": name, "path": path}});
        merge(&mut all, &settings);
        Self::run(folder, all, library).await
    }

    /// A server with these settings over small defaults; `folder` lives as long as it.
    pub async fn run(folder: TempDir, settings: Value, library: Option<PathBuf>) -> Self {
        let mut all = json!({
            "version": 1,
            "executionProvider": "Cpu",
            "batching": {"maxBatchSize": 4},
            "drain": {"delaySeconds": 0, "timeoutSeconds": 5},
        });
        merge(&mut all, &settings);
        let settings: Settings = serde_json::from_value(all).unwrap();
        settings.check().unwrap();
        let listeners = Listeners {
            http: TcpListener::bind(("127.0.0.1", 0)).await.unwrap(),
            grpc: TcpListener::bind(("127.0.0.1", 0)).await.unwrap(),
            metrics: TcpListener::bind(("127.0.0.1", 0)).await.unwrap(),
        };
        let [http, grpc, metrics] =
            [&listeners.http, &listeners.grpc, &listeners.metrics].map(|listener| listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(run(settings, library, listeners, async { drop(stopped.await) }));
        Self { http, grpc, metrics, client: client(), stop: Some(stop), task, _folder: folder }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub async fn await_ready(&self) {
        eventually("the server is ready", async || self.get("/v2/health/ready").await.status() == StatusCode::OK).await;
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub async fn get_json(&self, path: &str) -> Value {
        json_of(self.get(path).await).await
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    /// The status and the JSON of an inference with a JSON body.
    pub async fn infer(&self, model: &str, body: &Value) -> (u16, Value) {
        let response = self.post(&format!("/v2/models/{model}/infer")).json(body).send().await.unwrap();
        (response.status().as_u16(), json_of(response).await)
    }

    /// The value of one line of the metrics page.
    pub async fn metric(&self, line: &str) -> f64 {
        value(&self.page().await, line)
    }

    pub async fn page(&self) -> String {
        let response = self.client.get(format!("http://{}/metrics", self.metrics)).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        response.text().await.unwrap()
    }

    /// Sends the shutdown signal.
    pub fn signal(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end of the server.
    pub async fn ended(self) -> Result<(), Failure> {
        tokio::time::timeout(LIMIT, self.task).await.expect("the server ends").unwrap()
    }
}

/// The value of one line of a metrics page.
pub fn value(page: &str, line: &str) -> f64 {
    page.lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or_else(|| panic!("no line {line} in\n{page}"))
}

/// A client that keeps its connections.
pub fn client() -> Client {
    Client::builder().no_proxy().timeout(LIMIT).build().unwrap()
}

/// The library's path. Where a test run must not leave the real library out, its absence is a failure.
pub fn library() -> Option<PathBuf> {
    if let Some(path) = env::var_os("FLOTILLA_ORT_LIBRARY") {
        return Some(PathBuf::from(path));
    }
    let is_required = env::var_os("CI").is_some() || env::var("FLOTILLA_REQUIRE_ORT").is_ok_and(|value| value == "1");
    assert!(!is_required, "set FLOTILLA_ORT_LIBRARY to the path that inference-server/tests/ort-library.sh prints");
    eprintln!("NOT TESTED: FLOTILLA_ORT_LIBRARY is not set");
    None
}

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/fixtures").join(name)
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"));
}

/// A request for the timer with some rows.
pub fn rows(count: usize) -> Value {
    json!({"inputs": [{"name": "input", "shape": [count, 4], "datatype": "FP32", "data": vec![1.0; count * 4]}]})
}

pub async fn json_of(response: Response) -> Value {
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
