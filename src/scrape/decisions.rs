//! From pages of a real Triton to decisions: what the law makes of a server that has no histogram, does not tell how old
//! the oldest request is, and moves its counters only when requests end.
//!
//! The pages `triton-timer-*` are of tritonserver 2.51.0 from the wheel of nvidia-pytriton 0.7.0, its python backend waiting
//! for 5 ms an image and 10 ms for each batch of up to 32: idle; with 200 clients that send again as soon as they are
//! answered; and with the same clients while the backend's process is stopped.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::parse::parse;
use super::store::{Service, Target};
use crate::scaling::{
    CapacitySource, Decision, MissingReason, Monotonic, Observation, Policy, PolicySettings, Reason, Replica, State,
    decide,
};

const IDLE: &str = include_str!("testdata/triton-timer-idle.txt");
const LOADED: [&str; 2] =
    [include_str!("testdata/triton-timer-overload-1.txt"), include_str!("testdata/triton-timer-overload-2.txt")];
const STUCK: [&str; 3] = [
    include_str!("testdata/triton-timer-stall-1.txt"),
    include_str!("testdata/triton-timer-stall-2.txt"),
    include_str!("testdata/triton-timer-stall-3.txt"),
];
const CLIP: [&str; 2] =
    [include_str!("testdata/triton-under-load.txt"), include_str!("testdata/triton-under-load-2s-later.txt")];

/// A fleet of one replica of Triton, scraped every two seconds; `None` is a scrape that failed.
struct Fleet {
    model: &'static str,
    policy: Policy,
    service: Service,
    state: State,
    seconds: u64,
}

impl Fleet {
    fn new(model: &'static str, batching_delay: Duration) -> Self {
        let mut service = Service::default();
        let _ = service.set_targets(vec![Target {
            pod: "pod".to_owned(),
            uid: "uid".to_owned(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8002,
            container_restarts: 0,
            ready_since: Monotonic::default(),
            model: model.to_owned(),
            instances: 1,
        }]);
        let policy = PolicySettings {
            min_replicas: 1,
            max_replicas: 8,
            target_queue_time: Duration::from_millis(20),
            stabilization_window: Duration::from_secs(10),
            max_batch_size: 32,
            batching_delay,
            scrape_interval: Duration::from_secs(2),
            startup_fallback: Duration::from_mins(1),
        };
        Self { model, policy: Policy::new(policy).unwrap(), service, state: State::default(), seconds: 100 }
    }

    /// Scrapes once and decides; `ordered` replicas were ordered before.
    fn see(&mut self, page: Option<&str>, ordered: u32) -> Decision {
        self.seconds += 2;
        let now = Monotonic::from_start(Duration::from_secs(self.seconds));
        let pod = self.service.pods.values_mut().next().unwrap();
        match page.map(|page| parse(page.as_bytes(), self.model)) {
            Some(page) => pod.succeeded(now, 0, page.unwrap()),
            None => pod.failed(now, MissingReason::Unreachable, String::new()),
        }
        let sample = pod.sample(now, crate::scaling::fresh_for(Duration::from_secs(2)));
        let ready = vec![Replica { name: "pod".to_owned(), class: "a".to_owned(), sample }];
        let observation = Observation { current: ordered, ready, ..Observation::default() };
        let (decision, state) = decide(&self.policy, std::mem::take(&mut self.state), &observation, now);
        self.state = state;
        decision
    }

    /// Sees all pages, each decision carried out by nobody, and gives the last one.
    fn see_all<'a>(&mut self, pages: impl IntoIterator<Item = &'a str>) -> Decision {
        pages.into_iter().map(|page| self.see(Some(page), 1)).last().unwrap()
    }
}

/// The pages with another value in one series.
fn with(page: &str, series: &str, value: u32) -> String {
    let line = page.lines().find(|line| line.starts_with(series)).unwrap();
    page.replace(line, &format!("{} {value}", line.rsplit_once(' ').unwrap().0))
}

#[test]
fn an_idle_triton_stays_as_it_is() {
    let mut fleet = Fleet::new("timer", Duration::ZERO);
    assert_eq!(fleet.see(Some(IDLE), 1).reason, Reason::NoData, "a rate needs two pages");
    let decision = fleet.see(Some(IDLE), 1);
    assert_eq!((decision.replicas, decision.reason), (1, Reason::AtMinimum));
    assert_eq!((decision.inputs.arrivals_per_second, decision.inputs.queue_time), (Some(0.0), None));
}

