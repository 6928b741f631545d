//! What a request costs in the engine, beside a bare round trip through a channel to a thread and back.
//!
//! The device does nothing, so that everything measured is the engine's own: checking, admission, the batch, the answer, the
//! metrics, and the two changes of thread that no server with a thread for its device can do without. The round trip makes the
//! same two changes and nothing else. Both are measured in turns, because the speed of a machine drifts.
//!
//! ```text
//! cargo bench -p flotilla-server --bench engine
//! ```

#![expect(clippy::expect_used, reason = "a benchmark that can't run should end")]

use std::{
    fs,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use flotilla_server::{
    device::{BatchInput, Device, DeviceError, Executed},
    engine::{
        Call, DEFAULT_TIMEOUT, Engine, EngineConfig, Images,
        batch::Policy,
        request::{NamedTensor, Payload},
    },
    metrics::Metrics,
    model::{Signature, TensorSpec},
    tensor::{Data, DataType, Tensor},
};
use tokio::{runtime::Runtime, sync::oneshot};

/// Requests between two changes from one to the other.
const TURN: u32 = 500;
const TURNS: usize = 60;

/// Gives four numbers for each row, from memory that is always there.
struct Costless(Signature, Bytes);

impl Device for Costless {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn provider(&self) -> &'static str {
        "Costless"
    }

    fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
        let rows = inputs.first().and_then(|input| input.shape.first()).copied().unwrap_or(0);
        let data = Data::Fixed(self.1.slice(..rows * 16));
        let outputs = vec![Tensor { data_type: DataType::Fp32, shape: vec![rows, 4], data }];
        Ok(Executed { outputs, input: Duration::ZERO, infer: Duration::ZERO, output: Duration::ZERO })
    }
}

fn engine() -> Arc<Engine> {
    let spec = |name: &str| TensorSpec { name: name.to_owned(), data_type: DataType::Fp32, dims: vec![None, Some(4)] };
    let signature = Signature { inputs: vec![spec("input")], outputs: vec![spec("output")], platform: "bench" };
    let config = EngineConfig {
        model: "costless".to_owned(),
        policy: Policy { max_rows: 32, max_delay: Duration::ZERO },
        max_queue_size: 1024,
        images: Images::Refused,
        decode_threads: 1,
        buckets: Vec::new(),
        max_request_rows: 256,
        priority_levels: 1,
        default_priority: 1,
        default_timeout: DEFAULT_TIMEOUT,
    };
    let metrics = Arc::new(Metrics::new("costless", "1").expect("metrics"));
    let device = Box::new(Costless(signature, Bytes::from(vec![0; 32 * 16])));
    Arc::new(Engine::start(vec![device], config, metrics).expect("threads"))
}

async fn request(engine: &Engine, body: &Bytes) {
    let tensor = Tensor { data_type: DataType::Fp32, shape: vec![1, 4], data: Data::Fixed(body.clone()) };
    let payload = Payload::Tensors(vec![NamedTensor { name: "input".to_owned(), tensor }]);
    let call = Call { payload, arrived: Instant::now(), timeout: None, priority: 0 };
    assert_eq!(engine.infer(call).await.expect("an answer").outputs.len(), 1);
}

type Echo = mpsc::Sender<(Bytes, oneshot::Sender<Bytes>)>;

fn echo() -> Echo {
    let (sender, receiver) = mpsc::channel::<(Bytes, oneshot::Sender<Bytes>)>();
    thread::spawn(move || {
        while let Ok((body, reply)) = receiver.recv() {
            drop(reply.send(body));
        }
    });
    sender
}

async fn round_trip(echo: &Echo, body: &Bytes) {
    let (reply, answer) = oneshot::channel();
    echo.send((body.clone(), reply)).expect("the thread");
    assert_eq!(answer.await.expect("an answer").len(), 16);
}

/// Runs `TURN` requests in each of so many tasks.
fn turn<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    tasks: u32,
    one: impl Fn() -> F + Clone + Send + 'static,
) {
    runtime.block_on(async {
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let one = one.clone();
                tokio::spawn(async move {
                    for _ in 0..TURN {
                        one().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
    });
}

/// The processor time of this process's threads so far, to the nanosecond.
fn cpu() -> Duration {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let statistics = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        statistics.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn ratios(_: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let (engine, echo) = (engine(), echo());
    let body = Bytes::from(vec![0; 16]);
    let infer = {
        let (engine, body) = (Arc::clone(&engine), body.clone());
        move || {
            let (engine, body) = (Arc::clone(&engine), body.clone());
            async move { request(&engine, &body).await }
        }
    };
    let bounce = move || {
        let (echo, body) = (echo.clone(), body.clone());
        async move { round_trip(&echo, &body).await }
    };
    for tasks in [1, 8, 32] {
        let mut quotients = Vec::new();
        let (mut times, mut cpus) = ([Duration::ZERO; 2], [Duration::ZERO; 2]);
        for _ in 0..TURNS {
            let mut took = [Duration::ZERO; 2];
            for (index, took) in took.iter_mut().enumerate() {
                let (start, cpu_before) = (Instant::now(), cpu());
                if index == 0 {
                    turn(&runtime, tasks, infer.clone());
                } else {
                    turn(&runtime, tasks, bounce.clone());
                }
                *took = start.elapsed();
                times[index] += *took;
                cpus[index] += cpu().saturating_sub(cpu_before);
            }
            quotients.push(took[0].as_secs_f64() / took[1].as_secs_f64());
        }
        quotients.sort_by(f64::total_cmp);
        let requests = f64::from(tasks * TURN) * f64::from(u32::try_from(TURNS).unwrap_or(1));
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / requests;
        eprintln!(
            "{tasks:2} at a time: engine {:.2} us, round trip {:.2} us, ratio {:.2} ({:.2} to {:.2}, {TURNS} turns); \
             processor time: engine {:.2} us, round trip {:.2} us",
            micros(times[0]),
            micros(times[1]),
            quotients[TURNS / 2],
            quotients[TURNS / 10],
            quotients[TURNS * 9 / 10],
            micros(cpus[0]),
            micros(cpus[1]),
        );
    }
}

fn single(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let (engine, echo) = (engine(), echo());
    let body = Bytes::from(vec![0; 16]);
    criterion.bench_function("engine", |bencher| {
        bencher.iter(|| runtime.block_on(request(&engine, &body)));
    });
    criterion.bench_function("round trip", |bencher| {
        bencher.iter(|| runtime.block_on(round_trip(&echo, &body)));
    });
}

criterion_group!(benches, single, ratios);
criterion_main!(benches);
