//! The words, as files to be read; and the way to the operator, by a fake API server that passes on to the real routes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::explain::testing::{Told, fleet, measured};
use crate::explain::{Record, Records, router};
use crate::scaling::{MissingReason, Observation, ReplicaSample, Starting};

fn now() -> Timestamp {
    "2026-11-28T12:00:02Z".parse().unwrap()
}

fn service(scaling: &Value) -> InferenceService {
    let mut service = crate::fixtures::service(json!({"scaling": scaling}));
    service.status = serde_json::from_value(json!({
        "readyReplicas": 3,
        "scaling": {
            "desiredReplicas": 3, "reason": "OnTarget", "queueTimeMilliseconds": 12, "arrivalsPerSecond": "340",
            "capacityPerReplica": "137", "lastScaleTime": "2026-11-28T11:58:00Z",
            "history": [
                {"time": "2026-11-28T11:58:00Z", "from": 4, "to": 3, "reason": "DemandBelowCapacity"},
                {"time": "2026-11-28T09:30:00Z", "from": 1, "to": 4, "reason": "DemandAboveCapacity"},
            ],
        },
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "answers",
                        "lastTransitionTime": "2026-11-28T09:00:00Z"}],
    }))
    .unwrap();
    service
}

fn told(record: &Record) -> Report {
    let body = Explanation::new("default", "photos", record);
    Report::new(&service(&json!({})), Ok(Answer { pod: "flotilla-operator-7d9c5-abcde".to_owned(), body }))
}

/// Compares with a file of `testdata`; with FLOTILLA_UPDATE=1 it is written.
fn golden(name: &str, text: &str) {
    let path =
        std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("src/cli/explain/testdata").join(name);
    if std::env::var_os("FLOTILLA_UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{name}: FLOTILLA_UPDATE=1 writes it; read the difference");
}

/// What the documentation shows is what is printed.
#[test]
fn the_documentation_shows_these_words() {
    let read = |path: &str| {
        std::fs::read_to_string(std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join(path)).unwrap()
    };
    let page = read("docs/explain.md");
    for name in ["more", "window"] {
        assert!(page.contains(&read(&format!("src/cli/explain/testdata/{name}.txt"))), "docs/explain.md: {name}.txt");
    }
}

#[test]
fn more_are_ordered() {
    golden("more.txt", &text::text(&told(&Told::new().see(10, |now| fleet(3, 500.0, now))), now()));
}

#[test]
fn a_window_holds() {
    let mut law = Told::new();
    law.see(200, |now| fleet(4, 500.0, now));
    let record = law.see(30, |now| fleet(4, 100.0, now));
    golden("window.txt", &text::text(&told(&record), now()));
    assert_eq!(
        text::line(&told(&record), now()),
        "2026-11-28T12:00:00Z   4 replicas   ScaleDownWindow   100/s of 137/s a replica   12.3 ms waited of 20 ms\n"
    );
}

#[test]
fn replicas_are_slow_missing_and_settling() {
    let mut law = Told::new();
    law.see(10, |now| fleet(6, 600.0, now));
    let record = law.see(10, |now| {
        let mut seen = fleet(6, 600.0, now);
        let mut slow = measured(100.0, now);
        slow.batches.iter_mut().for_each(|batch| batch.seconds *= 20.0);
        let missing = |reason| ReplicaSample::Missing { since: now - Duration::from_secs(9), reason };
        seen.ready[0].sample = ReplicaSample::Measured(slow);
        seen.ready[1].sample = missing(MissingReason::Unreachable);
        seen.ready[2].sample = missing(MissingReason::NotYetSampled);
        seen.ready[3].sample =
            ReplicaSample::Measured(crate::scaling::Measurement { tainted: true, ..measured(100.0, now) });
        seen
    });
    golden("replicas.txt", &text::text(&told(&record), now()));
}

#[test]
fn no_node_takes_a_replica() {
    let record = Told::with(|settings| settings.max_replicas = 5).see(10, |now| {
        let waiting = Starting { since: now, restarts: 0, unschedulable: true };
        Observation { current: 4, starting: vec![waiting], ..fleet(3, 800.0, now) }
    });
    let record = Record { conflict: Some("photos-hpa".to_owned()), ..record };
    golden("scheduler.txt", &text::text(&told(&record), now()));
}

