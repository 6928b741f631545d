//! The whole engine, with devices that do as they are told. Each file is about one promise.

mod deadlines;
mod devices;
mod dividing;
mod images;
mod overload;
mod quick;
mod random;
mod turns;

use std::sync::{
    Mutex,
    mpsc::{Receiver, Sender, channel},
};

use bytes::Bytes;

use super::*;
use crate::{
    device::{BatchInput, DeviceError, Executed},
    engine::{
        batch::Policy,
        request::{NamedTensor, Payload},
    },
    model::TensorSpec,
    tensor::{Data, DataType, Tensor},
};

const MS: Duration = Duration::from_millis(1);

/// A device that gives its input back after `run` had its say.
struct Scripted<F> {
    signature: Signature,
    run: F,
}

impl<F: FnMut(&BatchInput) -> Result<(), DeviceError> + Send> Device for Scripted<F> {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &'static str {
        "Scripted"
    }

    fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
        (self.run)(&inputs[0])?;
        let output = Tensor { data_type: DataType::Uint8, shape: inputs[0].shape.clone(), data: inputs[0].to_data() };
        Ok(Executed { outputs: vec![output], input: Duration::ZERO, infer: Duration::ZERO, output: Duration::ZERO })
    }
}

/// Bytes in rows of any width.
fn device(run: impl FnMut(&BatchInput) -> Result<(), DeviceError> + Send + 'static) -> Box<dyn Device> {
    let spec = |name: &str| TensorSpec { name: name.to_owned(), data_type: DataType::Uint8, dims: vec![None, None] };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], platform: "test" };
    Box::new(Scripted { signature, run })
}

fn config() -> EngineConfig {
    EngineConfig {
        model: "m".to_owned(),
        policy: Policy { max_rows: 8, max_delay: Duration::ZERO },
        max_queue_size: 64,
        images: Images::Refused,
        decode_threads: 1,
        buckets: Vec::new(),
        max_request_rows: 64,
        priority_levels: 4,
        default_priority: 2,
        default_timeout: DEFAULT_TIMEOUT,
    }
}

fn start(devices: Vec<Box<dyn Device>>, config: EngineConfig) -> Arc<Engine> {
    let metrics = Arc::new(Metrics::new("m", "1").unwrap());
    Arc::new(Engine::start(devices, config, metrics).unwrap())
}

fn call(shape: [usize; 2], bytes: Vec<u8>) -> Call {
    let data = Data::Fixed(Bytes::from(bytes));
    let tensor = Tensor { data_type: DataType::Uint8, shape: shape.to_vec(), data };
    let payload = Payload::Tensors(vec![NamedTensor { name: "x".to_owned(), tensor }]);
    Call { payload, arrived: Instant::now(), timeout: None, priority: 0 }
}

fn bytes(answer: &Answer) -> Vec<u8> {
    let Data::Fixed(bytes) = &answer.outputs[0].tensor.data else { panic!("numbers") };
    bytes.to_vec()
}

/// Rows of one byte each.
async fn infer(engine: &Engine, rows: &[u8]) -> Result<Vec<u8>, InferError> {
    let answer = engine.infer(call([rows.len(), 1], rows.to_vec())).await?;
    assert_eq!(answer.outputs[0].tensor.shape, [rows.len(), 1]);
    Ok(bytes(&answer))
}

/// Lets a device begin and end one execution after another, and shows what it was given.
struct Gate {
    began: Mutex<Receiver<Vec<u8>>>,
    may_end: Sender<()>,
}

impl Gate {
    fn new() -> (Self, Box<dyn Device>) {
        let (begin, began) = channel();
        let (may_end, end) = channel();
        let device = device(move |input| {
            drop(begin.send(input.bytes().to_vec()));
            // When the test is over, so is the execution.
            let _ = end.recv();
            Ok(())
        });
        (Self { began: Mutex::new(began), may_end }, device)
    }

    /// Waits for the next execution and says what it got.
    fn began(&self) -> Vec<u8> {
        self.began.lock().unwrap().recv_timeout(Duration::from_mins(1)).unwrap()
    }

    fn end(&self) {
        self.may_end.send(()).unwrap();
    }

    fn is_quiet(&self) -> bool {
        self.began.lock().unwrap().try_recv().is_err()
    }
}

/// Waits until so many requests wait.
async fn pending(engine: &Engine, requests: i64) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while engine.metrics().pending_requests.get() != requests {
        assert!(Instant::now() < deadline, "{} wait, not {requests}", engine.metrics().pending_requests.get());
        tokio::time::sleep(MS).await;
    }
}

type Task = tokio::task::JoinHandle<Result<Vec<u8>, InferError>>;

/// Sends a request on a task of its own, and returns when it waits (`pending` requests do) or runs.
async fn send(engine: &Arc<Engine>, rows: Vec<u8>, priority: u64, pending_after: i64) -> Task {
    let task = {
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            let call = Call { priority, ..call([rows.len(), 1], rows) };
            engine.infer(call).await.map(|answer| bytes(&answer))
        })
    };
    pending(engine, pending_after).await;
    task
}

fn page(engine: &Engine) -> String {
    crate::metrics::render([engine.metrics()])
}
