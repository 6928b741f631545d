//! Where one request's time went, in a header that browsers and people read: `Server-Timing`.

use std::fmt::Write as _;

use axum::http::{HeaderName, HeaderValue};

use crate::{engine::Answer, metrics::micros};

/// The header, of a response over HTTP and of a call over gRPC.
pub const TIMING: &str = "server-timing";
/// The same for HTTP.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static(TIMING);

/// The phases in milliseconds, and the size of the batch.
pub fn server_timing(answer: &Answer) -> HeaderValue {
    let timing = &answer.timing;
    let mut text = String::with_capacity(128);
    for (name, duration) in [
        ("decode", timing.decode),
        ("queue", timing.queue),
        ("input", timing.compute_input),
        ("compute", timing.compute),
        ("output", timing.compute_output),
    ] {
        // Of 64 bits: those of 128 that a duration counts in take ten times as long to write.
        let micros = micros(duration);
        // Writing to a string can't fail.
        let _written = write!(text, "{name};dur={}.{:03}, ", micros / 1000, micros % 1000);
    }
    let _written = write!(text, "batch;desc=\"{}\"", answer.batch_rows);
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::Timing;

    #[test]
    fn phases_are_milliseconds() {
        let timing =
            Timing { queue: Duration::from_micros(12_034), compute: Duration::from_micros(7), ..Timing::default() };
        let answer = Answer { outputs: Vec::new(), batch_rows: 8, timing };
        let expected = r#"decode;dur=0.000, queue;dur=12.034, input;dur=0.000, compute;dur=0.007, output;dur=0.000, batch;desc="8""#;
        assert_eq!(server_timing(&answer), expected);
    }
}
