//! From a request that has ended to the spans of its trace: itself, and one for each phase that it had. Pure.

use std::{
    borrow::Cow,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tonic::Code;

use super::record::{Answered, Protocol, Record};

/// The spans of a request, its own first; none where it is in no trace. `id` makes the ids of the phases' spans.
pub fn spans(record: &Record, scope: &InstrumentationScope, mut id: impl FnMut() -> SpanId) -> Vec<SpanData> {
    let Some(trace) = &record.trace else { return Vec::new() };
    let clock = |at: Instant| record.began_at + at.saturating_duration_since(record.began);
    let span = |id, parent, kind, name, [start, end]: [SystemTime; 2], attributes| SpanData {
        span_context: SpanContext::new(trace.id, id, TraceFlags::SAMPLED, false, trace.state.clone()),
        parent_span_id: parent,
        parent_span_is_remote: kind == SpanKind::Server && parent != SpanId::INVALID,
        span_kind: kind,
        name,
        start_time: start,
        end_time: end,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    };
    let times = [record.began_at, clock(record.ended)];
    let mut own = span(trace.span, trace.parent, SpanKind::Server, name(record), times, attributes(record));
    own.status = status(record);
    let mut spans = vec![own];
    for Phase { name, times, attributes } in phases(record) {
        spans.push(span(id(), trace.span, SpanKind::Internal, name.into(), times.map(clock), attributes));
    }
    spans
}

struct Phase {
    name: &'static str,
    times: [Instant; 2],
    attributes: Vec<KeyValue>,
}

/// The phases that a request had, in their order, all within it.
fn phases(record: &Record) -> Vec<Phase> {
    let phase = |name, start, end, attributes| Phase { name, times: [start, end], attributes };
    let mut phases = Vec::new();
    if let Some(arrived) = record.arrived {
        phases.push(phase("receive", record.began, arrived, vec![integer("flotilla.bytes", record.bytes_in)]));
    }
    let Some(Answered { at, timing, batch_rows }) = record.answer else { return phases };
    let earliest = record.arrived.unwrap_or(record.began);
    let [start, end] = timing.executed.unwrap_or([at, at]);
    // What came before the execution is known by its length.
    let before = |end: Instant, length| end.checked_sub(length).unwrap_or(earliest).max(earliest);
    let queued = before(start, timing.queue);
    if timing.decode > Duration::ZERO {
        phases.push(phase(
            "decode",
            before(queued, timing.decode),
            queued,
            vec![integer("flotilla.images", record.images)],
        ));
    }
    phases.push(phase("queue", queued, start, Vec::new()));
    let microseconds = |name, time: Duration| KeyValue::new(name, i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    let attributes = vec![
        integer("flotilla.batch.size", batch_rows),
        microseconds("flotilla.compute.input.microseconds", timing.compute_input),
        microseconds("flotilla.compute.infer.microseconds", timing.compute),
        microseconds("flotilla.compute.output.microseconds", timing.compute_output),
    ];
    phases.push(phase("execute", start, end, attributes));
    phases.push(phase("reply", at, record.ended, Vec::new()));
    phases
}

/// By the conventions: the method and the route of HTTP, the call's full name over gRPC.
fn name(record: &Record) -> Cow<'static, str> {
    match record.protocol {
        Protocol::Grpc => record.path.trim_start_matches('/').to_owned().into(),
        Protocol::Http => match route(&record.path) {
            Some(route) => format!("{} {route}", record.method).into(),
            None => record.method.clone().into(),
        },
    }
}

/// The route that a path belongs to, without the names in it; none where there is no such route.
fn route(path: &str) -> Option<String> {
    const OF_MODELS: [&str; 5] = ["", "/infer", "/config", "/stats", "/trace/setting"];
    const OTHERS: [&str; 6] =
        ["/v2", "/v2/models/stats", "/v2/repository/index", "/v2/trace/setting", "/v2/logging", "/v1/embed"];
    if OTHERS.contains(&path) {
        return Some(path.to_owned());
    }
    if let Some(rest) = path.strip_prefix("/v2/repository/models/") {
        let (_, verb) = rest.split_once('/')?;
        return matches!(verb, "load" | "unload").then(|| format!("/v2/repository/models/{{model}}/{verb}"));
    }
    let rest = path.strip_prefix("/v2/models/")?;
    let rest = rest.find('/').map_or("", |slash| &rest[slash..]);
    let (prefix, rest) = match rest.strip_prefix("/versions/") {
        Some(version) => {
            ("/v2/models/{model}/versions/{version}", version.find('/').map_or("", |slash| &version[slash..]))
        }
        None => ("/v2/models/{model}", rest),
    };
    OF_MODELS.contains(&rest).then(|| format!("{prefix}{rest}"))
}

fn attributes(record: &Record) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("client.address", record.peer.ip().to_string()),
        KeyValue::new("client.port", i64::from(record.peer.port())),
        integer("flotilla.images", record.images),
    ];
    let mut text = |name, text: &str| {
        if !text.is_empty() {
            attributes.push(KeyValue::new(name, text.to_owned()));
        }
    };
    text("flotilla.model.name", &record.model);
    text("flotilla.model.version", &record.version);
    text("flotilla.request.id", &record.id);
    match record.protocol {
        Protocol::Http => {
            text("http.request.method", &record.method);
            text("url.path", &record.path);
            text("url.scheme", "http");
            text("http.route", &route(&record.path).unwrap_or_default());
            attributes.push(KeyValue::new("http.response.status_code", i64::from(record.status)));
            attributes.push(integer("http.request.body.size", record.bytes_in));
            attributes.push(integer("http.response.body.size", record.bytes_out));
        }
        Protocol::Grpc => {
            let (service, method) = record.path.trim_start_matches('/').split_once('/').unwrap_or_default();
            text("rpc.system", "grpc");
            text("rpc.service", service);
            text("rpc.method", method);
            attributes.push(KeyValue::new("rpc.grpc.status_code", i64::from(record.status)));
            attributes.push(integer("rpc.message.received.size", record.bytes_in));
            attributes.push(integer("rpc.message.sent.size", record.bytes_out));
        }
    }
    if record.has_failed() {
        attributes.push(KeyValue::new("error.type", record.status.to_string()));
    }
    attributes
}

/// By the conventions of servers: what is the client's fault is no error of the span.
fn status(record: &Record) -> Status {
    let is_ours = match record.protocol {
        Protocol::Http => record.status >= 500,
        Protocol::Grpc => matches!(
            Code::from_i32(record.status.into()),
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
    };
    if is_ours { Status::error(record.error.clone()) } else { Status::Unset }
}

fn integer(name: &'static str, value: usize) -> KeyValue {
    KeyValue::new(name, i64::try_from(value).unwrap_or(i64::MAX))
}
