//! Carries a plan out: who sends when.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        Mutex,
        mpsc::{Receiver, channel},
    },
    task::JoinSet,
};

use crate::{
    connection::Connection,
    plan::{Pace, Plan, Protocol},
    report::{Report, own_cpu_seconds},
};

/// Requests that are due and wait for a place; beyond it they count as errors.
const BACKLOG: usize = 8192;
/// Messages of errors that are told apart.
const MOST_MESSAGES: usize = 20;

/// What came of some requests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of every request that was answered rightly: from when it was due to the answer's last byte.
    pub latencies: Vec<Duration>,
    /// Of the same requests: from when they were due to when they were sent.
    pub late: Vec<Duration>,
    /// How many had another end, by what it was.
    pub errors: BTreeMap<String, usize>,
    /// How many connections were made.
    pub connections: usize,
}

impl Outcome {
    fn fail(&mut self, error: String, times: usize) {
        let known = self.errors.contains_key(&error) || self.errors.len() < MOST_MESSAGES;
        *self.errors.entry(if known { error } else { "other errors".to_owned() }).or_default() += times;
    }

    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.late.extend(other.late);
        self.connections += other.connections;
        for (error, times) in other.errors {
            self.fail(error, times);
        }
    }
}

/// Sends for so long, waits for what is in flight, and says what came of it.
pub async fn run(plan: &Arc<Plan>, time: Duration) -> Report {
    let mut outcome = Outcome::default();
    let mut connections = Vec::new();
    for _ in 0..plan.pace.in_flight() {
        connections.push(Connection::new(plan));
    }
    if plan.protocol == Protocol::Grpc {
        for index in 0..connections.len() {
            if index < plan.connections {
                if let Err(error) = connections[index].connect().await {
                    outcome.fail(error.to_string(), 1);
                }
            } else {
                connections[index] = connections[index % plan.connections].shared();
            }
        }
    }
    let next = Arc::new(AtomicUsize::new(0));
    let (start, cpu) = (Instant::now(), own_cpu_seconds());
    let due = match plan.pace {
        Pace::Closed { .. } => None,
        Pace::Open { per_second, .. } => Some(Arc::new(Mutex::new(schedule(per_second, start, time)))),
    };
    let mut users = JoinSet::new();
    for connection in connections {
        let user = User { plan: Arc::clone(plan), connection, next: Arc::clone(&next) };
        match &due {
            None => users.spawn(user.closed(start + time)),
            Some(due) => users.spawn(user.open(Arc::clone(due))),
        };
    }
    while let Some(ended) = users.join_next().await {
        match ended {
            Ok(part) => outcome.add(part),
            Err(error) => outcome.fail(error.to_string(), 1),
        }
    }
    let elapsed = start.elapsed();
    if let Pace::Open { per_second, .. } = plan.pace {
        // Those for which the backlog had no room.
        let lost = count(per_second, time).saturating_sub(next.load(Ordering::Relaxed));
        if lost > 0 {
            outcome.fail(format!("not sent: {BACKLOG} requests waited for a place"), lost);
        }
    }
    Report::new(outcome, elapsed, own_cpu_seconds() - cpu)
}

/// How many requests are due in a time.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a plan's bounds are far below")]
fn count(per_second: f64, time: Duration) -> usize {
    ((per_second * time.as_secs_f64()).ceil() as usize).max(1)
}

/// The times at which requests are due, each given out when it has come. A thread sleeps more precisely than the runtime, whose
/// clock has steps of a millisecond.
fn schedule(per_second: f64, start: Instant, time: Duration) -> Receiver<Instant> {
    let (sender, receiver) = channel(BACKLOG);
    let total = count(per_second, time);
    std::thread::spawn(move || {
        for index in 0..u32::try_from(total).unwrap_or(u32::MAX) {
            let due = start + Duration::from_secs_f64(f64::from(index) / per_second);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // Full: it is counted by its absence. Closed: nobody waits any more.
            let _ = sender.try_send(due);
        }
    });
    receiver
}

/// Sends one request at a time.
struct User {
    plan: Arc<Plan>,
    connection: Connection,
    /// The number of the next request, of all users.
    next: Arc<AtomicUsize>,
}

