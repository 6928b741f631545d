//! What the server costs beside bare ONNX Runtime: processor seconds per image, pair by pair, because the speed of a machine
//! that is shared drifts within minutes.
//!
//!     FLOTILLA_ORT_LIBRARY=… cargo bench -p flotilla-server --bench bare_ort -- MODEL_FOLDER [PAIRS [SECONDS [BATCH [IMAGE]]]]
//!
//! Slots in turn, each compared with the bare ones before and after it, so that a steady drift cancels: `bare` calls the session
//! alone, with the server's options, its input and output in memory that stays; `device` does what the server does to a batch,
//! from the requests' bytes to the answers' bytes; `server` is the whole program at saturation, over HTTP with binary tensors,
//! from a client whose own time is not counted. With an image, `bare` decodes and preprocesses it for each row besides, `server`
//! gets it as the body, and there is no `device`. Processor seconds are the operating system's, of all threads.

#![allow(clippy::print_stdout, reason = "the result")]

mod bare;
mod server;

use std::{env, error::Error, fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use flotilla_server::device::{
    Device as _,
    onnx::{Onnx, library::Library, plan::Plan},
};
use reqwest::Client;
use tokio::runtime::Runtime;

use self::{bare::Bare, server::Server};

/// The two-sided 95 % quantile of the normal distribution.
const NORMAL: f64 = 1.96;

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
        println!("bare_ort: no model given, nothing measured (MODEL_FOLDER [PAIRS [SECONDS [BATCH [IMAGE]]]])");
        return Ok(());
    };
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse());
    let (pairs, slot, batch) = (number(1, 200)?, Duration::from_secs(number(2, 1)?), usize::try_from(number(3, 8)?)?);
    let image = arguments.get(4).map(PathBuf::from);
    let library_path =
        env::var_os("FLOTILLA_ORT_LIBRARY").map(PathBuf::from).ok_or("FLOTILLA_ORT_LIBRARY is not set")?;
    let library = Library::load(Some(&library_path))?;
    let file = folder.join("1/model.onnx");
    let threads = std::thread::available_parallelism()?.get();
    println!(
        "{} at batch {batch}, {threads} threads, {pairs} pairs of {slot:?}, ONNX Runtime {}, bodies: {}\n",
        file.display(),
        library.version(),
        image.as_ref().map_or("float32".to_owned(), |image| image.display().to_string())
    );

    let mut device = Onnx::open(&library, &file, &Plan::cpu(threads))?;
    let mut bare = Bare::open(&library, &file, device.signature(), threads, batch, image.as_deref())?;
    let requests = match &image {
        Some(image) => vec![Bytes::from(fs::read(image)?)],
        None => bare::tensors(&device, batch)?,
    };
    let runtime = Runtime::new()?;
    let server = Server::start(&folder, &library_path, batch, image.is_some())?;
    let client = Client::new();
    runtime.block_on(server.ready(&client))?;
    let mut rows = Vec::new();
    // The first slots find cold caches and a server that has just started.
    bare.slot(slot)?;
    runtime.block_on(server.slot(&client, &requests, slot))?;
    let mut before = bare.slot(slot)?;
    println!("| pair | bare CPU-s/image | device/bare | server/bare | images/s: bare | server | executing |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for pair in 1..=pairs {
        let through = image.is_none().then(|| bare::through_device(&mut device, &requests, slot)).transpose()?;
        let whole = runtime.block_on(server.slot(&client, &requests, slot))?;
        let after = bare.slot(slot)?;
        let around = f64::midpoint(before.cost(), after.cost());
        let device = through.map(|through| through.cost() / around);
        let [server, executing] = [whole.cost() / around, whole.busy / whole.wall];
        println!(
            "| {pair} | {around:.4} | {} | {server:.3} | {:.2} | {:.2} | {executing:.3} |",
            device.map_or("-".to_owned(), |device| format!("{device:.3}")),
            f64::midpoint(before.images / before.wall, after.images / after.wall),
            whole.images / whole.wall,
        );
        rows.push((device, server, executing));
        before = after;
    }
    println!("\n| | median (95 %) | mean (95 %) |\n| --- | --- | --- |");
    if image.is_none() {
        print("device/bare, CPU-seconds per image", rows.iter().filter_map(|(device, ..)| *device).collect());
    }
    print("server/bare, CPU-seconds per image", rows.iter().map(|(_, server, _)| *server).collect());
    print("server, executing of wall time", rows.iter().map(|(.., executing)| *executing).collect());
    Ok(())
}

/// The median with the interval of its order statistics, which asks nothing of the distribution, and the mean.
#[expect(clippy::cast_precision_loss, reason = "some hundreds of pairs")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
fn print(name: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    // The ranks that 95 % of binomial draws at one half lie between, by the normal approximation (Conover 1999, 3.2).
    let low = ((count - NORMAL * count.sqrt()) / 2.0).floor().max(0.0) as usize;
    let [first, last] = [values[low], values[values.len() - 1 - low]];
    let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let half = NORMAL * (variance / count).sqrt();
    println!(
        "| {name} | {median:.3} ({first:.3} to {last:.3}) | {mean:.3} ({:.3} to {:.3}) |",
        mean - half,
        mean + half
    );
}
