//! What the server costs beside bare ONNX Runtime: processor seconds per image, pair by pair, because the speed of a machine
//! that is shared drifts within minutes.
//!
//!     FLOTILLA_ORT_LIBRARY=… cargo bench -p flotilla-server --bench bare_ort -- MODEL_FOLDER [PAIRS [SECONDS [BATCH]]]
//!
//! Three slots a pair, in turn: `bare` calls the session alone with one input made before; `device` does what the server does to
//! a batch, from the requests' bytes to the answers' bytes; `server` is the whole program at saturation, over HTTP with binary
//! tensors, from a client whose own time is not counted. Processor seconds are the operating system's, of all threads.

#![allow(clippy::print_stdout, reason = "the result")]

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use flotilla_server::{
    device::{
        BatchInput, Device, Values, aligned,
        onnx::{Onnx, library::Library, plan::Plan},
        probe,
    },
    tensor::Data,
};
use reqwest::Client;
use tokio::{runtime::Runtime, task::JoinSet};

/// Two-sided 95 % quantiles of Student's distribution by degrees of freedom, from 1 on.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What one slot did.
#[derive(Debug, Clone, Copy)]
struct Slot {
    images: f64,
    cpu: f64,
    wall: f64,
    /// Time in which the device executed.
    busy: f64,
}

impl Slot {
    fn cost(&self) -> f64 {
        self.cpu / self.images
    }
}

fn main() -> Outcome {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(folder) = arguments.first().map(PathBuf::from) else {
        println!("bare_ort: no model given, nothing measured (MODEL_FOLDER [PAIRS [SECONDS [BATCH]]])");
        return Ok(());
    };
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse());
    let (pairs, seconds, batch) = (number(1, 20)?, number(2, 5)?, usize::try_from(number(3, 8)?)?);
    let library_path =
        env::var_os("FLOTILLA_ORT_LIBRARY").map(PathBuf::from).ok_or("FLOTILLA_ORT_LIBRARY is not set")?;
    let library = Library::load(Some(&library_path))?;
    let file = folder.join("1/model.onnx");
    let threads = std::thread::available_parallelism()?.get();
    println!(
        "{} at batch {batch}, {threads} threads, {pairs} pairs of {seconds} s, ONNX Runtime {}",
        file.display(),
        library.version()
    );

    let mut bare = Bare::open(&library, &file, threads, batch)?;
    let mut device = Onnx::open(&library, &file, &Plan::cpu(threads))?;
    let requests = requests(&device, batch)?;
    let runtime = Runtime::new()?;
    let server = Server::start(&folder, &library_path, batch)?;
    let client = Client::new();
    runtime.block_on(server.ready(&client))?;
    let slot = Duration::from_secs(seconds);
    let mut rows = Vec::new();
    println!("pair  bare CPU-s/image  device/bare  server/bare  images/s bare, server  server busy");
    for pair in 0..=pairs {
        let bare = bare.slot(slot)?;
        let through = through_device(&mut device, &requests, slot)?;
        let whole = runtime.block_on(server.slot(&client, &requests, slot))?;
        // The first pair finds cold caches and a server that has just started.
        if pair == 0 {
            continue;
        }
        println!(
            "{pair:4}  {:16.4}  {:11.3}  {:11.3}  {:8.2} {:13.2}  {:11.3}",
            bare.cost(),
            through.cost() / bare.cost(),
            whole.cost() / bare.cost(),
            bare.images / bare.wall,
            whole.images / whole.wall,
            whole.busy / whole.wall
        );
        rows.push((bare, through, whole));
    }
    for (name, values) in [
        (
            "device/bare, CPU-seconds per image",
            rows.iter().map(|(bare, through, _)| through.cost() / bare.cost()).collect(),
        ),
        (
            "server/bare, CPU-seconds per image",
            rows.iter().map(|(bare, _, whole)| whole.cost() / bare.cost()).collect(),
        ),
        (
            "server, executing of wall time",
            rows.iter().map(|(_, _, whole)| whole.busy / whole.wall).collect::<Vec<f64>>(),
        ),
    ] {
        let (mean, half) = interval(&values);
        println!("{name}: {mean:.3} (95 % interval {:.3} to {:.3})", mean - half, mean + half);
    }
    Ok(())
}