#[test]
fn nothing_waits_and_nothing_is_known() {
    let serial = |now| {
        let mut seen = fleet(1, 66.0, now);
        let mut one = measured(66.0, now);
        one.batches.truncate(1);
        one.batches[0] = crate::scaling::BatchDelta { size: 1.0, executions: 132.0, seconds: 1.98 };
        one.queue_time = Some(crate::scaling::QueueTime::default());
        (one.pending_images, one.pending_images_before) = (0.0, 0.0);
        seen.ready[0].sample = ReplicaSample::Measured(one);
        seen
    };
    golden("observed.txt", &text::text(&told(&Told::new().see(30, serial)), now()));
    golden(
        "nothing.txt",
        &text::text(&told(&Told::new().see(1, |_| Observation { current: 2, ..Observation::default() })), now()),
    );
}

#[test]
fn the_status_tells_where_the_operator_does_not() {
    let nobody =
        Unreachable::NoOperator { namespace: "flotilla-system".to_owned(), lease: "flotilla-operator".to_owned() };
    golden("status.txt", &text::text(&Report::new(&service(&json!({})), Err(nobody)), now()));
    let unread = Unreachable::NoDecision("it is new".to_owned());
    golden("external.txt", &text::text(&Report::new(&service(&json!({"mode": "External"})), Err(unread)), now()));
    let followed = Report { mode: "External", ..told(&Told::new().see(10, |now| fleet(3, 500.0, now))) };
    assert!(text::text(&followed, now()).contains("Acted on:  by whoever writes spec.replicas"));
    let advised = Report { mode: "Advisory", ..followed };
    let words = text::text(&advised, now());
    assert!(words.contains("Decision:  4 replicas (3 are ordered): DemandAboveCapacity"), "{words}");
    assert!(words.contains("Acted on:  by nobody: scaling.mode is Advisory"), "{words}");
    assert!(text::line(&advised, now()).contains("4 replicas   DemandAboveCapacity (Advisory)   "));
    let paused = Report { mode: "QueueTime", paused: true, ..advised };
    assert!(text::text(&paused, now()).contains("Acted on:  by nobody: scaling.paused is true"));
    assert!(text::line(&paused, now()).contains("4 replicas   DemandAboveCapacity (Paused)   "));
    let mut new = service(&json!({}));
    new.status = None;
    let report = Report::new(&new, Err(Unreachable::NoDecision("it is new".to_owned())));
    assert!(text::text(&report, now()).contains("nothing yet: the service is new"));
}

#[test]
fn json_and_yaml_hold_the_same() {
    let report = told(&Told::new().see(10, |now| fleet(3, 500.0, now)));
    let json: Value = serde_json::from_str(&Format::Json.write(&report).unwrap()).unwrap();
    let yaml: Value = serde_saphyr::from_str(&Format::Yaml.write(&report).unwrap()).unwrap();
    assert_eq!(json["decision"]["changes"]["more"]["replicas"], 5);
    assert_eq!((&json["source"], &json["status"]["history"][0]["to"]), (&json!("Operator"), &json!(3)));
    assert_eq!(json["decision"]["reason"], yaml["decision"]["reason"]);
    assert_eq!(json["decision"]["pods"], yaml["decision"]["pods"]);
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// An API server that knows one service, one Lease, and one pod whose HTTP server is what is given.
async fn api_server(holder: Option<&str>, operator: Router) -> Cluster {
    let lease = holder.map(|holder| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "flotilla-operator"}, "spec": {"holderIdentity": holder}})
    });
    let not_found = |what: &str| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound",
            "message": format!("{what} not found")});
        (StatusCode::NOT_FOUND, status.to_string())
    };
    let lease = lease.map_or_else(|| not_found("leases"), |lease| (StatusCode::OK, lease.to_string()));
    let service = (StatusCode::OK, serde_json::to_string(&service(&json!({}))).unwrap());
    let services = "/apis/flotilla.dev/v1alpha1/namespaces/default/inferenceservices";
    let routes = Router::new()
        .route("/apis/coordination.k8s.io/v1/namespaces/flotilla-system/leases/flotilla-operator", get(async || lease))
        .route(&format!("{services}/photos"), get(async || service))
        .route(&format!("{services}/gone"), get(async move || not_found("inferenceservices \"gone\"")))
        .nest("/api/v1/namespaces/flotilla-system/pods/leader:8080/proxy", operator);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
    Cluster::new(client, "default".to_owned(), &Flags::parse_from(["flotilla"]).cluster)
}

