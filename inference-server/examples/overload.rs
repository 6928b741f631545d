//! An engine at three times its capacity: what it still gets done, and how long those wait who are served.
//!
//! The device takes time and no processor (5 ms an image and 10 ms a batch, at most 32 images: 188 a second), so that only the
//! engine is seen. First as many clients as keep it busy, for the peak; then three times the peak, evenly spaced, whatever
//! comes back. Each request may wait for a second.
//!
//! ```text
//! cargo run --release -p flotilla-server --example overload -- 60
//! ```

#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "the report is what it is for, and counts are small"
)]

use std::{
    env,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flotilla_server::{
    device::timer::Timer,
    engine::{
        Call, DEFAULT_TIMEOUT, Engine, EngineConfig, Images, InferError,
        batch::Policy,
        request::{NamedTensor, Payload},
    },
    metrics::Metrics,
    tensor::{Data, DataType, Tensor},
};

const CLIENTS: usize = 128;
const TIMEOUT: Duration = Duration::from_secs(1);

fn engine() -> Result<Arc<Engine>, Box<dyn Error>> {
    let config = EngineConfig {
        model: "timer".to_owned(),
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
    let timer = Timer::new(Duration::from_millis(5), Duration::from_millis(10), &[4]);
    Ok(Arc::new(Engine::start(vec![Box::new(timer)], config, Arc::new(Metrics::new("timer", "1")?))?))
}

/// One image; how long it took if it was served.
async fn image(engine: Arc<Engine>) -> Result<Duration, InferError> {
    let data = Data::Fixed(Bytes::from_static(&[0; 16]));
    let tensor = Tensor { data_type: DataType::Fp32, shape: vec![1, 4], data };
    let payload = Payload::Tensors(vec![NamedTensor { name: "input".to_owned(), tensor }]);
    let arrived = Instant::now();
    engine.infer(Call { payload, arrived, timeout: Some(TIMEOUT), priority: 0 }).await?;
    Ok(arrived.elapsed())
}

/// Images a second with as many clients as keep the device busy.
async fn peak(engine: &Arc<Engine>, time: Duration) -> f64 {
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let engine = Arc::clone(engine);
            tokio::spawn(async move {
                let mut served = 0_u32;
                while start.elapsed() < time {
                    served += u32::from(image(Arc::clone(&engine)).await.is_ok());
                }
                served
            })
        })
        .collect();
    let mut served = 0;
    for client in clients {
        served += client.await.unwrap_or(0);
    }
    f64::from(served) / start.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let time = Duration::from_secs(env::args().nth(1).map_or(Ok(60), |seconds| seconds.parse())?);
    let engine = engine()?;
    let peak = peak(&engine, time / 4).await;
    println!("peak: {peak:.1} images/s with {CLIENTS} clients");

    let (start, mut requests) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let due = start.elapsed().as_secs_f64() * 3.0 * peak;
        while (requests.len() as f64) < due {
            requests.push(tokio::spawn(image(Arc::clone(&engine))));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let sent = requests.len();
    let (mut served, mut refused, mut expired) = (Vec::new(), 0, 0);
    for request in requests {
        match request.await {
            Ok(Ok(took)) => served.push(took),
            Ok(Err(InferError::QueueFull { .. })) => refused += 1,
            Ok(Err(InferError::Timeout)) => expired += 1,
            Ok(Err(error)) => println!("failed: {error}"),
            Err(error) => println!("lost: {error}"),
        }
    }
    let goodput = served.len() as f64 / start.elapsed().as_secs_f64();
    served.sort_unstable();
    let quantile = |share: usize| served.get(served.len() * share / 100).map_or(0, Duration::as_millis);
    println!(
        "three times that for {} s: {sent} sent, {} served, {refused} turned away at once, {expired} after a second, {} lost",
        time.as_secs(),
        served.len(),
        sent - served.len() - refused - expired,
    );
    println!(
        "goodput: {goodput:.1} images/s, {:.3} of the peak; those served took {} ms (half), {} ms (99 of 100), {} ms (all)",
        goodput / peak,
        quantile(50),
        quantile(99),
        served.last().map_or(0, Duration::as_millis),
    );
    Ok(())
}
