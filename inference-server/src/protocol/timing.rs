//! Where one request's time went, in a header that browsers and people read: `Server-Timing`.

use axum::http::{HeaderName, HeaderValue};
use bytes::Bytes;

use crate::{engine::Answer, metrics::micros};

/// The header, of a response over HTTP and of a call over gRPC.
pub const TIMING: &str = "server-timing";
/// The same for HTTP.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static(TIMING);

const DIGITS: [u8; 10] = *b"0123456789";

/// The header's value.
pub fn server_timing(answer: &Answer) -> HeaderValue {
    let mut text = Vec::with_capacity(128);
    write(answer, &mut text);
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// The phases in milliseconds, and the size of the batch. Every answer has it, so it is written without a formatter's detours.
pub fn write(answer: &Answer, text: &mut Vec<u8>) {
    let timing = &answer.timing;
    for (name, duration) in [
        ("decode", timing.decode),
        ("queue", timing.queue),
        ("input", timing.compute_input),
        ("compute", timing.compute),
        ("output", timing.compute_output),
    ] {
        let micros = micros(duration);
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b";dur=");
        text.extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
        text.push(b'.');
        let digit = |place: u64| DIGITS[usize::try_from(micros / place % 10).unwrap_or(0)];
        text.extend_from_slice(&[digit(100), digit(10), digit(1), b',', b' ']);
    }
    text.extend_from_slice(b"batch;desc=\"");
    text.extend_from_slice(itoa::Buffer::new().format(answer.batch_rows).as_bytes());
    text.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::Timing;

    #[test]
    fn phases_are_milliseconds() {
        let timing =
            Timing { queue: Duration::from_micros(12_034), compute: Duration::from_micros(1_070), ..Timing::default() };
        let answer = Answer { outputs: Vec::new(), batch_rows: 8, timing };
        let expected = r#"decode;dur=0.000, queue;dur=12.034, input;dur=0.000, compute;dur=1.070, output;dur=0.000, batch;desc="8""#;
        assert_eq!(server_timing(&answer), expected);
    }
}
