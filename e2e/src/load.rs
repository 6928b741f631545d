//! Load: an open loop of requests to one service of the test cluster, bounded in rate, number and time.
//!
//! Requests are due at times that do not depend on the answers, and latency counts from when a request was due: a server
//! that stalls can't slow its own test down and look good. Each connection is held until the server closes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Look, Outcome, Workspace, until};

/// Bounds on what a test can ask for.
const MOST_PER_SECOND: f64 = 2_000.0;
const LONGEST: Duration = Duration::from_mins(15);
const MOST_HELD: usize = 256;
const MOST_AT_ONCE: usize = 4_096;
/// Clients that share no connection and take turns.
const USERS: usize = 128;
/// Requests that are due and wait for a free connection; beyond it they count as failed.
const BACKLOG: usize = 8_192;
/// How long the node may take to open a port.
const PORT_LIMIT: Duration = Duration::from_secs(20);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Every run draws the same arrivals.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// When requests are due.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// At equal distances.
    Even,
    /// At random, as independent users send; the same in every run.
    Poisson,
}

/// How requests share connections.
#[derive(Clone, Copy, Debug)]
pub enum Connections {
    /// So many, each held until the server closes it; a request waits for a free one.
    Held(usize),
    /// As many as there are requests under way, up to this number: many users, none of whom waits for another. They take
    /// turns, so that each replica gets its share.
    AtOnce(usize),
    /// One for each request, so many at once: servers that never close a held connection can be drained only of these.
    Fresh(usize),
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests per second, of one image each.
    pub rate: f64,
    /// Over which connections.
    pub connections: Connections,
    /// For how long, at most.
    pub lasting: Duration,
    /// When they are due.
    pub arrivals: Arrivals,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it was due, since the start of the load.
    pub due: Duration,
    /// From due to the answer's last byte.
    pub latency: Duration,
    /// What came of it: 200, or what went wrong.
    pub outcome: Result<(), String>,
}

/// Where to: a model behind a node port of the test cluster, and what it is sent.
#[derive(Clone, Debug)]
pub struct Target {
    address: SocketAddr,
    model: String,
    payload: Payload,
}

/// The body of every request.
#[derive(Clone, Debug)]
pub struct Payload {
    content_type: &'static str,
    body: Vec<u8>,
}

impl Payload {
    /// What the timer device takes: four numbers, as JSON.
    pub fn tensor() -> Self {
        Self { content_type: "application/json", body: tensor().to_string().into_bytes() }
    }

    /// A photo of 10 KB, which the server decodes.
    pub fn photo() -> Self {
        let photo = include_bytes!("../../inference-server/tests/fixtures/images/photo.jpg");
        Self { content_type: "image/jpeg", body: photo.to_vec() }
    }
}

/// A load under way.
pub struct Load {
    /// When it started.
    pub started: Instant,
    stop: CancellationToken,
    task: JoinHandle<Vec<Answer>>,
}

impl Target {
    /// The HTTP port of a service of type `NodePort`. There is no other way to make a target, so no load can leave the
    /// test cluster.
    ///
    /// # Errors
    /// The service has no such port, or it does not answer.
    pub async fn of(workspace: &Workspace, name: &str) -> Outcome<Self> {
        let service: Service = workspace.api::<Service>().get(&format!("{name}-inference")).await?;
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let port = ports.iter().find(|port| port.name.as_deref() == Some("http")).and_then(|port| port.node_port);
        let port = u16::try_from(port.ok_or_else(|| format!("{name} has no NodePort"))?)?;
        let address = SocketAddr::new(workspace.cluster.address, port);
        let target = Self { address, model: name.to_owned(), payload: Payload::tensor() };
        // kube-proxy opens the port on the node a moment after the first pod is ready.
        let (client, url) = (client(1)?, format!("http://{}/v2/health/ready", target.address));
        until(&format!("{url} answers"), PORT_LIMIT, async || {
            Ok(match client.get(&url).send().await {
                Ok(_) => Look::Break(()),
                Err(error) => Look::Continue(format!("{error:?}")),
            })
        })
        .await?;
        Ok(target)
    }

    /// The same, sent something else.
    #[must_use]
    pub fn sending(self, payload: Payload) -> Self {
        Self { payload, ..self }
    }

