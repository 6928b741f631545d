//! The collector against servers on the loopback address, good and hostile ones.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use axum::routing::get;
use futures::StreamExt as _;
use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Clock, Collector, CollectorSettings, ScrapeMetrics, ServiceKey, Target};
use crate::scaling::{MissingReason, ReplicaSample};

const PAGE: &str = include_str!("testdata/flotilla.txt");
const INTERVAL: Duration = Duration::from_millis(200);

/// Serves one route on a free port of the loopback address.
async fn serve(router: Router) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

async fn serve_text(page: impl Into<String>) -> u16 {
    let page = page.into();
    serve(Router::new().route("/metrics", get(move || async move { page }))).await
}

/// A server below HTTP: writes what it is told to, byte by byte where it is told to be slow.
async fn serve_raw(answer: Vec<u8>, pause: Duration) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut question = [0; 1024];
                let _ = stream.read(&mut question).await;
                if pause.is_zero() {
                    let _ = stream.write_all(&answer).await;
                    return;
                }
                for byte in answer {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    sleep(pause).await;
                }
            });
        }
    });
    port
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "default".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") }
}

fn target(clock: Clock, pod: &str, port: u16) -> Target {
    Target {
        pod: pod.to_owned(),
        uid: format!("uid-{pod}"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
        container_restarts: 0,
        ready_since: clock.ago(Duration::from_mins(1)),
        model: "timer".to_owned(),
        instances: 1,
    }
}

/// A running collector, stopped when dropped.
struct Running {
    collector: Collector,
    registry: Registry,
    shutdown: CancellationToken,
}

impl Running {
    fn start() -> Self {
        Self::every(INTERVAL)
    }

    fn every(interval: Duration) -> Self {
        Self::with(CollectorSettings { concurrency: 128, ..CollectorSettings::every(interval) })
    }

    fn with(settings: CollectorSettings) -> Self {
        let registry = Registry::new();
        let metrics = ScrapeMetrics::register(&registry).unwrap();
        let collector = Collector::new(settings, Clock::start(), metrics);
        let shutdown = CancellationToken::new();
        let (runner, token) = (collector.clone(), shutdown.clone());
        tokio::spawn(async move { runner.run(token).await });
        Self { collector, registry, shutdown }
    }

    fn sample(&self, key: &ServiceKey, pod: &str) -> Option<ReplicaSample> {
        let samples = self.collector.samples(key, self.collector.clock().now());
        samples.into_iter().find(|(name, _)| name == pod).map(|(_, sample)| sample)
    }

    /// Waits until the pod's sample is as wanted.
    async fn until(&self, key: &ServiceKey, pod: &str, wanted: impl Fn(&ReplicaSample) -> bool) -> ReplicaSample {
        let waits = async {
            loop {
                if let Some(sample) = self.sample(key, pod).filter(|sample| wanted(sample)) {
                    return sample;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = || format!("{pod}: {:?}, {:?}", self.sample(key, pod), self.collector.failures(key));
        timeout(Duration::from_secs(30), waits).await.unwrap_or_else(|_| panic!("{}", seen()))
    }

    fn results(&self, result: &str) -> f64 {
        let families = self.registry.gather();
        let scrapes = families.iter().find(|family| family.name() == "flotilla_operator_scrapes_total").unwrap();
        let with_result = scrapes.get_metric().iter().filter(|metric| metric.get_label()[0].value() == result);
        with_result.map(|metric| metric.get_counter().get_value()).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn is_measured(sample: &ReplicaSample) -> bool {
    matches!(sample, ReplicaSample::Measured(_))
}

#[tokio::test]
async fn a_pod_is_measured_after_two_scrapes_and_its_server_is_known() {
    let served = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&served);
    let route = get(move || async move {
        let images = 2400 + 20 * counted.fetch_add(1, Ordering::Relaxed);
        PAGE.replace("nv_inference_count{model=\"timer\",version=\"1\"} 2400", &format!("nv_inference_count {images}"))
    });
    let port = serve(Router::new().route("/metrics", route)).await;
    let running = Running::start();
    running.collector.set_targets(key("a"), vec![target(running.collector.clock(), "good", port)]);

    let waiting = ReplicaSample::Missing {
        since: running.collector.clock().ago(Duration::from_mins(1)),
        reason: MissingReason::NotYetSampled,
    };
    let first = running.sample(&key("a"), "good").unwrap();
    assert!(std::mem::discriminant(&first) == std::mem::discriminant(&waiting), "{first:?}");
    let ReplicaSample::Measured(measurement) = running.until(&key("a"), "good", is_measured).await else {
        unreachable!()
    };
    let images = measurement.completed_per_second * measurement.interval.as_secs_f64();
    let scrapes = images / 20.0;
    assert!((scrapes - scrapes.round()).abs() < 1e-6 && images > 0.0, "{measurement:?}");
    assert!(!measurement.tainted);
    assert_eq!(running.collector.servers(&key("a"))[0].1.provider, "Cpu");
    assert!(running.results("ok") >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_pod_has_its_reason_and_delays_no_other() {
    let status = |code: StatusCode, name: header::HeaderName, value: &'static str| {
        Router::new().route(
            "/metrics",
            get(move || async move {
                Response::builder().status(code).header(name, value).body(Body::from(PAGE)).unwrap()
            }),
        )
    };
    let refused = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n";
    let endless = || futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'#'; 64 << 10]));
    let bad = [
        ("refused", refused, MissingReason::Unreachable, "connect"),
        ("silent", serve_raw(Vec::new(), Duration::from_secs(1)).await, MissingReason::Unreachable, "broken"),
        ("hangs", serve_raw(vec![b'H'; 10], Duration::from_secs(5)).await, MissingReason::Unreachable, "timeout"),
        (
            "drips",
            serve_raw(format!("{head}{PAGE}").into_bytes(), Duration::from_millis(3)).await,
            MissingReason::Unreachable,
            "timeout",
        ),
        (
            "half",
            serve_raw(format!("{head}{}", &PAGE[..900]).into_bytes(), Duration::ZERO).await,
            MissingReason::Unreachable,
            "broken",
        ),
        (
            "huge",
            serve(Router::new().route("/metrics", get(move || async move { Body::from_stream(endless()) }))).await,
            MissingReason::BadPage,
            "too_large",
        ),
        (
            "huge-claim",
            serve_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n# ".to_vec(), Duration::ZERO).await,
            MissingReason::BadPage,
            "too_large",
        ),
        (
            "redirect",
            serve(status(StatusCode::FOUND, header::LOCATION, "http://127.0.0.1:1/metrics")).await,
            MissingReason::BadPage,
            "status",
        ),
        (
            "bomb",
            serve(status(StatusCode::OK, header::CONTENT_ENCODING, "gzip")).await,
            MissingReason::BadPage,
            "encoded",
        ),
        ("html", serve_text("<!doctype html><h1>Hello</h1>\n").await, MissingReason::BadPage, "not_metrics"),
        ("nan", serve_text(PAGE.replace(" 2400", " NaN")).await, MissingReason::BadPage, "malformed"),
    ];
    let good = serve_text(PAGE).await;
    // Long enough that the good one answers in time on a machine that is busy with other tests.
    let running = Running::every(Duration::from_millis(1500));
    let clock = running.collector.clock();
    let mut targets: Vec<Target> = bad.iter().map(|(name, port, ..)| target(clock, name, *port)).collect();
    // Sixty that hang for the whole timeout: one after the other they would take 45 seconds a round.
    let hanging = bad.iter().find(|(name, ..)| *name == "hangs").map(|(_, port, ..)| *port).unwrap();
    targets.extend((0..60).map(|number| target(clock, &format!("hangs-{number}"), hanging)));
    targets.push(target(clock, "good", good));
    let began = Instant::now();
    running.collector.set_targets(key("a"), targets);

    running.until(&key("a"), "good", is_measured).await;
    let first = began.elapsed();
    assert!(first < Duration::from_secs(20), "two scrapes of the good one took {first:?}");
    for (name, _, reason, category) in bad {
        let missing =
            |sample: &ReplicaSample| matches!(sample, ReplicaSample::Missing { reason: seen, .. } if *seen == reason);
        running.until(&key("a"), name, missing).await;
        assert!(
            running.results(category) > 0.0,
            "{name} counts as {category}: {:?}",
            running.collector.failures(&key("a"))
        );
    }
    assert!(is_measured(&running.until(&key("a"), "good", is_measured).await));
    let failures = running.collector.failures(&key("a"));
    assert!(failures.iter().all(|(_, message)| !message.is_empty()) && failures.len() >= 10, "{failures:?}");
}

#[tokio::test]
async fn a_pod_that_stops_answering_becomes_missing_and_comes_back() {
    let alive = Arc::new(AtomicU32::new(1));
    let asked = Arc::clone(&alive);
    let route = get(move || async move {
        if asked.load(Ordering::Relaxed) == 1 { Ok(PAGE) } else { Err(StatusCode::SERVICE_UNAVAILABLE) }
    });
    let port = serve(Router::new().route("/metrics", route)).await;
    let running = Running::start();
    running.collector.set_targets(key("a"), vec![target(running.collector.clock(), "pod", port)]);
    running.until(&key("a"), "pod", is_measured).await;
    alive.store(0, Ordering::Relaxed);
    // The last measurement speaks for the pod until it is too old, then the reason does.
    running
        .until(&key("a"), "pod", |sample| {
            matches!(sample, ReplicaSample::Missing { reason: MissingReason::BadPage, .. })
        })
        .await;
    alive.store(1, Ordering::Relaxed);
    running.until(&key("a"), "pod", is_measured).await;
}

#[tokio::test]
async fn each_round_announces_a_service_once_and_forgotten_ones_are_silent() {
    let port = serve_text(PAGE).await;
    let running = Running::start();
    let clock = running.collector.clock();
    let pods = |count: u32| (0..count).map(|pod| target(clock, &format!("pod-{pod}"), port)).collect::<Vec<_>>();
    running.collector.set_targets(key("a"), pods(8));
    running.collector.set_targets(key("b"), pods(8));
    let updates = running.collector.updates();
    let mut updates = std::pin::pin!(updates);
    let mut seen = Vec::new();
    while !(seen.contains(&key("a")) && seen.contains(&key("b"))) {
        seen.push(timeout(Duration::from_secs(10), updates.next()).await.unwrap().unwrap());
    }
    running.collector.forget(&key("b"));
    assert!(running.collector.samples(&key("b"), clock.now()).is_empty());
    // What was on its way may still arrive; then only the one that is left does.
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < INTERVAL * 10 {
        if let Ok(Some(next)) = timeout(INTERVAL, updates.next()).await
            && began.elapsed() > INTERVAL
        {
            assert_eq!(next, key("a"));
            count += 1;
        }
    }
    assert!((3..=40).contains(&count), "8 pods were announced {count} times in 10 intervals");
}

#[tokio::test]
async fn a_pod_that_goes_and_comes_back_is_scraped_by_one_task() {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let route = get(move || async move {
        counted.fetch_add(1, Ordering::Relaxed);
        PAGE
    });
    let port = serve(Router::new().route("/metrics", route)).await;
    let running = Running::start();
    let clock = running.collector.clock();
    for _ in 0..20 {
        running.collector.set_targets(key("a"), vec![target(clock, "pod", port)]);
        sleep(Duration::from_millis(2)).await;
        running.collector.set_targets(key("a"), Vec::new());
    }
    running.collector.set_targets(key("a"), vec![target(clock, "pod", port)]);
    running.until(&key("a"), "pod", is_measured).await;
    sleep(INTERVAL * 2).await;
    let before = asked.load(Ordering::Relaxed);
    let began = Instant::now();
    sleep(INTERVAL * 10).await;
    let scrapes = f64::from(asked.load(Ordering::Relaxed) - before);
    let intervals = began.elapsed().as_secs_f64() / INTERVAL.as_secs_f64();
    assert!(scrapes > 2.0 && scrapes < intervals + 2.0, "{scrapes} scrapes in {intervals} intervals");
}

/// Whatever the number of pods: no more questions at the same time than the limit, and all get their turn.
#[tokio::test]
async fn scrapes_under_way_are_bounded() {
    const LIMIT: usize = 8;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (under_way, seen) = (Arc::clone(&now), Arc::clone(&most));
    let route = get(move || async move {
        seen.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Long enough that others come meanwhile.
        sleep(Duration::from_millis(2)).await;
        under_way.fetch_sub(1, Ordering::SeqCst);
        PAGE
    });
    let port = serve(Router::new().route("/metrics", route)).await;
    let settings = CollectorSettings { concurrency: LIMIT, timeout: Duration::from_secs(30), interval: INTERVAL };
    let running = Running::with(settings);
    let clock = running.collector.clock();
    running.collector.set_targets(key("a"), (0..300).map(|pod| target(clock, &format!("pod-{pod}"), port)).collect());
    for pod in 0..300 {
        running
            .until(&key("a"), &format!("pod-{pod}"), |sample| {
                is_measured(sample) || matches!(sample, ReplicaSample::Missing { reason: MissingReason::Stale, .. })
            })
            .await;
    }
    assert!((2..=LIMIT).contains(&most.load(Ordering::SeqCst)), "{most:?} at the same time");
}

#[tokio::test]
async fn a_stopped_run_can_be_started_again() {
    let port = serve_text(PAGE).await;
    let running = Running::start();
    running.collector.set_targets(key("a"), vec![target(running.collector.clock(), "pod", port)]);
    running.until(&key("a"), "pod", is_measured).await;
    running.shutdown.cancel();
    running.until(&key("a"), "pod", |sample| !is_measured(sample)).await;
    let (again, token) = (running.collector.clone(), CancellationToken::new());
    let stop = token.clone();
    let task = tokio::spawn(async move { again.run(token).await });
    running.until(&key("a"), "pod", is_measured).await;
    stop.cancel();
    timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
}
