//! The fast path against the library: one server answers plain requests by the one, another by the other, since a request that is
//! watched is never plain. Whatever a client sends, both say the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]
#![allow(clippy::float_cmp, reason = "metrics count whole things")]

mod common;

use std::time::Duration;

use common::{LIMIT, Server, Timer, eventually, rows};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const LINE: &str = "POST /v2/models/timer/infer HTTP/1.1";
const QUICK: Timer = Timer { alpha: 0, tau0: 0 };
/// The last request on a connection: whatever it ends in, the server closes.
const GOODBYE: &[u8] = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// A server with the fast path, and one whose every request is watched and so none of it.
async fn both() -> [Server; 2] {
    let settings = |is_watched: bool| {
        json!({
            "batching": {"maxBatchSize": 64},
            "http": {"maxBodyBytes": 6000},
            "accessLog": {"enabled": is_watched, "fraction": 0},
        })
    };
    [Server::timer(QUICK, settings(false)).await, Server::timer(QUICK, settings(true)).await]
}

/// What a server answers to some pieces of bytes and a goodbye, until it closes; without what differs from answer to answer.
async fn answers(server: &Server, pieces: &[Vec<u8>]) -> String {
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        // So that the pieces arrive as such, mostly.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(stream.write_all(GOODBYE).await);
    let mut all = Vec::new();
    drop(tokio::time::timeout(LIMIT, stream.read_to_end(&mut all)).await.expect("the server closes"));
    let text = all.escape_ascii().to_string().replace("\\r\\n", "\n");
    let lines = text.lines().map(|line| match line.split_once(": ") {
        Some(("date", date)) => format!("date: {} letters", date.len()),
        Some(("server-timing", timing)) => {
            format!("server-timing: {}", timing.replace(|letter: char| letter.is_ascii_digit() || letter == '.', ""))
        }
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn message(line: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{line}\r\nhost: a\r\n");
    for header in headers {
        head.extend([header, "\r\n"]);
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

fn with_length(line: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    message(line, &[&[&*format!("content-length: {}", body.len())], headers].concat(), body)
}

/// JSON with a binary tensor behind it, and its length.
fn binary(size: usize) -> (String, Vec<u8>) {
    let input = json!({"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}});
    let header = json!({"inputs": [input], "parameters": {"binary_data_output": true}}).to_string();
    (format!("Inference-Header-Content-Length: {}", header.len()), [header.as_bytes(), &[0; 16]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_are_the_library_s() {
    let servers = both().await;
    let good = rows(1).to_string().into_bytes();
    let (header, blob) = binary(16);
    let (short, wrong) = binary(12);
    let plain = with_length(LINE, &[], &good);
    let split = |message: &[u8], at: usize| vec![message[..at].to_vec(), message[at..].to_vec()];
    let head = plain.len() - good.len();
    for (what, pieces, expected) in [
        ("JSON", vec![plain.clone()], "HTTP/1.1 200 OK"),
        ("binary", vec![with_length(LINE, &[&header], &blob)], "application/octet-stream"),
        ("raw", vec![with_length(LINE, &["inference-header-content-length: 0"], &[0; 16])], "HTTP/1.1 200 OK"),
        ("a version", vec![with_length("POST /v2/models/timer/versions/1/infer HTTP/1.1", &[], &good)], "200 OK"),
        ("no version", vec![with_length("POST /v2/models/timer/versions/2/infer HTTP/1.1", &[], &good)], "400 Bad"),
        ("no model", vec![with_length("POST /v2/models/other/infer HTTP/1.1", &[], &good)], "unknown model"),
        ("no body", vec![with_length(LINE, &[], b"")], "failed to parse the request JSON"),
        ("an image", vec![with_length(LINE, &["content-type: image/jpeg"], b"x")], "415 Unsupported"),
        ("a film", vec![with_length(LINE, &["content-type: image/gif; a=b"], b"x")], "415 Unsupported"),
        ("too short", vec![with_length(LINE, &[&short], &wrong)], "not 12 bytes"),
        ("a strange length", vec![with_length(LINE, &["inference-header-content-length: \"a"], &good)], "got"),
        ("too many rows", vec![with_length(LINE, &[], &vec_of(600))], "batch-size must be <= 512"),
        ("large answers", vec![with_length(LINE, &["accept-encoding: gzip"], &vec_of(350))], "content-encoding: gzip"),
        ("large, not zipped", vec![with_length(LINE, &["accept-encoding: br"], &vec_of(350))], "content-length: 5"),
        ("head, then body", split(&plain, head), "HTTP/1.1 200 OK"),
        ("a part of the body", split(&plain, head + 5), "HTTP/1.1 200 OK"),
        ("a part of the head", split(&plain, head - 5), "HTTP/1.1 200 OK"),
        ("three at once", vec![plain.repeat(3)], "HTTP/1.1 200 OK"),
        ("one and a half", split(&plain.repeat(2), plain.len() + 9), "HTTP/1.1 200 OK"),
        ("too large", vec![with_length(LINE, &[], &[&good[..], &[b' '; 6000]].concat())], "413 Payload"),
        ("too large a head", vec![with_length(LINE, &[&format!("x: {}", "y".repeat(9000))], &good)], "200 OK"),
        ("too large together", vec![with_length(LINE, &[&format!("x: {}", "y".repeat(5000))], &vec_of(500))], "200 OK"),
        ("chunks", vec![message(LINE, &["transfer-encoding: chunked"], b"1\r\n{\r\n0\r\n\r\n")], "400 Bad"),
        ("nothing", vec![], "HTTP/1.1 200 OK"),
        ("no HTTP", vec![b"hello\r\n\r\n".to_vec()], "HTTP/1.1 400 Bad Request"),
    ] {
        let [fast, library] = [answers(&servers[0], &pieces).await, answers(&servers[1], &pieces).await];
        assert_eq!(fast, library, "{what}");
        assert!(fast.contains(expected), "{what}: {fast} should have {expected}");
    }
}

/// A request for so many rows whose answer is larger than it.
fn vec_of(count: usize) -> Vec<u8> {
    let data = vec![1; count * 4];
    json!({"inputs": [{"name": "input", "shape": [count, 4], "datatype": "FP32", "data": data}]})
        .to_string()
        .into_bytes()
}

/// Requests that are nearly plain, in pieces.
#[test]
fn no_request_is_answered_otherwise_than_by_the_library() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = runtime.block_on(both());
    let line = prop::sample::select(vec![
        LINE,
        LINE,
        LINE,
        "POST /v2/models/timer/versions/1/infer HTTP/1.1",
        "POST /v2/models/timer/versions//infer HTTP/1.1",
        "POST /v2/models/t%69mer/infer HTTP/1.1",
        "POST /v2/models/timer/infer?x HTTP/1.1",
        "POST /v2/models/timer/infer HTTP/1.0",
        "POST /v2/models/timer/infer/ HTTP/1.1",
        "POST /v2/models/timer/config HTTP/1.1",
        "PUT /v2/models/timer/infer HTTP/1.1",
        "GET /v2/models/timer/config?x HTTP/1.1",
    ]);
    let header = prop::sample::select(vec![
        "Content-Type: application/json",
        "content-type:",
        "CONTENT-TYPE: image/png",
        "connection: keep-alive",
        "Connection: close",
        "Connection: ,",
        "accept-encoding: gzip;q=0",
        "accept-encoding: gzip",
        "content-encoding: identity",
        "content-encoding: gzip",
        "transfer-encoding: chunked",
        "content-length: 0",
        "inference-header-content-length: 3",
        "inference-header-content-length: +0",
        "x: \u{7f}",
        "x : y",
        " folded",
        "é: ü",
        "te: trailers",
        "x: \t y \t ",
    ]);
    let (binary_header, blob) = binary(16);
    let body = prop_oneof![
        3 => Just((None, rows(1).to_string().into_bytes())),
        3 => Just((Some(binary_header), blob)),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(|body| (None, body)),
    ];
    let missing = prop_oneof![3 => Just(0_usize), 1 => 1_usize..3];
    let request = (line, prop::collection::vec(header, 0..3), body, missing).prop_map(
        |(line, mut headers, (own, body), missing)| {
            let length = format!("Content-Length: {}", body.len().saturating_sub(missing));
            headers.push(&length);
            headers.extend(own.as_deref());
            message(line, &headers, &body)
        },
    );
    let bytes = (prop::collection::vec(request, 1..3), prop::collection::vec(any::<prop::sample::Index>(), 0..3));
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    runner
        .run(&bytes, |(requests, cuts)| {
            let all = requests.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let pieces: Vec<Vec<u8>> = cuts.windows(2).map(|cut| all[cut[0]..cut[1]].to_vec()).collect();
            let (fast, library) =
                runtime.block_on(async { tokio::join!(answers(&servers[0], &pieces), answers(&servers[1], &pieces)) });
            prop_assert_eq!(fast, library);
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noticed_while_it_waits() {
    let server = Server::timer(Timer { alpha: 0, tau0: 2_000 }, json!({})).await;
    let pending = r#"nv_inference_pending_request_count{model="timer",version="1"}"#;
    let canceled = r#"nv_inference_request_failure{model="timer",reason="CANCELED",version="1"}"#;
    let message = with_length(LINE, &[], rows(4).to_string().as_bytes());
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        // And the beginning of its next request, which is no reason to wait for it.
        stream.write_all(&[&message[..], b"POST"].concat()).await.unwrap();
        streams.push(stream);
    }
    eventually("requests wait", async || server.metric(pending).await >= 1.0).await;
    drop(streams);
    eventually("they are given up", async || server.metric(pending).await == 0.0).await;
    assert_eq!(server.metric(canceled).await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_does_not_keep_others_waiting() {
    let server = Server::timer(QUICK, json!({"batching": {"maxBatchSize": 64}})).await;
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    // Its answers are larger than its requests, until nothing more is taken.
    let message = with_length(LINE, &[], &vec_of(400));
    while tokio::time::timeout(Duration::from_millis(300), stream.write_all(&message)).await.is_ok() {}
    let answer: (u16, Value) = server.infer("timer", &rows(1)).await;
    assert_eq!(answer.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_ten_seconds_from_its_head_on() {
    let server = Server::timer(QUICK, json!({})).await;
    let message = with_length(LINE, &[], rows(1).to_string().as_bytes());
    let (start, end) = message.split_at(message.len() - 1);
    let seconds = |count: f64| tokio::time::sleep(Duration::from_secs_f64(count));
    let late = async {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        seconds(8.5).await;
        stream.write_all(start).await.unwrap();
        seconds(3.0).await;
        stream.write_all(&[end, GOODBYE].concat()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let stuck = async {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("closed").unwrap();
        answer
    };
    let (late, stuck) = tokio::join!(late, stuck);
    assert!(late.starts_with("HTTP/1.1 200"), "{late}");
    assert!(stuck.starts_with("HTTP/1.1 408") && stuck.contains("stopped arriving"), "{stuck}");
}