impl User {
    async fn closed(mut self, until: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let mut failed = 0;
        loop {
            let now = Instant::now();
            if now >= until || failed >= MOST_MESSAGES {
                break;
            }
            // A server that refuses everything is not asked a thousand times a second.
            failed = if self.ask(now, &mut outcome).await { 0 } else { failed + 1 };
        }
        outcome.connections = self.connection.made;
        outcome
    }

    async fn open(mut self, due: Arc<Mutex<Receiver<Instant>>>) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let next = due.lock().await.recv().await;
            let Some(due) = next else { break };
            self.ask(due, &mut outcome).await;
        }
        outcome.connections = self.connection.made;
        outcome
    }

    async fn ask(&mut self, due: Instant, outcome: &mut Outcome) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let sample = &self.plan.samples[number % self.plan.samples.len()];
        let late = due.elapsed();
        match self.connection.ask(sample).await {
            Ok(()) => {
                outcome.latencies.push(due.elapsed());
                outcome.late.push(late);
                true
            }
            Err(error) => {
                outcome.fail(error.to_string(), 1);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Form, Sample};
    use bytes::Bytes;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// Runs against a server that answers with what it was sent, that is wrong once, and that closes each connection after five.
    async fn against_echo(pace: Pace, time: Duration) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = Arc::clone(&asked);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    for number in 0..5 {
                        let read = stream.read(&mut buffer).await.unwrap_or(0);
                        if read < 4 {
                            return;
                        }
                        let wrong = asked.fetch_add(1, Ordering::Relaxed) == 3;
                        let value = if wrong { [0; 4] } else { buffer[read - 4..read].try_into().unwrap() };
                        let close = if number == 4 { "connection: close\r\n" } else { "" };
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n{close}\r\n");
                        stream.write_all(&[head.as_bytes(), &value[..]].concat()).await.unwrap();
                    }
                });
            }
        });
        let sample = |value: f32| Sample { body: Bytes::copy_from_slice(&value.to_le_bytes()), expected: vec![value] };
        let plan = Plan {
            address,
            protocol: Protocol::Http1,
            uri: "/infer".parse().unwrap(),
            headers: http::HeaderMap::new(),
            samples: vec![sample(1.0), sample(2.0)],
            answer: Form::Float32,
            tolerance: 0.0,
            pace,
            connections: 1,
            time,
            warm_up: Duration::ZERO,
        };
        let report = run(&Arc::new(plan), time).await;
        server.abort();
        report
    }

    #[tokio::test]
    async fn a_wrong_answer_is_an_error_and_a_closed_connection_is_none() {
        let report = against_echo(Pace::Closed { in_flight: 2 }, Duration::from_secs(1)).await;
        let errors: Vec<_> = report.errors.iter().collect();
        assert_eq!(errors, [(&"value 0 of the answer is not what it should be".to_owned(), &1)]);
        assert!(report.answered > 5 && report.connections > 2, "{report:?}");
    }

    #[tokio::test]
    async fn at_a_rate_everything_that_is_due_is_sent_and_lateness_counts() {
        let report = against_echo(Pace::Open { per_second: 200.0, in_flight: 2 }, Duration::from_millis(100)).await;
        assert_eq!(report.answered + report.errors.values().sum::<usize>(), 20);
        assert_eq!(report.answered, 19);
        assert!(report.latency.p50 >= report.late.p50, "{report:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_ends_the_run() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let sample = Sample { body: Bytes::new(), expected: vec![0.0] };
        let plan = Plan {
            address,
            protocol: Protocol::Grpc,
            uri: format!("http://{address}/x").parse().unwrap(),
            headers: http::HeaderMap::new(),
            samples: vec![sample],
            answer: Form::Grpc,
            tolerance: 0.0,
            pace: Pace::Closed { in_flight: 3 },
            connections: 2,
            time: Duration::from_mins(4),
            warm_up: Duration::ZERO,
        };
        let time = plan.time;
        let report = run(&Arc::new(plan), time).await;
        assert_eq!(report.answered, 0);
        assert!(report.errors.keys().all(|error| error.starts_with("can't connect")), "{:?}", report.errors);
    }
}
