//! Which requests are watched and traced, and what spans come of them.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry::{InstrumentationScope, Value, trace::Status};
use opentelemetry_sdk::trace::SpanData;

use super::{record::Answered, *};
use crate::engine::Timing;

const MS: Duration = Duration::from_millis(1);

/// A request of three images that took 16 ms, at noon.
pub(super) fn record() -> Record {
    let began = Instant::now();
    let noon = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_867_200_250);
    let started = began + 7 * MS + Duration::from_micros(400);
    let timing = Timing {
        decode: 2 * MS,
        queue: 4 * MS,
        compute_input: Duration::from_micros(100),
        compute: 8 * MS,
        compute_output: Duration::from_micros(50),
        executed: Some([started, started + Duration::from_micros(8_150)]),
    };
    Record {
        protocol: Protocol::Http,
        method: "POST".to_owned(),
        path: "/v2/models/clip/infer".to_owned(),
        peer: "10.1.2.3:4567".parse().unwrap(),
        began,
        began_at: noon,
        trace: Some(Trace {
            id: TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
            span: SpanId::from(0xaa),
            parent: SpanId::from(0xbb),
            is_sampled: true,
            state: "a=1".parse().unwrap(),
        }),
        model: "clip".to_owned(),
        version: "2".to_owned(),
        id: "r-1".to_owned(),
        images: 3,
        bytes_in: 30_000,
        bytes_out: 6_144,
        arrived: Some(began + MS),
        answer: Some(Answered { at: began + 15 * MS + Duration::from_micros(650), timing, batch_rows: 8 }),
        ended: began + 16 * MS,
        status: 200,
        error: String::new(),
    }
}

fn spans_of(record: &Record) -> Vec<SpanData> {
    let mut next = 0;
    spans::spans(record, &InstrumentationScope::default(), || {
        next += 1;
        SpanId::from(next)
    })
}