    /// Asks once, with tensors, and gives the status and the body.
    ///
    /// # Errors
    /// Nothing answers.
    pub async fn ask(&self) -> Outcome<(u16, serde_json::Value)> {
        let answer = client(1)?.post(self.url()).json(&tensor()).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// The model's configuration, as the server has it.
    ///
    /// # Errors
    /// Nothing answers.
    pub async fn config(&self) -> Outcome<serde_json::Value> {
        let url = format!("http://{}/v2/models/{}/config", self.address, self.model);
        Ok(client(1)?.get(url).send().await?.error_for_status()?.json().await?)
    }

    /// One request, answered in full.
    pub(crate) async fn request(&self, client: &reqwest::Client) -> Result<(), String> {
        let whole = |error: reqwest::Error| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        };
        let Payload { content_type, body } = self.payload.clone();
        let request = client.post(self.url()).header("content-type", content_type).body(body);
        let answer = request.send().await.map_err(whole)?;
        let status = answer.status();
        let text = answer.text().await.map_err(whole)?;
        if status.is_success() { Ok(()) } else { Err(format!("{status}: {text}")) }
    }

    fn url(&self) -> String {
        format!("http://{}/v2/models/{}/infer", self.address, self.model)
    }
}

pub(crate) fn client(most_idle: usize) -> Outcome<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(TIMEOUT).pool_max_idle_per_host(most_idle).build()?)
}

fn tensor() -> serde_json::Value {
    json!({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})
}

impl Load {
    /// Starts sending.
    ///
    /// # Errors
    /// The plan is beyond the bounds.
    pub fn start(target: &Target, plan: Plan) -> Outcome<Self> {
        ensure!(plan.rate > 0.0 && plan.rate <= MOST_PER_SECOND, "{} requests per second are not allowed", plan.rate);
        ensure!(plan.lasting <= LONGEST, "{:?} is too long", plan.lasting);
        let (stop, started) = (CancellationToken::new(), Instant::now());
        let schedule = Schedule { plan, started, stop: stop.clone() };
        let task = match plan.connections {
            Connections::Held(count) => {
                ensure!((1..=MOST_HELD).contains(&count), "{count} connections are not allowed");
                let clients = (0..count).map(|_| client(1)).collect::<Outcome<Vec<_>>>()?;
                tokio::spawn(held(target.clone(), schedule, clients))
            }
            Connections::AtOnce(count) | Connections::Fresh(count) => {
                ensure!((1..=MOST_AT_ONCE).contains(&count), "{count} requests at once are not allowed");
                let idle = if matches!(plan.connections, Connections::Fresh(_)) { 0 } else { MOST_AT_ONCE / USERS };
                let users = (0..USERS).map(|_| client(idle)).collect::<Outcome<Vec<_>>>()?;
                tokio::spawn(at_once(target.clone(), schedule, users, count))
            }
        };
        Ok(Self { started, stop, task })
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Ends it: nothing new is sent, what is under way is waited for.
    ///
    /// # Errors
    /// A task of it ended badly.
    pub async fn stop(self) -> Outcome<Report> {
        self.stop.cancel();
        Ok(Report { answers: self.task.await? })
    }

    /// Waits until its time is over.
    ///
    /// # Errors
    /// A task of it ended badly.
    pub async fn finish(self) -> Outcome<Report> {
        Ok(Report { answers: self.task.await? })
    }
}

/// When requests are due, and until when.
struct Schedule {
    plan: Plan,
    started: Instant,
    stop: CancellationToken,
}

impl Schedule {
    /// Calls `send` with each time at which a request is due.
    async fn run(&self, mut send: impl FnMut(Instant)) {
        let mut gaps = Gaps { state: SEED, mean: 1.0 / self.plan.rate, arrivals: self.plan.arrivals };
        let mut due = self.started;
        while due < self.started + self.plan.lasting {
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep_until(due.into()) => {}
            }
            send(due);
            due += gaps.next();
        }
    }

    fn answer(&self, due: Instant, outcome: Result<(), String>) -> Answer {
        Answer { due: due - self.started, latency: due.elapsed(), outcome }
    }
}

/// Each connection takes the next request that is due once it has its answer to the last.
async fn held(target: Target, schedule: Schedule, clients: Vec<reqwest::Client>) -> Vec<Answer> {
    let schedule = Arc::new(schedule);
    let (queue, due) = mpsc::channel::<Instant>(BACKLOG);
    let due = Arc::new(Mutex::new(due));
    let mut connections = JoinSet::new();
    for client in clients {
        let (target, due, schedule) = (target.clone(), Arc::clone(&due), Arc::clone(&schedule));
        connections.spawn(async move {
            let mut answers = Vec::new();
            loop {
                let Some(at) = due.lock().await.recv().await else { return answers };
                answers.push(schedule.answer(at, target.request(&client).await));
            }
        });
    }
    let mut answers = Vec::new();
    schedule
        .run(|at| {
            if queue.try_send(at).is_err() {
                answers.push(schedule.answer(at, Err(format!("not sent: {BACKLOG} requests wait for a connection"))));
            }
        })
        .await;
    drop(queue);
    while let Some(part) = connections.join_next().await {
        answers.extend(part.unwrap_or_default());
    }
    answers.sort_by_key(|answer| answer.due);
    answers
}

