//! Who gets which rows: batches that are shared, requests that are divided, padding, and memory that is lent.

use super::*;

/// Every row says whose it is and where it was.
fn rows(request: u8, count: usize, width: usize) -> Vec<u8> {
    (0..count).flat_map(|row| vec![request.wrapping_mul(37).wrapping_add(u8::try_from(row).unwrap()); width]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_gets_the_rows_they_sent() {
    for buckets in [vec![], vec![1, 2, 4, 8], vec![3, 8], vec![5]] {
        let largest = buckets.iter().copied().max().unwrap_or(8);
        let allowed = buckets.clone();
        let run = move |input: &BatchInput| {
            assert!(input.shape[0] <= largest);
            assert!(allowed.is_empty() || allowed.contains(&input.shape[0]), "{:?}", input.shape);
            std::thread::sleep(2 * MS);
            Ok(())
        };
        let engine =
            start(vec![device(run), device(|_| Ok(()))], EngineConfig { buckets: buckets.clone(), ..config() });
        let requests: Vec<_> = (0..60_u8)
            .map(|index| {
                let engine = Arc::clone(&engine);
                // Rows of two widths in turns of ten: those of one width must not share a batch with those of the other.
                let shape = [usize::from(index % 7) * usize::from(index % 3) + 1, usize::from(index / 10 % 2) + 1];
                let sent = rows(index, shape[0], shape[1]);
                tokio::spawn(async move { (sent.clone(), shape, engine.infer(call(shape, sent)).await) })
            })
            .collect();
        let mut count = 0;
        for request in requests {
            let (sent, shape, answer) = request.await.unwrap();
            let answer = answer.unwrap();
            assert_eq!((answer.outputs[0].tensor.shape.as_slice(), bytes(&answer)), (&shape[..], sent), "{buckets:?}");
            count += shape[0];
        }
        assert_eq!(engine.metrics().inference_count.get(), count as u64, "padding does not count");
        assert!(engine.is_alive());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_more_rows_than_a_batch_is_divided_and_fills_what_room_there_is() {
    let (gate, device) = Gate::new();
    let engine = start(vec![device], config());
    let first = send(&engine, vec![1], 0, 0).await;
    assert_eq!(gate.began(), [1]);
    let second = send(&engine, vec![2; 5], 0, 1).await;
    let third = send(&engine, (10..20).collect(), 0, 2).await;
    for expected in [vec![2, 2, 2, 2, 2, 10, 11, 12], (13..20).collect()] {
        gate.end();
        assert_eq!(gate.began(), expected);
    }
    gate.end();
    assert_eq!(first.await.unwrap(), Ok(vec![1]));
    assert_eq!(second.await.unwrap(), Ok(vec![2; 5]));
    assert_eq!(third.await.unwrap(), Ok((10..20).collect()));
    assert_eq!(engine.metrics().request_success.get(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_divided_request_fails_once_and_its_rest_is_not_executed() {
    let mut executions = 0;
    let run = move |input: &BatchInput| {
        executions += 1;
        assert_eq!(executions, 1, "the rest of the request reached the device: {:?}", input.shape);
        Err(DeviceError("broken".to_owned()))
    };
    let engine = start(vec![device(run)], config());
    assert_eq!(infer(&engine, &[7; 40]).await, Err(InferError::Backend("the execution failed: broken".to_owned())));
    tokio::time::sleep(20 * MS).await;
    assert!(engine.is_alive());
    assert_eq!((engine.metrics().failures(), engine.metrics().pending_images.get()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rows_than_allowed_are_refused() {
    let engine = start(vec![device(|_| Ok(()))], config());
    assert_eq!(infer(&engine, &[1; 64]).await, Ok(vec![1; 64]));
    let Err(InferError::Invalid(message)) = infer(&engine, &[1; 65]).await else { panic!("too many") };
    assert!(message.contains("must be <= 64"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_the_whole_batch_is_not_copied() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let run = {
        let seen = Arc::clone(&seen);
        move |input: &BatchInput| {
            seen.lock().unwrap().push(input.bytes().as_ptr() as usize);
            Ok(())
        }
    };
    let engine = start(vec![device(run)], EngineConfig { buckets: vec![4, 8], ..config() });
    for (rows, is_lent) in [(8, true), (4, true), (3, false), (9, false)] {
        let body = Bytes::from(rows_of(rows));
        let tensor = Tensor { data_type: DataType::Uint8, shape: vec![rows, 1], data: Data::Fixed(body.clone()) };
        let payload = Payload::Tensors(vec![NamedTensor { name: "x".to_owned(), tensor }]);
        // The device's thread may still be on its way back to its place.
        tokio::time::sleep(20 * MS).await;
        let answer = engine.infer(Call { payload, arrived: Instant::now(), timeout: None, priority: 0 }).await.unwrap();
        assert_eq!(bytes(&answer), body);
        let places = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(places.contains(&(body.as_ptr() as usize)), is_lent, "{rows} rows");
    }
}

fn rows_of(count: usize) -> Vec<u8> {
    rows(1, count, 1)
}

/// Two inputs, one of them of strings, which have no memory in one piece.
#[tokio::test(flavor = "multi_thread")]
async fn strings_are_divided_and_padded_too() {
    struct Echo(Signature);
    impl Device for Echo {
        fn signature(&self) -> &Signature {
            &self.0
        }
        fn provider(&self) -> &'static str {
            "Echo"
        }
        fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
            let output = |input: &BatchInput| Tensor {
                data_type: input.data_type,
                shape: input.shape.clone(),
                data: input.to_data(),
            };
            let outputs = inputs.iter().map(output).collect();
            Ok(Executed { outputs, input: MS, infer: MS, output: MS })
        }
    }
    let spec = |name: &str, data_type| TensorSpec { name: name.to_owned(), data_type, dims: vec![None, Some(2)] };
    let specs = vec![spec("text", DataType::Bytes), spec("number", DataType::Int64)];
    let signature = Signature { inputs: specs.clone(), outputs: specs, platform: "test" };
    let engine = start(vec![Box::new(Echo(signature))], EngineConfig { buckets: vec![4], ..config() });
    let rows = 11;
    let text: Vec<Bytes> = (0..2 * rows).map(|index| Bytes::from(format!("text {index}"))).collect();
    let number: Vec<u8> = (0..2 * rows as u64).flat_map(u64::to_le_bytes).collect();
    let tensor = |data_type, data| Tensor { data_type, shape: vec![rows, 2], data };
    let tensors = vec![
        NamedTensor { name: "number".to_owned(), tensor: tensor(DataType::Int64, Data::Fixed(number.into())) },
        NamedTensor { name: "text".to_owned(), tensor: tensor(DataType::Bytes, Data::Strings(text)) },
    ];
    let payload = Payload::Tensors(tensors.clone());
    let answer = engine.infer(Call { payload, arrived: Instant::now(), timeout: None, priority: 0 }).await.unwrap();
    assert_eq!(answer.outputs.into_iter().rev().collect::<Vec<_>>(), tensors);
    assert_eq!((answer.batch_rows, engine.metrics().inference_count.get()), (4, 11));
    assert_eq!(answer.timing.compute, 3 * MS, "the sum of its executions");
}
