//! Three times as much work as the device can do: it stays as fast as ever, and works for nobody who is gone.

use super::*;
use crate::device::timer::Timer;

const MAX_ROWS: usize = 8;
/// 12 ms for a full batch.
const ALPHA: Duration = MS;
const TAU: Duration = Duration::from_millis(4);

fn timer() -> Arc<Engine> {
    let policy = Policy { max_rows: MAX_ROWS, max_delay: Duration::ZERO };
    start(vec![Box::new(Timer::new(ALPHA, TAU, &[1]))], EngineConfig { policy, max_queue_size: 256, ..config() })
}

fn image(timeout: Duration) -> Call {
    let tensor =
        Tensor { data_type: DataType::Fp32, shape: vec![1, 1], data: Data::Fixed(Bytes::from_static(&[0; 4])) };
    let payload = Payload::Tensors(vec![NamedTensor { name: "input".to_owned(), tensor }]);
    Call { payload, arrived: Instant::now(), timeout: Some(timeout), priority: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_three_times_the_capacity_the_device_does_only_useful_work_in_full_batches() {
    let engine = timer();
    let timeout = 200 * MS;
    let mut requests = Vec::new();
    let start = Instant::now();
    // 2,000 a second where 667 can be served.
    while start.elapsed() < Duration::from_secs(1) {
        let due = usize::try_from(start.elapsed().as_millis()).unwrap() * 2;
        while requests.len() < due {
            let engine = Arc::clone(&engine);
            requests.push(tokio::spawn(async move { engine.infer(image(timeout)).await }));
        }
        tokio::time::sleep(MS).await;
    }
    let (sent, mut served, mut full, mut expired) = (requests.len(), 0, 0, 0);
    for request in requests {
        match request.await.unwrap() {
            Ok(_) => served += 1,
            Err(InferError::QueueFull { retry_after }) => {
                full += 1;
                assert!(retry_after > Duration::ZERO);
            }
            Err(InferError::Timeout) => expired += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(served + full + expired, sent, "everybody was answered");
    assert!(full > 0, "none was turned away at once, {expired} waited in vain");
    let metrics = engine.metrics();
    assert_eq!(metrics.inference_count.get(), served as u64, "nothing was executed in vain");
    // A busy machine may pause the sender, so that the device finds less than a batch for a while.
    let full_batches = metrics.batches().get(&MAX_ROWS).map_or(0, |times| times.count);
    let executions = metrics.exec_count.get();
    assert!(full_batches * 2 >= executions, "{full_batches} full batches of {executions}");
}