/// Mean and half the width of its 95 % interval.
#[expect(clippy::cast_precision_loss, reason = "some dozens of pairs")]
fn interval(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let quantile = STUDENT[values.len().saturating_sub(2).min(STUDENT.len() - 1)];
    (mean, quantile * (variance / count).sqrt())
}

/// ONNX Runtime and nothing else.
struct Bare {
    session: ort::session::Session,
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
    batch: usize,
}

impl Bare {
    /// The options are the server's own.
    fn open(library: &Library, file: &Path, threads: usize, batch: usize) -> Outcome<Self> {
        let session = ort::session::Session::builder(library.environment())?
            .with_intra_threads(threads)?
            .with_intra_op_spinning(false)?
            .commit_from_file(file)?;
        let name = session.inputs()[0].name().to_owned();
        let dims = session.inputs()[0].dtype().tensor_shape().ok_or("the input is no tensor")?.to_vec();
        let shape: Vec<usize> =
            std::iter::once(batch).chain(dims.iter().skip(1).map(|dim| usize::try_from(*dim).unwrap_or(224))).collect();
        let values =
            (0..shape.iter().product()).map(|index: usize| f32::from(u8::try_from(index % 251).unwrap_or(0)) / 251.0);
        let values = values.collect();
        Ok(Self { session, name, shape, values, batch })
    }

    #[expect(clippy::cast_precision_loss, reason = "counts")]
    fn slot(&mut self, slot: Duration) -> Outcome<Slot> {
        let (start, cpu, mut runs) = (Instant::now(), cpu_seconds("self")?, 0_usize);
        while start.elapsed() < slot {
            let input = ort::value::TensorRef::from_array_view((self.shape.clone(), self.values.as_slice()))?;
            self.session.run(ort::inputs![self.name.as_str() => input])?;
            runs += 1;
        }
        let wall = start.elapsed().as_secs_f64();
        Ok(Slot { images: (runs * self.batch) as f64, cpu: cpu_seconds("self")? - cpu, wall, busy: wall })
    }
}

/// One body for each row of a batch: the first input's bytes.
fn requests(device: &Onnx, batch: usize) -> Outcome<Vec<Data>> {
    let sample = probe::sample(device.signature(), batch);
    let [input] = sample.as_slice() else { return Err("the model has more than one input".into()) };
    let Data::Fixed(bytes) = input.to_data() else { return Err("the input is BYTES".into()) };
    let row = bytes.len() / batch;
    Ok((0..batch).map(|index| Data::Fixed(bytes.slice(index * row..(index + 1) * row))).collect())
}

/// From the requests' bytes into a batch whose memory is used again, through the session, and out as a slice for each.
#[expect(clippy::cast_precision_loss, reason = "counts")]
fn through_device(device: &mut Onnx, requests: &[Data], slot: Duration) -> Outcome<Slot> {
    let batch = requests.len();
    let sample = probe::sample(device.signature(), batch).into_iter().next().ok_or("no input")?;
    let row = sample.bytes().len() / batch;
    let values = Values::Own(aligned(row * batch));
    let mut inputs = vec![BatchInput { data_type: sample.data_type, shape: sample.shape, values }];
    let (start, cpu, mut runs, mut busy) = (Instant::now(), cpu_seconds("self")?, 0_usize, Duration::ZERO);
    let mut answered = 0;
    while start.elapsed() < slot {
        let Values::Own(memory) = &mut inputs[0].values else { return Err("no memory".into()) };
        for (place, request) in memory.chunks_exact_mut(row).zip(requests) {
            let Data::Fixed(bytes) = request else { return Err("the input is BYTES".into()) };
            place.copy_from_slice(bytes);
        }
        let executed = device.run(&inputs)?;
        busy += executed.infer;
        for row in 0..batch {
            answered += executed.outputs.iter().map(|output| output.rows(row, 1).shape.len()).sum::<usize>();
        }
        runs += 1;
    }
    assert!(answered >= runs * batch, "every row has an answer");
    let wall = start.elapsed().as_secs_f64();
    Ok(Slot { images: (runs * batch) as f64, cpu: cpu_seconds("self")? - cpu, wall, busy: busy.as_secs_f64() })
}

