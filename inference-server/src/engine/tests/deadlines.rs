//! Who waits too long or goes away: told in time, and no cost to anybody.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_comes_on_time_while_the_device_is_busy() {
    let (gate, device) = Gate::new();
    let engine = start(vec![device], config());
    let running = send(&engine, vec![1], 0, 0).await;
    gate.began();
    let patient = send(&engine, vec![2], 0, 1).await;
    let start = Instant::now();
    let hurried = Call { timeout: Some(50 * MS), ..call([1, 1], vec![3]) };
    assert_eq!(engine.infer(hurried).await, Err(InferError::Timeout));
    assert!(start.elapsed() >= 50 * MS);
    assert!(gate.is_quiet(), "the device was busy all the time");
    gate.end();
    assert_eq!(gate.began(), [2], "nobody waits for 3");
    gate.end();
    assert_eq!((running.await.unwrap(), patient.await.unwrap()), (Ok(vec![1]), Ok(vec![2])));
    let page = page(&engine);
    assert!(page.contains(r#"flotilla_requests_rejected_total{model="m",reason="timeout",version="1"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_holds_until_the_last_row_has_started() {
    let (gate, device) = Gate::new();
    let engine = start(vec![device], config());
    let divided = Call { timeout: Some(50 * MS), ..call([20, 1], vec![1; 20]) };
    assert_eq!(engine.infer(divided).await, Err(InferError::Timeout));
    gate.began();
    gate.end();
    let next = send(&engine, vec![2], 0, 0).await;
    assert_eq!(gate.began(), [2]);
    gate.end();
    assert_eq!(next.await.unwrap(), Ok(vec![2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_has_passed_is_not_admitted() {
    let engine = start(vec![device(|_| panic!("nothing is to be executed"))], config());
    let late = Call { timeout: Some(MS), ..call([1, 1], vec![1]) };
    tokio::time::sleep(5 * MS).await;
    assert_eq!(engine.infer(late).await, Err(InferError::Timeout));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_is_not_executed_and_makes_room_at_once() {
    let (gate, device) = Gate::new();
    let engine = start(vec![device], EngineConfig { max_queue_size: 2, ..config() });
    let running = send(&engine, vec![1], 0, 0).await;
    gate.began();
    let leaver = send(&engine, vec![2, 2, 2], 0, 1).await;
    let stayer = send(&engine, vec![3], 0, 2).await;
    assert!(matches!(infer(&engine, &[4]).await, Err(InferError::QueueFull { .. })));
    leaver.abort();
    pending(&engine, 1).await;
    assert_eq!(engine.metrics().pending_images.get(), 1);
    let newcomer = send(&engine, vec![5], 0, 2).await;
    gate.end();
    assert_eq!(gate.began(), [3, 5], "the gap that 2 left is closed");
    gate.end();
    assert_eq!(running.await.unwrap(), Ok(vec![1]));
    assert_eq!((stayer.await.unwrap(), newcomer.await.unwrap()), (Ok(vec![3]), Ok(vec![5])));
    let page = page(&engine);
    assert!(page.contains(r#"nv_inference_request_failure{model="m",reason="CANCELED",version="1"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_leavers_does_not_run() {
    let (gate, device) = Gate::new();
    let engine = start(vec![device], config());
    let running = send(&engine, vec![1], 0, 0).await;
    gate.began();
    let leaver = send(&engine, vec![2], 0, 1).await;
    leaver.abort();
    pending(&engine, 0).await;
    gate.end();
    assert_eq!(running.await.unwrap(), Ok(vec![1]));
    let next = send(&engine, vec![3], 0, 0).await;
    assert_eq!(gate.began(), [3]);
    gate.end();
    assert_eq!(next.await.unwrap(), Ok(vec![3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batching_delay_waits_for_company_and_is_no_queue_time() {
    let delay = 40 * MS;
    let policy = Policy { max_rows: 2, max_delay: delay };
    let engine = start(vec![device(|_| Ok(()))], EngineConfig { policy, ..config() });
    let start = Instant::now();
    let (first, second) = tokio::join!(infer(&engine, &[1]), infer(&engine, &[2]));
    assert_eq!((first, second), (Ok(vec![1]), Ok(vec![2])));
    assert_eq!(engine.metrics().exec_count.get(), 1, "a full batch does not wait");
    assert_eq!(infer(&engine, &[3]).await, Ok(vec![3]));
    assert!(start.elapsed() >= delay, "one alone does");
    let queued = engine.metrics().queue_duration.get_sample_sum();
    assert!(queued < 3.0 * start.elapsed().saturating_sub(delay).as_secs_f64(), "{queued} s of queue");
}
