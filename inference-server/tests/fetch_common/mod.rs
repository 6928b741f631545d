//! What the tests of the fetcher share: a web server that cuts connections and counts what it was asked, and a request to fill in.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, StatusCode, Uri as HttpUri, header},
    response::{IntoResponse as _, Response},
};
use flotilla_server::fetch::{Error, Request, credentials::Credentials, digest, fetch, receipt::Receipt, uri::Uri};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A destination, and a request to fill it.
pub struct Order {
    folder: TempDir,
    pub request: Request,
}

impl Order {
    /// For this URI, with credentials by their names.
    pub fn new(uri: &str, credentials: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let value =
            |name: &str| credentials.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let request = Request {
            uri: Uri::parse(uri, true).unwrap(),
            uri_text: uri.to_owned(),
            destination: folder.path().join("entry"),
            sha256: None,
            max_bytes: 64 << 20,
            timeout: Duration::from_mins(1),
            credentials: Credentials::read(value),
        };
        Self { folder, request }
    }

    pub fn sha256(mut self, sha256: &str) -> Self {
        self.request.sha256 = Some(sha256.to_owned());
        self
    }

    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.request.max_bytes = max_bytes;
        self
    }

    pub async fn fetch(&self) -> Result<Receipt, Error> {
        fetch(&self.request).await
    }

    /// The reason and the text of the failure that there has to be. Nothing may be at the destination then.
    pub async fn failure(&self) -> (String, String) {
        let failure = self.fetch().await.expect_err("it has to fail").into_failure();
        assert!(!self.request.destination.exists(), "a failed fetch leaves no model");
        (format!("{:?}", failure.reason), failure.to_json())
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.request.destination.join(file)
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// Begins, and is stopped when so much of the file is on the disk.
    pub async fn stopped_after(&self, file: &str, bytes: u64) {
        let path = self.partial().join("files").join(file);
        let stored = async {
            while path.metadata().map_or(0, |file| file.len()) < bytes {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            fetched = self.fetch() => panic!("it ended before it was stopped: {fetched:?}"),
            () = stored => {}
        }
    }

    /// Where partial downloads are.
    pub fn partial(&self) -> PathBuf {
        self.folder.path().join("entry.partial")
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    digest::hex(Sha256::new_with_prefix(bytes))
}

/// Bytes that no compression makes small and no shift leaves the same.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

/// What a server was asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Asked {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// A status, headers and a body.
type Answer = (u16, Vec<(&'static str, String)>, String);

/// What a server does.
#[derive(Default)]
pub struct Script {
    /// Paths (queries included) with their content and ETag.
    pub files: BTreeMap<String, (Vec<u8>, String)>,
    /// Paths with their status and headers.
    pub answers: BTreeMap<String, Answer>,
    /// Answers with a file are cut after so many bytes, one number each.
    pub cuts: VecDeque<usize>,
    /// What is cut does not end the connection: nothing comes any more.
    pub stalls: bool,
    /// All requests so far.
    pub asked: Vec<Asked>,
}

/// A web server on this machine.
#[derive(Clone)]
pub struct Web {
    pub url: String,
    pub script: Arc<Mutex<Script>>,
}

impl Web {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&script));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, script }
    }

    /// With a certificate for 127.0.0.1 of its own, which comes back as PEM.
    pub async fn start_tls() -> (Self, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", tcp.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&script));
        let listener = Encrypted { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) };
        tokio::spawn(async move { axum::serve(listener, app).await });
        (Self { url, script }, cert.pem())
    }

    pub fn file(&self, path: &str, content: &[u8], etag: &str) -> &Self {
        self.script.lock().unwrap().files.insert(path.to_owned(), (content.to_vec(), etag.to_owned()));
        self
    }

    pub fn answer(&self, path: &str, status: u16, headers: &[(&'static str, &str)], body: &str) -> &Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.script.lock().unwrap().answers.insert(path.to_owned(), (status, headers, body.to_owned()));
        self
    }

    pub fn cut(&self, after: &[usize]) -> &Self {
        self.script.lock().unwrap().cuts.extend(after);
        self
    }

    pub fn stall(&self, after: usize) -> &Self {
        self.script.lock().unwrap().stalls = true;
        self.cut(&[after])
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.script.lock().unwrap().asked)
    }
}

struct Encrypted {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (client, address) = self.tcp.accept().await.unwrap();
            // A client that does not trust the certificate goes away again.
            if let Ok(client) = self.acceptor.accept(client).await {
                return (client, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    uri: HttpUri,
    headers: HeaderMap,
    _: HttpRequest,
) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let path = uri.path_and_query().unwrap().as_str().to_owned();
    let range = text(header::RANGE);
    let mut script = script.lock().unwrap();
    let authorization = text(header::AUTHORIZATION);
    script.asked.push(Asked { path: path.clone(), range: range.clone(), authorization });
    if let Some((status, headers, body)) = script.answers.get(&path).cloned() {
        let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        return response;
    }
    let Some((content, etag)) = script.files.get(&path).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let total = content.len();
    let from: Option<usize> = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from = from.filter(|_| text(header::IF_RANGE).is_none_or(|tag| tag == etag));
    let mut response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT");
    let content = match from {
        Some(from) if from >= total => {
            let range = format!("bytes */{total}");
            return response.status(416).header(header::CONTENT_RANGE, range).body(Body::empty()).unwrap();
        }
        Some(from) => {
            response =
                response.status(206).header(header::CONTENT_RANGE, format!("bytes {from}-{}/{total}", total - 1));
            content[from..].to_vec()
        }
        None => content,
    };
    response = response.header(header::CONTENT_LENGTH, content.len());
    let body = match script.cuts.pop_front() {
        Some(cut) if cut < content.len() => {
            let first = futures::stream::iter([Ok(Bytes::copy_from_slice(&content[..cut]))]);
            let stalls = script.stalls;
            // The bytes have to be on their way before the end is.
            let end = futures::stream::once(async move {
                tokio::time::sleep(Duration::from_secs(if stalls { 600 } else { 1 })).await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(futures::StreamExt::chain(first, end))
        }
        _ => Body::from(content),
    };
    response.body(body).unwrap()
}

/// A tar archive of these entries: path, kind, content or link.
pub fn tar(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        // By hand: the crate would not write the paths that a hostile archive has.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name(std::str::from_utf8(content).unwrap()).unwrap();
        }
        let content: &[u8] = if kind.is_file() || kind.is_gnu_longname() { content } else { &[] };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The files below a folder, by their relative paths.
pub fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}