/// User and system time of a process, all threads, in the clock's hundredths of a second.
fn cpu_seconds(process: &str) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name is in brackets and may hold anything.
    let rest = stat.rsplit_once(')').ok_or("no name in stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Outcome<f64> { Ok(fields.get(index).ok_or("a short stat")?.parse::<f64>()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// The program, ended with this value.
struct Server {
    process: Child,
    http: String,
    metrics: String,
    batch: usize,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(model: &Path, library: &Path, batch: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let port = || Ok::<_, std::io::Error>(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port());
        let (http, metrics) = (port()?, port()?);
        let settings = serde_json::json!({
            "version": 1, "model": {"name": "m", "path": model}, "executionProvider": "Cpu",
            "batching": {"maxBatchSize": batch},
            "http": {"port": http, "maxConnectionAgeSeconds": 3600}, "metrics": {"port": metrics},
        });
        let file = folder.path().join("settings.json");
        fs::write(&file, settings.to_string())?;
        let process = Command::new(env!("CARGO_BIN_EXE_flotilla-server"))
            .arg("--settings")
            .arg(&file)
            .env("FLOTILLA_ORT_LIBRARY", library)
            .env("FLOTILLA_LOG_LEVEL", "warn")
            .spawn()?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        Ok(Self { process, http: url(http), metrics: url(metrics), batch, _folder: folder })
    }

    async fn ready(&self, client: &Client) -> Outcome {
        for _ in 0..1200 {
            let answer = client.get(format!("{}/v2/health/ready", self.http)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("the server was not ready within two minutes".into())
    }

    async fn counter(&self, client: &Client, name: &str) -> Outcome<f64> {
        let page = client.get(format!("{}/metrics", self.metrics)).send().await?.text().await?;
        let line = page.lines().find(|line| line.starts_with(&format!("{name}{{"))).ok_or("no such metric")?;
        Ok(line.rsplit(' ').next().ok_or("no value")?.parse()?)
    }

    /// Keeps two batches of requests under way, and counts what the server did meanwhile.
    async fn slot(&self, client: &Client, requests: &[Data], slot: Duration) -> Outcome<Slot> {
        let mut clients = JoinSet::new();
        let stop = Instant::now() + slot + Duration::from_secs(1);
        for index in 0..2 * self.batch {
            let Data::Fixed(row) = &requests[index % requests.len()] else { continue };
            let (client, url, row) = (client.clone(), format!("{}/v2/models/m/infer", self.http), row.clone());
            clients.spawn(async move {
                while Instant::now() < stop {
                    let request = client.post(&url).header("inference-header-content-length", "0").body(row.clone());
                    let answer = request.send().await.map_err(|error| error.to_string())?;
                    if !answer.status().is_success() {
                        return Err(answer.text().await.unwrap_or_default());
                    }
                    answer.bytes().await.map_err(|error| error.to_string())?;
                }
                Ok(())
            });
        }
        // Until every connection is open and the first batch is full.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let process = self.process.id().to_string();
        let read = async || -> Outcome<[f64; 3]> {
            let images = self.counter(client, "nv_inference_count").await?;
            let busy = self.counter(client, "flotilla_device_busy_seconds_total").await?;
            Ok([images, busy, cpu_seconds(&process)?])
        };
        // Images are counted when their batch ends, so the slot begins and ends with a batch.
        let begun = self.next_batch(client).await?;
        let before = read().await?;
        tokio::time::sleep(slot).await;
        let ended = self.next_batch(client).await?;
        let after = read().await?;
        while let Some(result) = clients.join_next().await {
            result??;
        }
        let [images, busy, cpu] = [0, 1, 2].map(|index: usize| after[index] - before[index]);
        Ok(Slot { images, cpu, wall: (ended - begun).as_secs_f64(), busy })
    }

    /// Waits for the end of the batch that runs.
    async fn next_batch(&self, client: &Client) -> Outcome<Instant> {
        let before = self.counter(client, "nv_inference_exec_count").await?;
        let limit = Instant::now() + Duration::from_mins(1);
        while self.counter(client, "nv_inference_exec_count").await? <= before {
            if Instant::now() > limit {
                return Err("no batch ended within a minute".into());
            }
            // A look at the counters costs the server a little, and counts.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(Instant::now())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
