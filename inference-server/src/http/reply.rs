//! A response's body, compressed where its client asks for that and it is worth the while.

use std::io;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;

use super::infer_response::HEADER_LENGTH;
use crate::protocol::inflate::Encoding;

/// A smaller body costs more to compress than to send.
const WORTH_COMPRESSING: usize = 4 * 1024;
/// A larger one is compressed on a thread that may take its time.
const SMALL: usize = 64 * 1024;

/// What is to be sent.
pub(super) struct Reply {
    /// JSON, with binary tensors behind it where there is a header length.
    pub(super) body: Bytes,
    /// The length of the JSON in front of the binary tensors.
    pub(super) header_length: Option<usize>,
}

impl Reply {
    /// What it is.
    pub(super) fn content_type(&self) -> &'static str {
        if self.header_length.is_some() { "application/octet-stream" } else { "application/json" }
    }

    /// Whether it is sent compressed to a client that accepts that.
    pub(super) fn is_worth_compressing(&self) -> bool {
        self.body.len() >= WORTH_COMPRESSING
    }
}

/// The compression that a client accepts.
pub(super) fn accepted(headers: &HeaderMap) -> Option<Encoding> {
    Encoding::accepted(headers.get(header::ACCEPT_ENCODING)?.to_str().ok()?)
}

/// Makes a response of it.
pub(super) async fn respond(reply: Reply, encoding: Option<Encoding>) -> Response {
    let (content_type, is_worth_it) = (reply.content_type(), reply.is_worth_compressing());
    let Reply { mut body, header_length } = reply;
    let mut used = None;
    if let Some(encoding) = encoding.filter(|_| is_worth_it) {
        let compressed;
        (body, compressed) = compress(encoding, body).await;
        used = compressed.then_some(encoding);
    }
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = header_length {
        headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    if let Some(encoding) = used {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}

/// The body, and whether it is compressed; one that can't be is sent as it is.
async fn compress(encoding: Encoding, body: Bytes) -> (Bytes, bool) {
    let work = {
        let body = body.clone();
        move || encoding.deflate(&body)
    };
    let result = if body.len() <= SMALL {
        work()
    } else {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    match result {
        Ok(compressed) => (Bytes::from(compressed), true),
        Err(error) => {
            tracing::error!(%error, "a response can't be compressed");
            (body, false)
        }
    }
}
