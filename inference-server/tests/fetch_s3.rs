//! The fetcher against a real S3 server, which `tests/fetch` builds and names in `FLOTILLA_S3_SERVER`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]

mod fetch_common;

use std::{
    env, fs,
    net::{SocketAddr, TcpListener as AnyPort},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fetch_common::{Order, files, gzip, noise, sha256, tar};
use flotilla_server::fetch::{bucket::Connector, client::Clients, credentials::Credentials};
use object_store::{ClientOptions, ObjectStoreExt as _, aws::AmazonS3Builder};
use tar::EntryType::Regular;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const KEY: &str = "test-key";
const SECRET: &str = "test-secret-0123456789";

/// A running S3 server with the bucket `models`.
struct S3 {
    process: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl S3 {
    /// None, with a word about it, where there is no such program.
    async fn start() -> Option<Self> {
        let Some(program) = env::var_os("FLOTILLA_S3_SERVER") else {
            assert!(env::var_os("FLOTILLA_REQUIRE_S3").is_none(), "FLOTILLA_S3_SERVER is not set");
            eprintln!("not run: FLOTILLA_S3_SERVER is not set; tests/fetch does it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (data, notes) = (folder.path().join("data"), folder.path().join("notes"));
        fs::create_dir_all(data.join("models")).unwrap();
        fs::create_dir(&notes).unwrap();
        let address = AnyPort::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(program)
            .args([
                "--access",
                KEY,
                "--secret",
                SECRET,
                "--port",
                &address.to_string(),
                "--region",
                "us-east-1",
                "posix",
                "--sidecar",
            ])
            .args([&notes, &data])
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, address, _folder: folder };
        for _ in 0..300 {
            if TcpStream::connect(address).await.is_ok() {
                return Some(server);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the S3 server does not answer on {address}");
    }

    async fn put(&self, key: &str, content: &[u8]) {
        let clients = Clients::new(&Credentials::default()).unwrap();
        let store = AmazonS3Builder::new()
            .with_bucket_name("models")
            .with_endpoint(format!("http://{}", self.address))
            .with_access_key_id(KEY)
            .with_secret_access_key(SECRET)
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_http_connector(Connector::new(clients))
            .build()
            .unwrap();
        store.put(&key.into(), content.to_vec().into()).await.unwrap();
    }

    fn order(&self, uri: &str) -> Order {
        order_at(self.address, uri, KEY, SECRET)
    }
}

fn order_at(address: SocketAddr, uri: &str, key: &str, secret: &str) -> Order {
    let endpoint = format!("http://{address}");
    let credentials =
        [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)];
    Order::new(uri, &credentials)
}

/// Passes bytes on, and cuts each of the first `cuts` connections after so many bytes of its answer.
async fn cutting_proxy(to: SocketAddr, cuts: usize, after: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let passed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&passed);
    tokio::spawn(async move {
        let mut left = cuts;
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(to).await.unwrap();
            let limit = if left > 0 { after } else { usize::MAX };
            left = left.saturating_sub(1);
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut buffer, mut sent) = (vec![0; 16 * 1024], 0);
                while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
                    sent += bytes;
                    count.fetch_add(bytes, Ordering::Relaxed);
                    if to_client.write_all(&buffer[..bytes]).await.is_err() || sent >= limit {
                        break;
                    }
                }
                up.abort();
            });
        }
    });
    (address, passed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_an_archive_and_a_file_of_a_real_s3_server() {
    let Some(s3) = S3::start().await else { return };
    let (graph, data) = (noise(200_000), noise(3 << 20));
    s3.put("clip/config.pbtxt", b"name: \"clip\"").await;
    s3.put("clip/1/model.onnx", &graph).await;
    s3.put("clip/1/model.onnx.data", &data).await;
    s3.put("clip-large/1/model.onnx", b"not this one").await;
    let archive = gzip(&tar(&[("1/model.onnx", Regular, &graph)]));
    s3.put("archives/clip.tar.gz", &archive).await;

    let entry = ["1/model.onnx", "1/model.onnx.data", "config.pbtxt"];
    let lines = [sha256(&graph), sha256(&data), sha256(b"name: \"clip\"")].into_iter().zip(entry);
    let lines: Vec<_> = lines.map(|(digest, path)| format!("{digest}  {path}\n")).collect();
    let digest = sha256(lines.concat().as_bytes());
    for uri in ["s3://models/clip", "s3://models/clip/"] {
        let order = s3.order(uri).sha256(&digest);
        assert_eq!(order.fetch().await.unwrap().files, 3);
        assert_eq!(files(&order.request.destination), [".flotilla-fetch.json", entry[0], entry[1], entry[2]]);
        assert!(order.read("1/model.onnx.data") == data);
    }
    for (uri, digest) in
        [("s3://models/archives/clip.tar.gz", sha256(&archive)), ("s3://models/clip/1/model.onnx", sha256(&graph))]
    {
        let order = s3.order(uri).sha256(&digest);
        assert_eq!(order.fetch().await.unwrap().sha256, digest);
        assert!(order.read("1/model.onnx") == graph, "{uri}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_s3_server_refuses_says_why() {
    let Some(s3) = S3::start().await else { return };
    s3.put("clip/1/model.onnx", &noise(100_000)).await;
    let wrong_secret = order_at(s3.address, "s3://models/clip", KEY, "another-secret");
    let wrong_key = order_at(s3.address, "s3://models/clip", "another-key", SECRET);
    let endpoint = format!("http://{}", s3.address);
    let anonymous = Order::new("s3://models/clip", &[("AWS_ENDPOINT_URL", &endpoint)]);
    for (what, order, reason, says) in [
        ("no bucket", s3.order("s3://none/clip"), "SourceNotFound", "NoSuchBucket"),
        ("no folder", s3.order("s3://models/none"), "SourceNotFound", "nothing at s3://models/none"),
        ("no file", s3.order("s3://models/none.onnx"), "SourceNotFound", "nothing at"),
        ("wrong secret", wrong_secret, "SourceForbidden", "SignatureDoesNotMatch"),
        // This server's word for it; AWS says 403 and InvalidAccessKeyId.
        ("wrong key", wrong_key, "SourceNotFound", "UserNotFound"),
        ("no credentials", anonymous, "SourceForbidden", "403"),
        ("another content", s3.order("s3://models/clip").sha256(&"0".repeat(64)), "ChecksumMismatch", "is asked for"),
        ("too large", s3.order("s3://models/clip").max_bytes(99_999), "SourceTooLarge", "99999 bytes"),
    ] {
        let (found, text) = order.failure().await;
        assert!(found == reason && text.contains(says), "{what}: {text}");
        assert!(!text.contains(SECRET) && !text.contains("another-"), "{what}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_costs_only_what_was_on_its_way() {
    let Some(s3) = S3::start().await else { return };
    let content = noise(4 << 20);
    s3.put("clip/1/model.onnx", &content).await;
    // The first connection lists and then loads; it and the second break.
    let (proxy, passed) = cutting_proxy(s3.address, 2, 1 << 20).await;
    let order = order_at(proxy, "s3://models/clip", KEY, SECRET);
    order.fetch().await.unwrap();
    assert!(order.read("1/model.onnx") == content);
    let passed = passed.load(Ordering::Relaxed);
    assert!(passed < (6 << 20), "{passed} bytes came for {}", content.len());
}
