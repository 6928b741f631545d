//! What is kept, what the HTTP server tells of it, and what `/metrics` does.

use std::sync::Arc;

use prometheus::{Registry, TextEncoder};
use serde_json::Value;

use super::testing::{Told, fleet};
use super::*;

/// The routes on a port of their own, until the test ends.
async fn serve(records: &Arc<Records>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = router(Arc::clone(records));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

async fn get(url: String) -> (u16, String) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.get(&url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn metrics(records: &Arc<Records>) -> String {
    let registry = Registry::new();
    ScalingMetrics::register(&registry, Arc::clone(records)).unwrap();
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

#[tokio::test]
async fn the_leader_tells_a_decision_and_a_standby_says_that_it_is_one() {
    let records = Arc::new(Records::default());
    let url = serve(&records).await;
    for path in ["", "/default", "/default/photos"] {
        let (code, body) = get(format!("{url}/debug/scaling{path}")).await;
        let status: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, &status["reason"], &status["kind"]), (421, &NOT_LEADING.into(), &"Status".into()), "{body}");
    }
    records.lead();
    let (code, body) = get(format!("{url}/debug/scaling/default/photos")).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &status["reason"], &status["code"]), (404, &NO_DECISION.into(), &404.into()), "{body}");

    let record = Told::new().see(5, |now| fleet(3, 500.0, now));
    records.put("default", "photos", record.clone());
    records.put("other", "texts", record.clone());
    let (code, body) = get(format!("{url}/debug/scaling/default/photos")).await;
    let told: Explanation = serde_json::from_str(&body).unwrap();
    let expected = serde_json::to_string(&Explanation::new("default", "photos", &record)).unwrap();
    assert_eq!((code, body.trim()), (200, expected.as_str()));
    assert_eq!((told.replicas, told.ordered, told.reason.as_str()), (4, 3, "DemandAboveCapacity"));
    assert_eq!((told.decided_by.as_str(), told.pods.len(), told.version), ("Demand", 3, VERSION));

    for (path, names) in [("", vec!["photos", "texts"]), ("/other", vec!["texts"]), ("/none", vec![])] {
        let (code, body) = get(format!("{url}/debug/scaling{path}")).await;
        let told: Summaries = serde_json::from_str(&body).unwrap();
        let found: Vec<_> = told.services.iter().map(|summary| summary.name.as_str()).collect();
        assert_eq!((code, found), (200, names), "{path}");
    }
}

#[test]
fn a_record_keeps_no_batches_and_goes_with_its_service() {
    let records = Arc::new(Records::default());
    let record = Told::new().see(2, |now| fleet(8, 500.0, now));
    records.put("default", "photos", record);
    let kept = records.get("default", "photos").unwrap();
    assert_eq!(kept.observation.ready.len(), 8);
    assert!(kept.observation.ready.iter().all(|replica| matches!(&replica.sample,
        crate::scaling::ReplicaSample::Measured(measurement) if measurement.batches.capacity() == 0)));
    assert!(metrics(&records).contains("photos"));
    records.forget("default", "photos");
    assert!(records.get("default", "photos").is_none() && records.all(None).is_empty());
    assert_eq!(metrics(&records), "", "its series go with it");
}

#[test]
fn every_number_of_a_decision_is_a_metric() {
    let records = Arc::new(Records::default());
    records.put("default", "photos", Told::new().see(5, |now| fleet(3, 500.0, now)));
    let page = metrics(&records);
    let value = |series: &str| {
        let line =
            page.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series}: {page}"));
        line.trim().parse::<f64>().unwrap()
    };
    let plain = |name: &str| value(&format!("flotilla_scaling_{name}{{namespace=\"default\",service=\"photos\"}}"));
    for (name, expected) in [
        ("desired_replicas", 4.0),
        ("ordered_replicas", 3.0),
        ("acts", 1.0),
        ("min_replicas", 1.0),
        ("max_replicas", 8.0),
        ("arrivals_per_second", 500.0),
        ("expected_arrivals_per_second", 500.0),
        ("capacity_per_replica", 136.7),
        ("queue_time_seconds", 0.0123),
        ("queue_time_p95_seconds", 0.031),
        ("target_queue_time_seconds", 0.02),
        ("pending_images", 9.0),
        ("execution_seconds_per_image", 0.005),
        ("execution_fixed_seconds", 0.010),
        ("full_speed_per_replica", 188.2),
        ("startup_seconds", 12.0),
        // 4 replicas take 5 % more than what they are made for.
        ("more_above_arrivals_per_second", 4.0 * 136.7 * 1.05),
    ] {
        assert!((plain(name) - expected).abs() < 0.002 * expected, "{name}: {}", plain(name));
    }
    assert!(plain("fewer_below_arrivals_per_second") < 3.0 * 136.7);
    let of = |family: &str, label: &str| {
        let (namespace, service) = ("namespace=\"default\"", "service=\"photos\"");
        let mut labels = [namespace.to_owned(), service.to_owned(), label.to_owned()];
        labels.sort();
        value(&format!("flotilla_scaling_{family}{{{}}}", labels.join(",")))
    };
    assert!((of("wanted_replicas", "term=\"demand\"") - 4.0).abs() < 1e-9);
    assert!((of("replicas", "state=\"ready\"") - 3.0).abs() < 1e-9);
    assert!((of("reason", "reason=\"DemandAboveCapacity\"") - 1.0).abs() < 1e-9);
    assert!(page.lines().filter(|line| line.starts_with("flotilla_scaling_reason{")).count() == 1);
    // What is not known is absent.
    records.put("default", "photos", Told::new().see(1, |_| crate::scaling::Observation::default()));
    assert!(!metrics(&records).contains("arrivals_per_second"), "{}", metrics(&records));
}

/// The names of the metrics stand in the documentation, and no others.
#[test]
fn the_documentation_names_every_metric() {
    let records = Arc::new(Records::default());
    records.put("default", "photos", Told::new().see(5, |now| fleet(3, 500.0, now)));
    let page = metrics(&records);
    let docs = include_str!("../../docs/metrics.md");
    let mut exported: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut documented: Vec<&str> =
        docs.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    documented.retain(|name| name.starts_with("flotilla_scaling_"));
    exported.sort_unstable();
    documented.sort_unstable();
    assert_eq!(exported, documented);
}
