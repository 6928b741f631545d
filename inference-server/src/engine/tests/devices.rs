//! Devices that fail, panic or hang, and several of them.

use std::sync::Barrier;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_batch_fails_its_members_and_no_others() {
    let run = |input: &BatchInput| {
        if input.shape[0] == 2 { Err(DeviceError("out of memory".to_owned())) } else { Ok(()) }
    };
    let engine = start(vec![device(run)], config());
    let failed = InferError::Backend("the execution failed: out of memory".to_owned());
    assert_eq!(infer(&engine, &[1, 1]).await, Err(failed));
    assert_eq!(infer(&engine, &[2]).await, Ok(vec![2]));
    assert!(engine.is_alive());
    let page = page(&engine);
    assert!(page.contains(r#"nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_panics_ends_the_engine_and_not_the_process() {
    let engine = start(vec![device(|_| panic!("the driver is gone"))], config());
    assert_eq!(infer(&engine, &[1]).await, Err(InferError::Backend("the device panicked".to_owned())));
    assert!(!engine.is_alive());
    assert_eq!(infer(&engine, &[2]).await, Err(InferError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_device_goes_on_when_one_panics() {
    let run = |input: &BatchInput| {
        assert_ne!(input.bytes()[0], 66, "on purpose");
        Ok(())
    };
    let engine = start(vec![device(run), device(run)], config());
    assert!(matches!(infer(&engine, &[66]).await, Err(InferError::Backend(_))));
    assert!(!engine.is_alive(), "whoever watches may end the process");
    for byte in 0..20 {
        assert_eq!(infer(&engine, &[byte]).await, Ok(vec![byte]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_device_that_panics_is_told() {
    let (gate, gated) = Gate::new();
    let mut gated = gated;
    let device = device(move |input| {
        drop(gated.run(std::slice::from_ref(input)));
        panic!("on purpose")
    });
    let engine = start(vec![device], config());
    let running = send(&engine, vec![1], 0, 0).await;
    gate.began();
    let waiting = send(&engine, vec![2], 0, 1).await;
    gate.end();
    assert!(matches!(running.await.unwrap(), Err(InferError::Backend(_))));
    assert_eq!(waiting.await.unwrap(), Err(InferError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_hangs_is_given_up_and_the_engine_not_live() {
    let (gate, device) = Gate::new();
    let metrics = Arc::new(Metrics::new("m", "1").unwrap());
    let engine = Engine::start_within(vec![device], config(), metrics, 100 * MS).unwrap();
    let result = infer(&engine, &[1]).await;
    assert_eq!(result, Err(InferError::Backend("the execution takes too long".to_owned())));
    assert!(!engine.is_alive());
    gate.end();
    // The device came back after all.
    assert_eq!(gate.began(), [1]);
    let second = tokio::spawn(async move { infer(&engine, &[2]).await });
    assert_eq!(gate.began(), [2]);
    gate.end();
    assert_eq!(second.await.unwrap(), Ok(vec![2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_devices_run_at_the_same_time_and_the_next_batch_fills_meanwhile() {
    let both = Arc::new(Barrier::new(2));
    let devices = (0..2).map(|_| {
        let both = Arc::clone(&both);
        device(move |_| {
            // Nobody gets past here alone.
            both.wait();
            Ok(())
        })
    });
    let engine = start(devices.collect(), config());
    let requests: Vec<_> = (0..16_u8)
        .map(|byte| {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move { infer(&engine, &[byte; 8]).await })
        })
        .collect();
    for (byte, request) in (0..).zip(requests) {
        assert_eq!(request.await.unwrap(), Ok(vec![byte; 8]));
    }
    assert_eq!(engine.metrics().exec_count.get(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_engine_begins_nothing() {
    let engine = start(vec![device(|_| Ok(()))], config());
    assert_eq!(engine.begin(), Ok(()));
    engine.drain();
    assert_eq!(engine.begin(), Err(InferError::Draining));
    assert_eq!(infer(&engine, &[3]).await, Ok(vec![3]), "what has begun is finished");
}
