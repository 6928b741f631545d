//! Preprocesses images, for measurements and comparisons beside other programs (`bench/preprocessing`).
//!
//! Each line on standard input is an order, each line on standard output its answer:
//!
//! ```text
//! {"file":"cat.jpg","size":224,"options":{"preset":"Clip"},"seconds":1}  ->  {"images":310,"cpuSeconds":1.0}
//! {"file":"cat.jpg","size":224,"options":{"preset":"Clip"},"out":"x.f32"}  ->  {"images":1,"cpuSeconds":0.0}
//! ```
//!
//! With `out`, the tensor of the image is written there, as little-endian 32-bit numbers.

use std::{
    error::Error,
    fs,
    io::{BufRead, Write, stdin, stdout},
    path::PathBuf,
    time::{Duration, Instant},
};

use flotilla_server::{
    image::{Preprocessor, Scratch, options::Preprocessing},
    model::{Signature, TensorSpec},
    tensor::DataType,
};
use serde::Deserialize;

/// What is asked for in a line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Order {
    file: PathBuf,
    size: usize,
    options: Preprocessing,
    #[serde(default)]
    seconds: f64,
    out: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut scratch = Scratch::default();
    for line in stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let (images, seconds) = carry_out(&order, &mut scratch)?;
        writeln!(stdout(), "{}", serde_json::json!({"images": images, "cpuSeconds": seconds}))?;
    }
    Ok(())
}

fn carry_out(order: &Order, scratch: &mut Scratch) -> Result<(u32, f64), Box<dyn Error>> {
    let file = fs::read(&order.file)?;
    let dims = vec![None, Some(3), Some(order.size), Some(order.size)];
    let input = TensorSpec { name: "image".to_owned(), data_type: DataType::Fp32, dims };
    let signature = Signature { inputs: vec![input], outputs: vec![], platform: "none" };
    let preprocessor = Preprocessor::new(order.options, &signature)
        .map_err(|failure| failure.message)?
        .ok_or("the preset None makes nothing of an image")?;
    let mut values = vec![0.0; preprocessor.values()];
    let (start, before) = (Instant::now(), cpu_seconds()?);
    let mut images = 0;
    while images == 0 || start.elapsed() < Duration::from_secs_f64(order.seconds) {
        preprocessor.decode_into(&file, scratch, &mut values)?;
        images += 1;
    }
    let seconds = cpu_seconds()? - before;
    if let Some(out) = &order.out {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(out, bytes)?;
    }
    Ok((images, seconds))
}

/// The processor time of this process, whose only thread this is.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let statistics = fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds: f64 = statistics.split_whitespace().next().ok_or("there are no statistics")?.parse()?;
    Ok(nanoseconds / 1e9)
}
