//! What is known of one request when it has ended.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::trace::{SpanId, TraceId, TraceState};

use crate::engine::Timing;

/// The most bytes of what a client chose: its request's id, a path, a sentence about its error.
const MAX_TEXT: usize = 256;

/// One request, from its headers to its answer.
#[derive(Debug, Clone)]
pub struct Record {
    /// How it came.
    pub protocol: Protocol,
    /// The method of HTTP; POST over gRPC.
    pub method: String,
    /// The path, which is the call's name over gRPC.
    pub path: String,
    /// Who sent it.
    pub peer: SocketAddr,
    /// When its headers were read, or its message in a stream.
    pub began: Instant,
    /// The same by the wall clock.
    pub began_at: SystemTime,
    /// The trace that it belongs to, where it does.
    pub trace: Option<Trace>,
    /// The model that it is for; empty where it is for none, or for one that is not there.
    pub model: String,
    /// The model's version.
    pub version: String,
    /// What its client calls it.
    pub id: String,
    /// The images in it, or rows.
    pub images: usize,
    /// The bytes of its body or message, after inflating.
    pub bytes_in: usize,
    /// The bytes of its answer.
    pub bytes_out: usize,
    /// When its last byte was read.
    pub arrived: Option<Instant>,
    /// What the model's answer took.
    pub answer: Option<Answered>,
    /// When its answer was ready to be sent.
    pub ended: Instant,
    /// The status of HTTP, or the code of gRPC.
    pub status: u16,
    /// Why it has no answer.
    pub error: String,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// gRPC, which is HTTP/2 without TLS and without an upgrade.
    Grpc,
}

/// A request's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: TraceId,
    /// The request's own span.
    pub span: SpanId,
    /// Its client's span; the invalid one where the trace begins here.
    pub parent: SpanId,
    /// Whether the spans are exported.
    pub is_sampled: bool,
    /// What tracing systems along the way noted.
    pub state: TraceState,
}

/// What the engine says of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// When it was there.
    pub at: Instant,
    /// Its phases.
    pub timing: Timing,
    /// The rows of the batch that it was in.
    pub batch_rows: usize,
}

impl Record {
    /// The time from the headers to the answer.
    pub fn total(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }

    /// The time from the headers to the body's last byte.
    pub fn receive(&self) -> Option<Duration> {
        self.arrived.map(|arrived| arrived.saturating_duration_since(self.began))
    }

    /// The time from the model's answer to the response.
    pub fn reply(&self) -> Option<Duration> {
        self.answer.map(|answer| self.ended.saturating_duration_since(answer.at))
    }

    /// Whether its client got an error.
    pub fn has_failed(&self) -> bool {
        match self.protocol {
            Protocol::Http => self.status >= 400,
            Protocol::Grpc => self.status != 0,
        }
    }
}

impl Protocol {
    /// As the log has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// The beginning of a text, where it is long.
pub fn bounded(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        assert_eq!(bounded(&"x".repeat(300)).len(), 256);
        assert_eq!(bounded(&format!("x{}", "é".repeat(200))).len(), 255);
    }
}
