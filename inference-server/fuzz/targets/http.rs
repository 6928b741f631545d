//! Any body, by every route that takes one, through the whole server but for the sockets: never a 5xx, and what is refused
//! says why.
#![no_main]

mod timer;

use std::sync::LazyLock;

use axum::{Router, body::Body, http::Request};
use bytes::Bytes;
use flotilla_server::{
    http::{App, router},
    repository::Repository,
    settings::Settings,
    telemetry::Telemetry,
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

const MAX_BODY_BYTES: usize = 1 << 20;

#[derive(Debug, Arbitrary)]
struct Sent<'a> {
    route: Route,
    encoding: Encoding,
    content: Content,
    header_length: Option<u16>,
    json: &'a str,
    blob: &'a [u8],
}

#[derive(Debug, Arbitrary)]
enum Route {
    Infer,
    Embed,
    Index,
    Load,
}

#[derive(Debug, Arbitrary)]
enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

#[derive(Debug, Arbitrary)]
enum Content {
    Json,
    Octets,
    Jpeg,
}

struct Server {
    runtime: Runtime,
    router: Router,
    _folder: tempfile::TempDir,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let folder = timer::folder();
    let settings = serde_json::json!({"version": 1, "model": {"name": "m", "path": folder.path()}});
    let settings: Settings = serde_json::from_value(settings).expect("settings");
    let telemetry = Telemetry::start(&settings).expect("neither log nor traces");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let repository = Repository::open(settings, None).expect("a repository");
    let router = runtime.block_on(async {
        repository.load_all().expect("the model");
        router(App::new(repository, telemetry, MAX_BODY_BYTES))
    });
    Server { runtime, router, _folder: folder }
});

fuzz_target!(|sent: Sent<'_>| {
    let path = match sent.route {
        Route::Infer => "/v2/models/m/infer",
        Route::Embed => "/v1/embed",
        Route::Index => "/v2/repository/index",
        Route::Load => "/v2/repository/models/m/load",
    };
    let content = match sent.content {
        Content::Json => "application/json",
        Content::Octets => "application/octet-stream",
        Content::Jpeg => "image/jpeg",
    };
    let mut request = Request::post(path).header("content-type", content);
    match sent.encoding {
        Encoding::Identity => {}
        Encoding::Gzip => request = request.header("content-encoding", "gzip"),
        Encoding::Deflate => request = request.header("content-encoding", "deflate"),
    }
    if let Some(length) = sent.header_length {
        // Mostly the true length, so that what is behind the header is read too.
        let length = if length < 256 { usize::from(length) } else { sent.json.len() };
        request = request.header("inference-header-content-length", length);
    }
    let body = Bytes::from([sent.json.as_bytes(), sent.blob].concat());
    let request = request.body(Body::from(body)).expect("a request");
    let (status, body) = SERVER.runtime.block_on(async {
        let response = SERVER.router.clone().oneshot(request).await.expect("an answer");
        let status = response.status();
        (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body"))
    });
    assert!(!status.is_server_error() || status.as_u16() == 501, "{status}");
    if !status.is_success() {
        let error: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert!(error["error"].is_string(), "{error}");
    }
});
