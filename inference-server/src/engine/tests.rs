//! The engine with devices that misbehave, and with requests that may not share a batch.

use bytes::Bytes;

use super::*;
use crate::{
    device::{BatchInput, DeviceError, Executed},
    model::TensorSpec,
    tensor::{Data, DataType, Tensor},
};

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
        let output =
            Tensor { data_type: DataType::Uint8, shape: inputs[0].shape.clone(), data: inputs[0].column.to_data() };
        Ok(Executed { outputs: vec![output], input: Duration::ZERO, infer: Duration::ZERO, output: Duration::ZERO })
    }
}

fn engine(run: impl FnMut(&BatchInput) -> Result<(), DeviceError> + Send + 'static) -> Engine {
    let spec = |name: &str| TensorSpec { name: name.to_owned(), data_type: DataType::Uint8, dims: vec![None, None] };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], platform: "test" };
    let config = EngineConfig {
        model: "m".to_owned(),
        policy: Policy { max_rows: 8, max_delay: Duration::ZERO },
        max_queue_size: 64,
        images: Images::Refused,
        decode_threads: 1,
        buckets: Vec::new(),
        max_request_rows: 64,
        priority_levels: 1,
        default_priority: 1,
        default_timeout: DEFAULT_TIMEOUT,
    };
    let metrics = Arc::new(Metrics::new("m", "1").unwrap());
    Engine::start(vec![Box::new(Scripted { signature, run })], config, metrics).unwrap()
}

async fn infer(engine: &Engine, shape: [usize; 2], byte: u8) -> Result<Vec<u8>, InferError> {
    let data = Data::Fixed(Bytes::from(vec![byte; shape[0] * shape[1]]));
    let tensor = Tensor { data_type: DataType::Uint8, shape: shape.to_vec(), data };
    let payload = Payload::Tensors(vec![NamedTensor { name: "x".to_owned(), tensor }]);
    let answer = engine.infer(Call { payload, arrived: Instant::now(), timeout: None, priority: 0 }).await?;
    assert_eq!(answer.outputs[0].tensor.shape, shape);
    let Data::Fixed(bytes) = &answer.outputs[0].tensor.data else { panic!("numbers") };
    Ok(bytes.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_gets_the_rows_they_sent() {
    let engine = Arc::new(engine(|_| {
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    }));
    let requests: Vec<_> = (0..60_u8)
        .map(|index| {
            let engine = Arc::clone(&engine);
            // Rows of two widths in turns of ten: those of one width must not share a batch with those of the other.
            let shape = [usize::from(index % 3) + 1, usize::from(index / 10 % 2) + 1];
            tokio::spawn(async move { (index, shape, infer(&engine, shape, index).await) })
        })
        .collect();
    for request in requests {
        let (index, shape, result) = request.await.unwrap();
        assert_eq!(result.unwrap(), vec![index; shape[0] * shape[1]]);
    }
    assert!(engine.metrics().exec_count.get() < 60, "some shared a batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_batch_fails_its_members_and_no_others() {
    let engine =
        engine(|input| if input.shape[0] == 2 { Err(DeviceError("out of memory".to_owned())) } else { Ok(()) });
    let failed = InferError::Backend("the execution failed: out of memory".to_owned());
    assert_eq!(infer(&engine, [2, 1], 1).await, Err(failed));
    assert_eq!(infer(&engine, [1, 1], 2).await, Ok(vec![2]));
    assert!(engine.is_alive());
    assert!(
        crate::metrics::render([engine.metrics()])
            .contains(r#"nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 1"#)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_panics_ends_the_engine_and_not_the_process() {
    let engine = engine(|_| panic!("the driver is gone"));
    assert_eq!(infer(&engine, [1, 1], 1).await, Err(InferError::Backend("the device panicked".to_owned())));
    assert!(!engine.is_alive());
    assert_eq!(infer(&engine, [1, 1], 2).await, Err(InferError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_engine_begins_nothing() {
    let engine = engine(|_| Ok(()));
    assert_eq!(engine.begin(), Ok(()));
    engine.drain();
    assert_eq!(engine.begin(), Err(InferError::Draining));
    assert_eq!(infer(&engine, [1, 1], 3).await, Ok(vec![3]), "what has begun is finished");
}