/// Each request is the next user's, who takes an idle connection or makes one.
async fn at_once(target: Target, schedule: Schedule, users: Vec<reqwest::Client>, most: usize) -> Vec<Answer> {
    let (target, schedule) = (Arc::new(target), Arc::new(schedule));
    let mut answers = Vec::new();
    let mut requests = JoinSet::new();
    let mut users = users.iter().cycle();
    schedule
        .run(|at| {
            while let Some(answer) = requests.try_join_next() {
                answers.extend(answer.ok());
            }
            if requests.len() >= most {
                answers.push(schedule.answer(at, Err(format!("not sent: {most} requests are under way"))));
                return;
            }
            let Some(client) = users.next().cloned() else { return };
            let (target, schedule) = (Arc::clone(&target), Arc::clone(&schedule));
            requests.spawn(async move { schedule.answer(at, target.request(&client).await) });
        })
        .await;
    while let Some(answer) = requests.join_next().await {
        answers.extend(answer.ok());
    }
    answers.sort_by_key(|answer| answer.due);
    answers
}

/// The distances between requests.
struct Gaps {
    state: u64,
    mean: f64,
    arrivals: Arrivals,
}

impl Gaps {
    fn next(&mut self) -> Duration {
        Duration::from_secs_f64(match self.arrivals {
            Arrivals::Even => self.mean,
            Arrivals::Poisson => -self.mean * self.uniform().ln(),
        })
    }

    /// In (0, 1], by xorshift: nobody guesses against it.
    fn uniform(&mut self) -> f64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        let fraction = ((self.state >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        fraction
    }
}

/// What came of a load.
pub struct Report {
    /// Every request, by when it was due.
    pub answers: Vec<Answer>,
}

impl Report {
    /// Requests that were not answered with 200, by what came instead.
    pub fn failures(&self) -> Vec<String> {
        self.answers
            .iter()
            .filter_map(|answer| {
                let error = answer.outcome.as_ref().err()?;
                Some(format!("at {:.2} s after {:?}: {error}", answer.due.as_secs_f64(), answer.latency))
            })
            .collect()
    }

    /// Fails if any request did.
    ///
    /// # Errors
    /// How many, and the first of them.
    pub fn all_answered(&self) -> Outcome {
        let failures = self.failures();
        ensure!(!self.answers.is_empty(), "no request was sent");
        let first: Vec<_> = failures.iter().take(5).collect();
        ensure!(failures.is_empty(), "{} of {} requests failed: {first:#?}", failures.len(), self.answers.len());
        Ok(())
    }

    /// A quantile of the latencies of the requests that were due between two times.
    pub fn quantile(&self, quantile: f64, from: Duration, to: Duration) -> Duration {
        let mut latencies: Vec<Duration> = self
            .answers
            .iter()
            .filter(|answer| answer.outcome.is_ok() && (from..to).contains(&answer.due))
            .map(|answer| answer.latency)
            .collect();
        latencies.sort_unstable();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let index = ((latencies.len() as f64 * quantile) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn poisson_arrivals_have_the_asked_mean_and_spread() {
        let mut gaps = Gaps { state: SEED, mean: 0.01, arrivals: Arrivals::Poisson };
        let drawn: Vec<f64> = (0..20_000).map(|_| gaps.next().as_secs_f64()).collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        let variance = drawn.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!((mean - 0.01).abs() < 0.0005, "{mean}");
        assert!((variance.sqrt() - 0.01).abs() < 0.001, "{}", variance.sqrt());
    }

    /// A server that answers every second request with 503, on loopback.
    #[tokio::test]
    async fn failures_are_counted_and_connections_held() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target { address, model: "m".to_owned(), payload: Payload::tensor() };
        let accepted = tokio::spawn(async move {
            let mut accepted = 0;
            while let Ok(Ok((mut stream, _))) = tokio::time::timeout(Duration::from_secs(1), listener.accept()).await {
                accepted += 1;
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    let mut asked = 0;
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        asked += 1;
                        let status = if asked % 2 == 0 { "503 Busy" } else { "200 OK" };
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
            accepted
        });
        let plan = Plan {
            rate: 100.0,
            connections: Connections::Held(2),
            lasting: Duration::from_millis(400),
            arrivals: Arrivals::Even,
        };
        let report = Load::start(&target, plan).unwrap().finish().await.unwrap();
        assert_eq!(report.answers.len(), 40);
        assert!((18..=20).contains(&report.failures().len()), "{:?}", report.failures());
        assert!(report.all_answered().is_err());
        assert_eq!(accepted.await.unwrap(), 2, "each connection is held");
    }
}