fn attribute(span: &SpanData, name: &str) -> Option<Value> {
    let mut found = span.attributes.iter().filter(|pair| pair.key.as_str() == name);
    let value = found.next().map(|pair| pair.value.clone());
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

/// Names with their beginnings and ends, in microseconds since the request began.
fn times(spans: &[SpanData]) -> Vec<(String, u128, u128)> {
    let began = spans[0].start_time;
    let since = |time: SystemTime| time.duration_since(began).unwrap().as_micros();
    spans.iter().map(|span| (span.name.to_string(), since(span.start_time), since(span.end_time))).collect()
}

#[test]
fn a_request_has_a_span_and_one_for_each_phase() {
    let record = record();
    let spans = spans_of(&record);
    let name = |name: &str, start, end| (name.to_owned(), start, end);
    assert_eq!(
        times(&spans),
        [
            name("POST /v2/models/{model}/infer", 0, 16_000),
            name("receive", 0, 1_000),
            name("decode", 1_400, 3_400),
            name("queue", 3_400, 7_400),
            name("execute", 7_400, 15_550),
            name("reply", 15_650, 16_000),
        ]
    );
    assert_eq!(spans[0].start_time, record.began_at);
    assert_eq!(spans[0].parent_span_id, SpanId::from(0xbb));
    assert!(spans[0].parent_span_is_remote);
    for (index, span) in spans.iter().enumerate().skip(1) {
        assert_eq!(span.parent_span_id, SpanId::from(0xaa), "{}", span.name);
        assert_eq!(span.span_context.span_id(), SpanId::from(index as u64));
        assert_eq!(span.span_context.trace_state().header(), "a=1");
    }
    for (name, value) in [
        ("http.request.method", Value::from("POST")),
        ("http.route", "/v2/models/{model}/infer".into()),
        ("url.path", "/v2/models/clip/infer".into()),
        ("http.response.status_code", 200.into()),
        ("http.request.body.size", 30_000.into()),
        ("client.address", "10.1.2.3".into()),
        ("flotilla.model.name", "clip".into()),
        ("flotilla.model.version", "2".into()),
        ("flotilla.request.id", "r-1".into()),
        ("flotilla.images", 3.into()),
    ] {
        assert_eq!(attribute(&spans[0], name), Some(value), "{name}");
    }
    assert_eq!(attribute(&spans[4], "flotilla.batch.size"), Some(8.into()));
    assert_eq!(attribute(&spans[4], "flotilla.compute.infer.microseconds"), Some(8_000.into()));
}

#[test]
fn phases_that_a_request_did_not_have_have_no_span() {
    let tensors = Record {
        answer: record()
            .answer
            .map(|answer| Answered { timing: Timing { decode: Duration::ZERO, ..answer.timing }, ..answer }),
        ..record()
    };
    assert_eq!(spans_of(&tensors).len(), 5);
    let refused = Record { answer: None, ..record() };
    assert_eq!(
        times(&spans_of(&refused)).iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
        ["POST /v2/models/{model}/infer", "receive"]
    );
    assert_eq!(spans_of(&Record { trace: None, ..record() }), []);
}

#[test]
fn only_the_server_s_own_errors_are_errors_of_the_span() {
    let failed = |protocol, status| Record {
        protocol,
        status,
        error: "why".to_owned(),
        path: "/inference.GRPCInferenceService/ModelInfer".to_owned(),
        ..record()
    };
    for (protocol, status, is_error) in [
        (Protocol::Http, 200, false),
        (Protocol::Http, 429, false),
        (Protocol::Http, 499, false),
        (Protocol::Http, 503, true),
        (Protocol::Grpc, 0, false),
        (Protocol::Grpc, 1, false),
        (Protocol::Grpc, 3, false),
        (Protocol::Grpc, 8, false),
        (Protocol::Grpc, 13, true),
        (Protocol::Grpc, 14, true),
    ] {
        let record = failed(protocol, status);
        let span = spans_of(&record).remove(0);
        assert_eq!(span.status == Status::error("why"), is_error, "{protocol:?} {status}");
        let kind = record.has_failed().then(|| Value::from(status.to_string()));
        assert_eq!(attribute(&span, "error.type"), kind, "{protocol:?} {status}");
    }
    let grpc = spans_of(&failed(Protocol::Grpc, 8)).remove(0);
    assert_eq!(grpc.name, "inference.GRPCInferenceService/ModelInfer");
    for (name, value) in [
        ("rpc.system", Value::from("grpc")),
        ("rpc.service", "inference.GRPCInferenceService".into()),
        ("rpc.method", "ModelInfer".into()),
        ("rpc.grpc.status_code", 8.into()),
    ] {
        assert_eq!(attribute(&grpc, name), Some(value), "{name}");
    }
}

#[test]
fn a_route_has_no_names_in_it() {
    for (path, route) in [
        ("/v2/models/clip/infer", Some("POST /v2/models/{model}/infer")),
        ("/v2/models/clip", Some("POST /v2/models/{model}")),
        ("/v2/models/clip/versions/3/infer", Some("POST /v2/models/{model}/versions/{version}/infer")),
        ("/v2/models/clip/versions/3", Some("POST /v2/models/{model}/versions/{version}")),
        ("/v2/models/stats", Some("POST /v2/models/stats")),
        ("/v2/repository/models/clip/load", Some("POST /v2/repository/models/{model}/load")),
        ("/v2/repository/models/clip/infer", None),
        ("/v1/embed", Some("POST /v1/embed")),
        ("/v2/models/clip/secret", None),
        ("/anything", None),
    ] {
        let record = Record { path: path.to_owned(), ..record() };
        assert_eq!(spans_of(&record)[0].name, route.unwrap_or("POST"), "{path}");
    }
}

fn telemetry(tracer: Option<f64>, access_log: bool) -> Telemetry {
    let file = format!(r#"{{"enabled":{access_log}}}"#);
    Telemetry {
        access_log: Choice::new(&serde_json::from_str(&file).unwrap()),
        // Nothing listens there, and nothing is sent in these tests.
        tracer: tracer
            .map(|ratio| Tracer { ratio, exporter: Exporter::start("http://127.0.0.1:9/v1/traces").unwrap() }),
    }
}

#[test]
fn the_parent_decides_and_the_ratio_where_there_is_none() {
    let parent = |is_sampled| {
        Some(Parent { trace: TraceId::from(7), span: SpanId::from(8), is_sampled, state: TraceState::default() })
    };
    for (ratio, parent, expected) in
        [(0.0, parent(true), true), (1.0, parent(false), false), (0.0, None, false), (1.0, None, true)]
    {
        let telemetry = telemetry(Some(ratio), false);
        let trace = telemetry.trace(parent.clone()).unwrap();
        assert_eq!(trace.is_sampled, expected, "{ratio} {parent:?}");
        let sibling = telemetry.sibling(&trace);
        assert_eq!((sibling.parent, sibling.is_sampled), (trace.parent, expected));
        assert_ne!(sibling.span, trace.span);
        match parent {
            Some(parent) => assert_eq!((trace.id, trace.parent, sibling.id), (parent.trace, parent.span, parent.trace)),
            None => assert_ne!(sibling.id, trace.id, "each message begins a trace of its own"),
        }
    }
}

#[test]
fn without_traces_the_log_names_the_client_s() {
    let parent =
        Parent { trace: TraceId::from(7), span: SpanId::from(8), is_sampled: true, state: TraceState::default() };
    let trace = telemetry(None, true).trace(Some(parent)).unwrap();
    assert_eq!((trace.id, trace.span, trace.is_sampled), (TraceId::from(7), SpanId::from(8), false));
    assert_eq!(telemetry(None, true).trace(None), None);
}

#[test]
fn nothing_is_watched_when_nothing_is_told_and_no_probe_ever() {
    let is_watched = |telemetry: Telemetry, path: &str| {
        let mut request = Request::post(path).body(()).unwrap();
        Arc::new(telemetry).watch(Protocol::Http, "127.0.0.1:1".parse().unwrap(), &mut request);
        !request.extensions().is_empty()
    };
    assert!(is_watched(telemetry(None, true), "/v2/models/clip/infer"));
    assert!(is_watched(telemetry(Some(0.0), false), "/inference.GRPCInferenceService/ModelInfer"));
    assert!(!is_watched(telemetry(None, false), "/v2/models/clip/infer"));
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/clip/ready",
        "/v2/models/clip/versions/1/ready",
        "/grpc.health.v1.Health/Check",
        "/inference.GRPCInferenceService/ServerReady",
        "/inference.GRPCInferenceService/ModelReady",
    ] {
        assert!(!is_watched(telemetry(Some(1.0), true), path), "{path}");
    }
}