/// 200 clients that wait for their answers: at the first measurement already 168 requests are pending.
#[test]
fn a_queue_orders_more_at_once() {
    let mut fleet = Fleet::new("timer", Duration::ZERO);
    fleet.see_all([IDLE, IDLE]);
    let decision = fleet.see(Some(LOADED[0]), 1);
    assert_eq!((decision.replicas, decision.reason), (2, Reason::DemandAboveCapacity), "{decision:?}");
    // 225 answered and 168 more waiting in two seconds; the answered ones waited for 0.58 s.
    // Of so many, twice their root may be chance.
    assert_eq!(decision.inputs.arrivals_per_second.map(f64::round), Some(177.0));
    assert_eq!(decision.inputs.queue_time.map(|wait| wait.as_millis()), Some(578));
    let decision = fleet.see(Some(LOADED[1]), 1);
    assert_eq!((decision.replicas, decision.inputs.capacity_source), (2, CapacitySource::Saturation), "{decision:?}");
}

/// Triton says nothing of the requests that it refuses for a full queue; the queue that stays full is enough.
#[test]
fn a_queue_that_is_full_orders_more_although_refusals_are_counted_nowhere() {
    let full = LOADED.map(|page| with(page, "nv_inference_pending_request_count", 1024));
    let mut fleet = Fleet::new("timer", Duration::ZERO);
    fleet.see_all([IDLE]);
    let filled = fleet.see(Some(&full[0]), 1);
    assert!(filled.replicas >= 4, "{filled:?}");
    // From here on it neither rises nor falls.
    let stays = fleet.see(Some(&full[1]), 1);
    assert!(stays.replicas >= 2, "{stays:?}");
}

/// The backend's process stands still: no counter moves, and the pending ones are all that is to be seen.
#[test]
fn a_triton_that_hangs_is_not_idle() {
    for pending in [168, 3] {
        let pages = [LOADED[1], STUCK[0], STUCK[1], STUCK[2], STUCK[2], STUCK[2], STUCK[2], STUCK[2]];
        let pages = pages.map(|page| with(page, "nv_inference_pending_request_count", pending));
        let mut fleet = Fleet::new("timer", Duration::ZERO);
        let decision = fleet.see_all(pages.iter().map(String::as_str));
        assert_eq!((decision.replicas, decision.reason), (2, Reason::QueueGrowing), "{pending} pending: {decision:?}");
        // Two were ordered: they are kept, however long it hangs.
        let decision = (0..20).map(|_| fleet.see(Some(&pages[7]), 2)).last().unwrap();
        assert!(decision.replicas >= 2, "{pending} pending: {decision:?}");
    }
}

#[test]
fn what_is_not_known_is_not_zero() {
    let mut fleet = Fleet::new("timer", Duration::ZERO);
    fleet.see_all([IDLE, LOADED[0], LOADED[1]]);
    let decision = (0..20).map(|_| fleet.see(None, 4)).last().unwrap();
    assert_eq!(decision.replicas, 4);
    assert!(!decision.reason.has_metrics(), "{decision:?}");
}

/// Requests that timed out in the queue came in as the others did.
#[test]
fn refused_requests_are_arrivals() {
    let arrivals = |page: &str| {
        let mut fleet = Fleet::new("clip", Duration::ZERO);
        fleet.see_all([CLIP[0], page]).inputs.arrivals_per_second.unwrap()
    };
    let timed_out = with(CLIP[1], "nv_inference_request_failure{model=\"clip\",reason=\"REJECTED\"", 400);
    let (before, after) = (arrivals(CLIP[1]), arrivals(&timed_out));
    assert!((after - before - 200.0).abs() < 1.0, "{before} -> {after}");
}

/// At 765 images a second a server that holds a batch open for 10 ms, or until 32 are in it, makes requests wait for 5 ms
/// on average with nothing else in their way; 4.7 were measured.
#[test]
fn the_deliberate_delay_is_no_congestion() {
    let waited = |delay| Fleet::new("clip", delay).see_all(CLIP).inputs.queue_time.unwrap();
    assert_eq!(waited(Duration::ZERO).as_micros(), 4697);
    assert_eq!(waited(Duration::from_millis(10)), Duration::ZERO);
}

#[test]
fn what_is_no_longer_needed_is_given_back_after_the_window() {
    let mut fleet = Fleet::new("timer", Duration::ZERO);
    fleet.see_all([IDLE, IDLE]);
    let decisions: Vec<_> = (0..6).map(|_| fleet.see(Some(IDLE), 2)).collect();
    let last = decisions.last().unwrap();
    assert_eq!((decisions[0].replicas, decisions[0].reason), (2, Reason::ScaleDownWindow));
    assert_eq!((last.replicas, last.reason), (1, Reason::DemandBelowCapacity), "{decisions:?}");
}
