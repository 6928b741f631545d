//! What the server costs beside bare ONNX Runtime: processor seconds per image, pair by pair, because the speed of a machine
//! that is shared drifts within minutes.
//!
//!     FLOTILLA_ORT_LIBRARY=… cargo bench -p flotilla-server --bench bare_ort -- MODEL_FOLDER [PAIRS [SECONDS [BATCH [IMAGE]]]]
//!
//! Slots in turn: `bare` calls the session alone, with the server's options, its input and output in memory that stays; `device`
//! does what the server does to a batch, from the requests' bytes to the answers' bytes; `server` is the whole program at
//! saturation, over HTTP with binary tensors, from a client whose own time is not counted. With an image, `bare` decodes and
//! preprocesses it for each row besides, `server` gets it as the body, and there is no `device`. Processor seconds are the
//! operating system's, of all threads.

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
        println!("bare_ort: no model given, nothing measured (MODEL_FOLDER [PAIRS [SECONDS [BATCH [IMAGE]]]])");
        return Ok(());
    };
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse());
    let (pairs, slot, batch) = (number(1, 20)?, Duration::from_secs(number(2, 5)?), usize::try_from(number(3, 8)?)?);
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
    println!("| pair | bare CPU-s/image | device/bare | server/bare | images/s: bare | server | executing |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for pair in 0..=pairs {
        let bare = bare.slot(slot)?;
        let through = image.is_none().then(|| bare::through_device(&mut device, &requests, slot)).transpose()?;
        let whole = runtime.block_on(server.slot(&client, &requests, slot))?;
        // The first pair finds cold caches and a server that has just started.
        if pair == 0 {
            continue;
        }
        let device = through.map(|through| through.cost() / bare.cost());
        let [server, executing] = [whole.cost() / bare.cost(), whole.busy / whole.wall];
        println!(
            "| {pair} | {:.4} | {} | {server:.3} | {:.2} | {:.2} | {executing:.3} |",
            bare.cost(),
            device.map_or("-".to_owned(), |device| format!("{device:.3}")),
            bare.images / bare.wall,
            whole.images / whole.wall,
        );
        rows.push((device, server, executing));
    }
    println!();
    let print = |name: &str, values: Vec<f64>| {
        let (mean, half) = interval(&values);
        println!("{name}: {mean:.3} (95 % interval {:.3} to {:.3})", mean - half, mean + half);
    };
    if image.is_none() {
        print("device/bare, CPU-seconds per image", rows.iter().filter_map(|(device, ..)| *device).collect());
    }
    print("server/bare, CPU-seconds per image", rows.iter().map(|(_, server, _)| *server).collect());
    print("server, executing of wall time", rows.iter().map(|(.., executing)| *executing).collect());
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
