//! The access log: one line for a request that has ended, in the log's form. Which requests, and what is said of them.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::record::Record;
use crate::{log, settings::telemetry::AccessLog};

/// The name that lines have where others have the name of a module.
const TARGET: &str = "access";

/// Which requests get a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    fraction: f64,
    slow: Option<Duration>,
}

impl Choice {
    /// As the settings have it; none where nothing is logged.
    pub fn new(settings: &AccessLog) -> Option<Self> {
        settings.enabled.then(|| Self {
            fraction: settings.fraction.value(),
            slow: settings.slow_milliseconds.map(Duration::from_millis),
        })
    }

    /// Whether a request gets a line: failed and slow ones always, others by chance. `chance` is from 0, and less than 1.
    pub fn takes(&self, record: &Record, chance: impl FnOnce() -> f64) -> bool {
        record.has_failed()
            || self.slow.is_some_and(|slow| record.total() >= slow)
            || self.fraction >= 1.0
            || (self.fraction > 0.0 && chance() < self.fraction)
    }
}

/// Writes a line.
pub fn write(record: &Record) {
    if let Some(is_json) = log::is_json() {
        log::put(if is_json { json_line(record) } else { text_line(record) });
    }
}

/// A value of a field.
enum Value<'a> {
    Text(&'a str),
    Number(u128),
}

/// The fields in their order. What is not known is left out.
fn fields(record: &Record, put: &mut impl FnMut(&'static str, Value<'_>)) {
    let text = |put: &mut dyn FnMut(&'static str, Value<'_>), name, text: &str| {
        if !text.is_empty() {
            put(name, Value::Text(text));
        }
    };
    let micros = |put: &mut dyn FnMut(&'static str, Value<'_>), name, time: Option<Duration>| {
        if let Some(time) = time {
            put(name, Value::Number(time.as_micros()));
        }
    };
    put("message", Value::Text("request"));
    put("protocol", Value::Text(record.protocol.name()));
    put("method", Value::Text(&record.method));
    put("path", Value::Text(&record.path));
    text(put, "model", &record.model);
    text(put, "version", &record.version);
    put("status", Value::Number(record.status.into()));
    text(put, "request_id", &record.id);
    put("client", Value::Text(&record.peer.to_string()));
    if record.images > 0 {
        put("images", Value::Number(record.images as u128));
    }
    put("bytes_in", Value::Number(record.bytes_in as u128));
    put("bytes_out", Value::Number(record.bytes_out as u128));
    micros(put, "receive_us", record.receive());
    if let Some(answer) = &record.answer {
        let timing = &answer.timing;
        micros(put, "decode_us", Some(timing.decode));
        micros(put, "queue_us", Some(timing.queue));
        micros(put, "compute_input_us", Some(timing.compute_input));
        micros(put, "compute_infer_us", Some(timing.compute));
        micros(put, "compute_output_us", Some(timing.compute_output));
        put("batch", Value::Number(answer.batch_rows as u128));
    }
    micros(put, "reply_us", record.reply());
    micros(put, "total_us", Some(record.total()));
    if let Some(trace) = &record.trace {
        put("trace_id", Value::Text(&trace.id.to_string()));
        put("span_id", Value::Text(&trace.span.to_string()));
    }
    text(put, "error", &record.error);
}

/// The line has the time at which the request began, which is what clients know.
fn timestamp(record: &Record) -> String {
    Timestamp::try_from(record.began_at).map(|time| format!("{time:.6}")).unwrap_or_default()
}

/// As `tracing_subscriber` writes its JSON.
fn json_line(record: &Record) -> Vec<u8> {
    use std::io::Write as _;

    let mut line = Vec::with_capacity(768);
    // Writing to memory can't fail.
    let _written = write!(line, r#"{{"timestamp":"{}","level":"INFO","fields":{{"#, timestamp(record));
    let mut separator = "";
    fields(record, &mut |name, value| {
        let _written = write!(line, r#"{separator}"{name}":"#);
        separator = ",";
        let _written = match value {
            Value::Text(text) => serde_json::to_writer(&mut line, text).map_err(Into::into),
            Value::Number(number) => write!(line, "{number}"),
        };
    });
    let _written = writeln!(line, r#"}},"target":"{TARGET}"}}"#);
    line
}

/// As `tracing_subscriber` writes its text.
fn text_line(record: &Record) -> Vec<u8> {
    use std::fmt::Write as _;

    let mut line = String::with_capacity(512);
    let _written = write!(line, "{}  INFO {TARGET}:", timestamp(record));
    fields(record, &mut |name, value| {
        let _written = match value {
            Value::Text(text) if name == "message" => write!(line, " {text}"),
            Value::Text(text) => write!(line, " {name}={}", json!(text)),
            Value::Number(number) => write!(line, " {name}={number}"),
        };
    });
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{record::Protocol, tests::record};

    #[test]
    fn failed_and_slow_requests_always_get_a_line_and_others_by_chance() {
        let choice = |fraction, slow| Choice { fraction, slow };
        let quick = record();
        let took = quick.total();
        let failed = Record { status: 429, ..record() };
        let grpc = Record { protocol: Protocol::Grpc, status: 8, ..record() };
        for (choice, record, chance, expected) in [
            (choice(1.0, None), &quick, 0.999, true),
            (choice(0.0, None), &quick, 0.0, false),
            (choice(0.25, None), &quick, 0.2, true),
            (choice(0.25, None), &quick, 0.25, false),
            (choice(0.0, None), &failed, 0.9, true),
            (choice(0.0, None), &grpc, 0.9, true),
            (choice(0.0, Some(took)), &quick, 0.9, true),
            (choice(0.0, Some(took + Duration::from_micros(1))), &quick, 0.9, false),
        ] {
            assert_eq!(choice.takes(record, || chance), expected, "{choice:?} {}", record.status);
        }
    }

    #[test]
    fn a_line_of_json_has_every_field_once() {
        let record = Record { error: "a \"quoted\"\nsentence".to_owned(), ..record() };
        let line = String::from_utf8(json_line(&record)).unwrap();
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            json!({
                "timestamp": "2026-11-28T12:00:00.250000Z", "level": "INFO", "target": "access",
                "fields": {
                    "message": "request", "protocol": "http", "method": "POST", "path": "/v2/models/clip/infer",
                    "model": "clip", "version": "2", "status": 200, "request_id": "r-1", "client": "10.1.2.3:4567",
                    "images": 3, "bytes_in": 30_000, "bytes_out": 6_144, "receive_us": 1_000, "decode_us": 2_000,
                    "queue_us": 4_000, "compute_input_us": 100, "compute_infer_us": 8_000, "compute_output_us": 50,
                    "batch": 8, "reply_us": 350, "total_us": 16_000,
                    "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "00000000000000aa",
                    "error": "a \"quoted\"\nsentence",
                },
            })
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let record = Record {
            model: String::new(),
            version: String::new(),
            id: String::new(),
            images: 0,
            arrived: None,
            answer: None,
            trace: None,
            ..record()
        };
        assert_eq!(
            String::from_utf8(text_line(&record)).unwrap(),
            "2026-11-28T12:00:00.250000Z  INFO access: request protocol=\"http\" method=\"POST\" \
             path=\"/v2/models/clip/infer\" status=200 client=\"10.1.2.3:4567\" bytes_in=30000 bytes_out=6144 \
             total_us=16000\n"
        );
    }
}
