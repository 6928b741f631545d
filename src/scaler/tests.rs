//! KEDA's calls over a real connection, to decisions that the test makes: directly, and through the relay.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::{Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::wire::external_scaler_client::ExternalScalerClient;
use super::wire::{GetMetricsRequest, GetMetricsResponse, ScaledObjectRef};
use super::*;
use crate::scaling::{Decision, Inputs, Reason};

const LIMIT: Duration = Duration::from_secs(30);

/// What a trigger says.
type Metadata = &'static [(&'static str, &'static str)];

/// Decisions by namespace and service; whether they are the leader's.
struct Fake {
    leads: bool,
    last: HashMap<(String, String), LastDecision>,
}

/// A leader's server with its decisions.
struct Leader {
    address: SocketAddr,
    fake: Arc<Mutex<Fake>>,
    registry: Registry,
    stop: DropGuard,
}

struct Shared(Arc<Mutex<Fake>>);

impl Decisions for Shared {
    fn leads(&self) -> bool {
        self.0.lock().unwrap().leads
    }

    fn last(&self, namespace: &str, service: &str) -> Option<LastDecision> {
        self.0.lock().unwrap().last.get(&(namespace.to_owned(), service.to_owned())).cloned()
    }
}

fn decision(replicas: u32) -> LastDecision {
    let inputs = Inputs {
        queue_time: Some(Duration::from_millis(12)),
        arrivals_per_second: Some(340.5),
        pending_images: Some(1.0),
        ready: 2,
        measured: 2,
        ..Inputs::default()
    };
    LastDecision {
        decision: Decision { replicas, reason: Reason::DemandAboveCapacity, inputs },
        target_queue_time: Duration::from_millis(20),
        age: Duration::from_secs(1),
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

impl Leader {
    async fn start(replicas: u32) -> Self {
        let last = [(("team-a".to_owned(), "photos".to_owned()), decision(replicas))].into();
        let fake = Arc::new(Mutex::new(Fake { leads: true, last }));
        let (listener, registry, stop) = (listen().await, Registry::new(), CancellationToken::new());
        let address = listener.local_addr().unwrap();
        let metrics = ScalerMetrics::register(&registry).unwrap();
        let scaler = Scaler::new(Arc::new(Shared(Arc::clone(&fake))), metrics, stop.clone());
        tokio::spawn(serve(listener, scaler, stop.clone()));
        Self { address, fake, registry, stop: stop.drop_guard() }
    }

    fn change(&self, change: impl FnOnce(&mut LastDecision)) {
        let mut fake = self.fake.lock().unwrap();
        change(fake.last.values_mut().next().unwrap());
    }
}

fn client(address: SocketAddr) -> ExternalScalerClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(LIMIT);
    ExternalScalerClient::new(endpoint.connect_lazy())
}

fn scaled(metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ScaledObjectRef {
        name: "photos".to_owned(),
        namespace: "team-a".to_owned(),
        scaler_metadata: [("scalerAddress".to_owned(), "flotilla:9090".to_owned())]
            .into_iter()
            .chain(metadata)
            .collect(),
    }
}

/// Asks as KEDA does: for the metric's name and target first, then for its value.
async fn ask(
    client: &mut ExternalScalerClient<Channel>,
    metadata: &[(&str, &str)],
) -> Result<(String, f64, GetMetricsResponse), Status> {
    let spec = client.get_metric_spec(scaled(metadata)).await?.into_inner().metric_specs.remove(0);
    let request =
        GetMetricsRequest { scaled_object_ref: Some(scaled(metadata)), metric_name: spec.metric_name.clone() };
    Ok((spec.metric_name, spec.target_size_float, client.get_metrics(request).await?.into_inner()))
}

#[tokio::test]
async fn keda_gets_the_replicas_that_the_law_wants_and_what_was_measured() {
    type Case = (Metadata, &'static str, f64, f64, i64);
    let leader = Leader::start(3).await;
    let mut client = client(leader.address);
    let cases: [Case; 4] = [
        (&[("service", "photos")], "flotilla-desired-replicas", 1.0, 3.0, 3),
        (&[("service", "photos"), ("metric", "queueTime")], "flotilla-queue-time-milliseconds", 20.0, 12.0, 12),
        (
            &[("service", "photos"), ("metric", "queueTime"), ("targetValue", "5.5")],
            "flotilla-queue-time-milliseconds",
            5.5,
            12.0,
            12,
        ),
        (
            &[("service", "photos"), ("metric", "arrivals"), ("targetValue", "120")],
            "flotilla-arrivals-per-second",
            120.0,
            340.5,
            // Versions that read whole numbers get no fewer replicas than the others.
            341,
        ),
    ];
    for (metadata, name, target, value, whole) in cases {
        let (asked, of, answer) = ask(&mut client, metadata).await.unwrap();
        let [metric] = answer.metric_values.as_slice() else { panic!("{metadata:?}: {answer:?}") };
        assert_eq!((asked.as_str(), metric.metric_name.as_str()), (name, name));
        assert_eq!((of, metric.metric_value_float, metric.metric_value), (target, value, whole), "{metadata:?}");
    }
    let active = client.is_active(scaled(&[("service", "photos")])).await.unwrap().into_inner();
    assert!(active.result);
    leader.change(|last| last.decision.replicas = 5);
    let (_, _, answer) = ask(&mut client, &[("service", "photos")]).await.unwrap();
    assert_eq!(answer.metric_values.first().unwrap().metric_value, 5, "nothing is remembered of the last answer");
    let page = TextEncoder::new().encode_to_string(&leader.registry.gather()).unwrap();
    assert!(page.contains(r#"flotilla_operator_scaler_answers_total{call="GetMetrics",result="ok"} 5"#), "{page}");
}

#[tokio::test]
async fn what_is_not_known_is_an_error_and_never_a_number() {
    type Case = (&'static str, Metadata, fn(&mut Fake), Code, &'static str);
    let cases: [Case; 7] = [
        ("no such service", &[("service", "other")], |_| {}, Code::Unavailable, "nothing was decided yet"),
        ("not the leader", &[("service", "photos")], |fake| fake.leads = false, Code::Unavailable, "does not lead"),
        (
            "an old decision",
            &[("service", "photos")],
            |fake| fake.last.values_mut().for_each(|last| last.age = Duration::from_mins(3)),
            Code::Unavailable,
            "180 s old",
        ),
        (
            "a queue time without metrics",
            &[("service", "photos"), ("metric", "queueTime")],
            |fake| fake.last.values_mut().for_each(|last| last.decision.reason = Reason::StaleMetrics),
            Code::Unavailable,
            "too old",
        ),
        ("no service", &[], |_| {}, Code::InvalidArgument, "has no service"),
        ("no such metric", &[("service", "photos"), ("metric", "cpu")], |_| {}, Code::InvalidArgument, "\"cpu\""),
        ("a misspelt word", &[("servise", "photos")], |_| {}, Code::InvalidArgument, "\"servise\""),
    ];
    for (name, metadata, change, code, message) in cases {
        let leader = Leader::start(3).await;
        change(&mut leader.fake.lock().unwrap());
        let mut client = client(leader.address);
        let error = ask(&mut client, metadata).await.unwrap_err();
        assert_eq!(error.code(), code, "{name}: {error}");
        assert!(error.message().contains(message), "{name}: {error}");
    }
}

/// The law holds without metrics: its number stands, and is no error.
#[tokio::test]
async fn without_metrics_the_held_number_is_the_answer() {
    let leader = Leader::start(4).await;
    leader.change(|last| last.decision.reason = Reason::StaleMetrics);
    let mut client = client(leader.address);
    let (_, _, answer) = ask(&mut client, &[("service", "photos")]).await.unwrap();
    assert_eq!(answer.metric_values.first().unwrap().metric_value, 4);
}

#[tokio::test]
async fn another_metric_than_the_triggers_is_refused_and_so_is_a_question_that_is_too_long() {
    let leader = Leader::start(3).await;
    let mut client = client(leader.address);
    let other = GetMetricsRequest {
        scaled_object_ref: Some(scaled(&[("service", "photos"), ("metric", "queueTime")])),
        metric_name: "flotilla-desired-replicas".to_owned(),
    };
    let error = client.get_metrics(other).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("flotilla-queue-time-milliseconds"), "{error}");
    let error = client.get_metrics(GetMetricsRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let long = "x".repeat(100_000);
    let error = client.is_active(scaled(&[("service", &long)])).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
}

#[tokio::test]
async fn a_stream_says_at_once_that_the_service_is_active_and_ends_with_the_leader() {
    let leader = Leader::start(3).await;
    let mut client = client(leader.address);
    let mut stream = client.stream_is_active(scaled(&[("service", "photos")])).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().unwrap().result);
    drop(leader.stop);
    let end = tokio::time::timeout(LIMIT, stream.message()).await.expect("the stream outlives the leader");
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    let error = client.stream_is_active(scaled(&[("service", "other")])).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}

/// Two operators: whichever KEDA comes to, the leader answers; and the next leader, once there is one.
#[tokio::test]
async fn every_operator_hands_on_to_the_leader_and_to_its_successor() {
    let (first, second) = (Leader::start(3).await, Leader::start(7).await);
    let (leader, seen) = watch::channel(None);
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(relay(listener, seen, stop));

    // While nobody leads, a connection ends at once: nothing waits for a leader that may never come.
    let stream = TcpStream::connect(address).await.unwrap();
    let closed = tokio::time::timeout(LIMIT, stream.readable());
    closed.await.expect("the connection stays open without a leader").unwrap();
    assert!(matches!(stream.try_read(&mut [0; 1]), Ok(0) | Err(_)));

    leader.send_replace(Some(first.address));
    let mut client = client(address);
    let replicas = async |client: &mut ExternalScalerClient<Channel>| {
        let answer = ask(client, &[("service", "photos")]).await?;
        Ok::<_, Status>(answer.2.metric_values.first().unwrap().metric_value)
    };
    assert_eq!(replicas(&mut client).await.unwrap(), 3);
    // The first leader hangs: its connection lives, and is cut as soon as another leads.
    leader.send_replace(Some(second.address));
    let after = tokio::time::timeout(LIMIT, async {
        loop {
            match replicas(&mut client).await {
                Ok(3) | Err(_) => tokio::task::yield_now().await,
                Ok(other) => break other,
            }
        }
    });
    assert_eq!(after.await.expect("the second leader is never reached"), 7);
}
