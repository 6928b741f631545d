//! The bytes of a response, as the library would write them.

use std::time::SystemTime;

use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected};
use httpdate::HttpDate;

use crate::{http::infer::Answered, protocol::timing};

/// Writes one response after another into the same memory.
#[derive(Default)]
pub(super) struct Writer {
    head: Vec<u8>,
    body: Bytes,
    date: Option<(HttpDate, String)>,
}

impl Writer {
    /// The model's answer.
    pub(super) fn answer(&mut self, Answered { reply, answer }: Answered, is_last: bool) {
        self.head.clear();
        self.head.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: ");
        self.head.extend_from_slice(reply.content_type().as_bytes());
        if let Some(length) = reply.header_length {
            self.head.extend_from_slice(b"\r\ninference-header-content-length: ");
            self.number(length);
        }
        self.head.extend_from_slice(b"\r\nserver-timing: ");
        timing::write(&answer, &mut self.head);
        self.head.extend_from_slice(b"\r\n");
        self.finish(reply.body, is_last);
    }

    /// Any other response.
    pub(super) async fn response(&mut self, response: Response, is_last: bool) {
        let (parts, body) = response.into_parts();
        self.head.clear();
        self.head.extend_from_slice(b"HTTP/1.1 ");
        self.head.extend_from_slice(parts.status.as_str().as_bytes());
        self.head.push(b' ');
        self.head.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes());
        self.head.extend_from_slice(b"\r\n");
        for (name, value) in &parts.headers {
            self.head.extend_from_slice(name.as_str().as_bytes());
            self.head.extend_from_slice(b": ");
            self.head.extend_from_slice(value.as_bytes());
            self.head.extend_from_slice(b"\r\n");
        }
        // It is there in one piece; reading it can't fail.
        let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
        self.finish(body, is_last);
    }

    /// Head and body.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        (&self.head, &self.body)
    }

    fn finish(&mut self, body: Bytes, is_last: bool) {
        if is_last {
            self.head.extend_from_slice(b"connection: close\r\n");
        }
        self.head.extend_from_slice(b"content-length: ");
        self.number(body.len());
        self.head.extend_from_slice(b"\r\ndate: ");
        let now = HttpDate::from(SystemTime::now());
        let (_, date) = match &mut self.date {
            Some(known) if known.0 == now => known,
            // It changes once a second.
            other => other.insert((now, now.to_string())),
        };
        self.head.extend_from_slice(date.as_bytes());
        self.head.extend_from_slice(b"\r\n\r\n");
        self.body = body;
    }

    fn number(&mut self, number: usize) {
        self.head.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}
