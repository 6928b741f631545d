//! Whatever arrives, leaves, expires or fails in whatever order: everybody gets one answer, and it is their own.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Visitor {
    rows: usize,
    width: usize,
    priority: u64,
    pause: u64,
    timeout: Option<u64>,
    leaves_after: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Outcomes {
    served: usize,
    full: usize,
    failed: usize,
    left: usize,
}

fn visitor() -> impl Strategy<Value = Visitor> {
    let often_none = |range| prop_oneof![3 => Just(None), 1 => range];
    (
        1_usize..24,
        1_usize..3,
        0_u64..6,
        0_u64..4,
        often_none((1_u64..30).prop_map(Some)),
        often_none((0_u64..8).prop_map(Some)),
    )
        .prop_map(|(rows, width, priority, pause, timeout, leaves_after)| Visitor {
            rows,
            width,
            priority,
            pause,
            timeout,
            leaves_after,
        })
}

/// Fails for every batch whose first byte is divisible by 11.
fn moody() -> Box<dyn Device> {
    device(|input| {
        std::thread::sleep(MS * (u32::from(input.bytes()[0]) % 3));
        if input.bytes()[0].is_multiple_of(11) { Err(DeviceError("moody".to_owned())) } else { Ok(()) }
    })
}

async fn visit(engine: Arc<Engine>, index: usize, visitor: Visitor) -> Outcomes {
    let Visitor { rows, width, priority, timeout, leaves_after, .. } = visitor;
    let sent: Vec<u8> = (0..rows * width).map(|byte| u8::try_from((index * 29 + byte) % 251).unwrap()).collect();
    let call = Call { priority, timeout: timeout.map(Duration::from_millis), ..call([rows, width], sent.clone()) };
    let result = match leaves_after {
        None => engine.infer(call).await,
        Some(after) => tokio::select! {
            biased;
            result = engine.infer(call) => result,
            () = tokio::time::sleep(Duration::from_millis(after)) => return Outcomes { left: 1, ..Outcomes::default() },
        },
    };
    match result {
        Ok(answer) => {
            assert_eq!((answer.outputs[0].tensor.shape.as_slice(), bytes(&answer)), (&[rows, width][..], sent));
            Outcomes { served: 1, ..Outcomes::default() }
        }
        Err(InferError::QueueFull { .. }) => Outcomes { full: 1, ..Outcomes::default() },
        Err(InferError::Timeout | InferError::Backend(_)) => Outcomes { failed: 1, ..Outcomes::default() },
        Err(other) => panic!("{other}"),
    }
}

fn counted(engine: &Engine) -> Outcomes {
    let page = page(engine);
    let value = |name: &str| -> usize {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let failed = |reason: &str| value(&format!(r#"nv_inference_request_failure{{model="m",reason="{reason}""#));
    Outcomes {
        served: value("nv_inference_request_success"),
        full: value(r#"flotilla_requests_rejected_total{model="m",reason="queue_full""#),
        failed: failed("REJECTED") + failed("BACKEND") + failed("OTHER"),
        left: failed("CANCELED"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn everybody_gets_one_answer_and_it_is_their_own(
        visitors in prop::collection::vec(visitor(), 1..60),
        devices in 1_usize..4,
        max_queue_size in 2_usize..40,
        max_delay in 0_u64..3,
        buckets in prop_oneof![Just(vec![]), Just(vec![1, 2, 4, 8]), Just(vec![3, 6])],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let policy = Policy { max_rows: 8, max_delay: Duration::from_millis(max_delay) };
            let config = EngineConfig { policy, max_queue_size, buckets, ..config() };
            let engine = start((0..devices).map(|_| moody()).collect(), config);
            let mut tasks = Vec::new();
            for (index, visitor) in visitors.into_iter().enumerate() {
                tokio::time::sleep(Duration::from_millis(visitor.pause)).await;
                tasks.push(tokio::spawn(visit(Arc::clone(&engine), index, visitor)));
            }
            let mut seen = Outcomes::default();
            for task in tasks {
                let outcome = tokio::time::timeout(Duration::from_mins(1), task).await.expect("an answer").unwrap();
                seen.served += outcome.served;
                seen.full += outcome.full;
                seen.failed += outcome.failed;
                seen.left += outcome.left;
            }
            assert_eq!(counted(&engine), seen);
            let left_over = engine.shared.snapshot();
            assert_eq!((left_over.requests, left_over.rows), (0, 0));
            assert!(engine.is_alive());
        });
    }
}
