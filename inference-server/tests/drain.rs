//! How the server ends, and how its connections do. The binary itself is started where a signal or an exit code is the point.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]
#![allow(clippy::float_cmp, reason = "metrics count whole things")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use common::{LIMIT, Server, Timer, eventually, rows};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The binary, killed at the end of a test that fails.
struct Process {
    child: Child,
    http: SocketAddr,
    metrics: SocketAddr,
}

impl Process {
    /// Starts the binary with a timer device and waits until it listens.
    fn start(folder: &tempfile::TempDir, tau0_milliseconds: u64, drain: &Value) -> Self {
        let version = folder.path().join("1");
        fs::create_dir(&version).unwrap();
        let timer = json!({"alphaMicroseconds": 0, "tau0Microseconds": tau0_milliseconds * 1000, "dims": [4]});
        fs::write(version.join("timer.json"), timer.to_string()).unwrap();
        let settings = json!({
            "version": 1,
            "model": {"name": "timer", "path": folder.path()},
            "batching": {"maxBatchSize": 1},
            "http": {"port": 0}, "grpc": {"port": 0}, "metrics": {"port": 0}, "drain": drain,
        });
        let mut child = command(folder, &settings).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = log
            .find_map(|line| {
                let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
                (line["fields"]["message"] == "listening").then_some(line)
            })
            .expect("a line that says where it listens");
        // The rest of the log must be read, or the server would block on a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        let local = |name: &str| {
            let address: SocketAddr = listening["fields"][name].as_str().unwrap().parse().unwrap();
            SocketAddr::from(([127, 0, 0, 1], address.port()))
        };
        Self { http: local("http"), metrics: local("metrics"), child }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    async fn exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "the process does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn await_ready(&self, client: &Client) {
        eventually("ready", async || {
            client.get(self.url("/v2/health/ready")).send().await.is_ok_and(|response| response.status() == 200)
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The binary with a settings file; its termination message goes to `termination.json` beside it.
fn command(folder: &tempfile::TempDir, settings: &Value) -> Command {
    let file = folder.path().join("settings.json");
    fs::write(&file, settings.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla-server"));
    command
        .arg("--settings")
        .arg(file)
        .env_remove("FLOTILLA_ORT_LIBRARY")
        .env("FLOTILLA_TERMINATION_LOG", folder.path().join("termination.json"))
        .stderr(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigterm_it_answers_until_the_delay_is_over_and_finishes_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::start(&folder, 700, &json!({"delaySeconds": 1, "timeoutSeconds": 20}));
    let client = common::client();
    server.await_ready(&client).await;
    let url = server.url("/v2/models/timer/infer");
    let infer = |client: &Client| client.post(&url).json(&rows(1)).send();

    server.terminate();
    let signalled = Instant::now();
    eventually("not ready", async || {
        client.get(server.url("/v2/health/ready")).send().await.is_ok_and(|response| response.status() == 503)
    })
    .await;
    // Still live, still accepting, and every answer asks the client to go elsewhere.
    let live = common::client().get(server.url("/v2/health/live")).send().await.unwrap();
    assert_eq!(live.status(), 200);
    assert_eq!(live.headers()["connection"], "close");
    let page = common::client().get(format!("http://{}/metrics", server.metrics)).send().await.unwrap();
    assert_eq!(page.status(), 200);
    // Three requests of 0.7 s each, one at a time: the last ends long after the delay, and is answered.
    let requests: Vec<_> = (0..3).map(|_| tokio::spawn(infer(&common::client()))).collect();
    for request in requests {
        let response = request.await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["connection"], "close");
    }
    assert!(signalled.elapsed() >= Duration::from_millis(2100));
    assert_eq!(server.exit().await.code(), Some(0));
    assert!(infer(&client).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::start(&folder, 3000, &json!({"delaySeconds": 0, "timeoutSeconds": 1}));
    let client = common::client();
    server.await_ready(&client).await;
    let request = tokio::spawn(client.post(server.url("/v2/models/timer/infer")).json(&rows(1)).send());
    let page = format!("http://{}/metrics", server.metrics);
    eventually("the request executes", async || {
        let page = client.get(&page).send().await.unwrap().text().await.unwrap();
        page.contains("flotilla_queue_duration_seconds_count{model=\"timer\",version=\"1\"} 1\n")
    })
    .await;
    server.terminate();
    let signalled = Instant::now();
    assert_eq!(server.exit().await.code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_millis(2500), "it did not wait for three seconds of execution");
    assert!(request.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_the_model_loads_ends_it_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::start(&folder, 60_000, &json!({"delaySeconds": 0, "timeoutSeconds": 5}));
    server.terminate();
    assert_eq!(server.exit().await.code(), Some(0));
}

#[test]
fn a_failed_start_leaves_its_reason_and_exits_with_1() {
    let model = tempfile::tempdir().unwrap();
    fs::create_dir(model.path().join("1")).unwrap();
    fs::write(model.path().join("1/model.onnx"), b"garbage").unwrap();
    let holder = std::net::TcpListener::bind(("::", 0)).unwrap();
    let taken = holder.local_addr().unwrap();
    let with = |name: &str, port: u16| json!({"version": 1, "model": {"name": name, "path": model.path()}, "http": {"port": port}, "grpc": {"port": 0}, "metrics": {"port": 0}});
    for (settings, reason) in [
        (with("a/b", 0), "SettingsInvalid"),
        (json!({"version": 1}), "SettingsInvalid"),
        (with("m", taken.port()), "PortInUse"),
        (with("m", 0), "LibraryNotFound"),
        (
            json!({"version": 1, "model": {"name": "m", "path": "/nowhere"}, "http": {"port": 0}, "grpc": {"port": 0}, "metrics": {"port": 0}}),
            "ModelNotFound",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let status = command(&folder, &settings).status().unwrap();
        assert_eq!(status.code(), Some(1), "{reason}");
        let message = fs::read_to_string(folder.path().join("termination.json")).unwrap();
        let message: Value = serde_json::from_str(&message).unwrap();
        assert_eq!((&message["version"], &message["reason"]), (&json!(1), &json!(reason)), "{message}");
        assert!(!message["message"].as_str().unwrap().is_empty() && !message["fix"].as_str().unwrap().is_empty());
    }
    drop(holder);
}

/// Sends requests on one connection until an answer says that it is the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_at_its_age_with_an_answer() {
    let settings = json!({"http": {"maxConnectionAgeSeconds": 1}});
    let server = Server::timer(Timer { alpha: 0, tau0: 1 }, settings).await;
    let mut connection = TcpStream::connect(server.http).await.unwrap();
    let start = Instant::now();
    let mut buffer = vec![0; 4096];
    loop {
        connection.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let count = connection.read(&mut buffer).await.unwrap();
        let answer = String::from_utf8_lossy(&buffer[..count]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?} after {:?}", start.elapsed());
        if answer.contains("connection: close") {
            break;
        }
        assert!(start.elapsed() < LIMIT, "the connection never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(start.elapsed() >= Duration::from_millis(850), "an age of a second, give or take a tenth");
    assert_eq!(connection.read(&mut buffer).await.unwrap(), 0, "closed after that answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_ends_too() {
    let settings = json!({"http": {"maxConnectionAgeSeconds": 1}});
    let server = Server::timer(Timer { alpha: 0, tau0: 1 }, settings).await;
    let mut connection = TcpStream::connect(server.http).await.unwrap();
    let mut buffer = [0; 16];
    let read = connection.read(&mut buffer);
    assert_eq!(tokio::time::timeout(Duration::from_secs(8), read).await.expect("closed").unwrap(), 0);
}