/// What the operator answers whatever is asked.
fn always(code: StatusCode, body: &str) -> Router {
    let body = body.to_owned();
    Router::new().fallback(get(async move || (code, body)))
}

#[tokio::test]
async fn the_leader_is_asked_through_the_api_server() {
    let records = Arc::new(Records::default());
    records.lead();
    let record = Told::new().see(10, |now| fleet(3, 500.0, now));
    records.put("default", "photos", record.clone());
    let cluster = api_server(Some("leader"), router(Arc::clone(&records))).await;
    let report = report(&cluster, "photos").await.unwrap();
    assert_eq!((report.source, report.operator.as_deref()), ("Operator", Some("leader")));
    let (told, expected) = (report.decision.as_ref().unwrap(), Explanation::new("default", "photos", &record));
    assert_eq!((&told.terms, &told.holds, told.decided_at), (&expected.terms, &expected.holds, expected.decided_at));
    let more = |told: &Explanation| told.changes.more.as_ref().unwrap().arrivals_above.unwrap();
    assert!((more(told) - more(&expected)).abs() < 1e-6 && told.pods.len() == 3);
    assert_eq!(report.outcome(), ("4".to_owned(), "DemandAboveCapacity".to_owned()));
    let error = super::report(&cluster, "gone").await.unwrap_err().to_string();
    assert!(error.starts_with("there is no InferenceService gone in the namespace default"), "{error}");
    let error = super::report(&cluster, "a/b").await.unwrap_err().to_string();
    assert!(error.contains("flotilla-crds"), "no such path at all: {error}");
}

#[tokio::test]
async fn whatever_is_wrong_with_the_operator_is_said_and_the_status_tells_instead() {
    let records = Arc::new(Records::default());
    let standby = router(Arc::clone(&records));
    let forbidden = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
        "message": "pods \"leader:8080\" is forbidden: User \"jane\" cannot get resource \"pods/proxy\""});
    let leading = Arc::new(Records::default());
    leading.lead();
    let cases = [
        (None, Router::new(), "there is no Lease flotilla-operator in the namespace flotilla-system"),
        (Some(""), Router::new(), "no operator leads"),
        (Some("leader"), always(StatusCode::FORBIDDEN, &forbidden.to_string()), "the Role flotilla-operator-explain"),
        (Some("leader"), always(StatusCode::NOT_FOUND, ""), "is older than this program"),
        (Some("leader"), always(StatusCode::OK, "{\"version\": 2}"), "is newer than this program"),
        (Some("leader"), always(StatusCode::OK, "<html>"), "its answer is not what was asked for"),
        (Some("leader"), always(StatusCode::SERVICE_UNAVAILABLE, "no route"), "can't be asked through the API server"),
        (Some("leader"), standby, "this operator stands by"),
        (Some("leader"), router(leading), "nothing was decided about InferenceService default/photos"),
        (Some("gone"), Router::new(), ""),
    ];
    for (holder, operator, expected) in cases {
        let report = report(&api_server(holder, operator).await, "photos").await.unwrap();
        let fallback = report.fallback.clone().unwrap();
        assert!(fallback.contains(expected), "expected `{expected}`: {fallback}");
        assert_eq!((report.source, report.outcome().0.as_str()), ("Status", "3"));
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let endless = Router::new().fallback(get(async || {
        let chunk = Ok::<_, std::convert::Infallible>(axum::body::Bytes::from(vec![b' '; 1 << 20]));
        axum::body::Body::from_stream(futures::stream::repeat_with(move || chunk.clone()))
    }));
    let report = report(&api_server(Some("leader"), endless).await, "photos").await.unwrap();
    // By its length, or on a busy machine by the time that a request may take.
    let fallback = report.fallback.unwrap();
    assert!(fallback.contains("its answer is longer than") || fallback.contains("no answer within"), "{fallback}");
}
