//! Priorities, fairness, and bounds of the queue.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_priority_is_served_first() {
    let (gate, device) = Gate::new();
    let policy = Policy { max_rows: 1, max_delay: Duration::ZERO };
    let engine = start(vec![device], EngineConfig { policy, ..config() });
    let mut tasks = vec![send(&engine, vec![1], 0, 0).await];
    gate.began();
    // One is in the batch that is being filled already; the others are in line.
    for (index, (byte, priority)) in [(2, 0), (3, 4), (4, 3), (5, 2), (6, 1)].into_iter().enumerate() {
        tasks.push(send(&engine, vec![byte], priority, i64::try_from(index).unwrap() + 1).await);
    }
    let mut order = Vec::new();
    for _ in 0..5 {
        gate.end();
        order.extend(gate.began());
    }
    gate.end();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(order, [2, 6, 5, 4, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_request_lets_single_images_pass() {
    let (gate, device) = Gate::new();
    let engine = start(vec![device], config());
    let running = send(&engine, vec![1], 0, 0).await;
    gate.began();
    let huge = send(&engine, vec![2; 60], 0, 1).await;
    let single = send(&engine, vec![3], 0, 2).await;
    gate.end();
    // The batch that filled while the first one ran is the huge request's; the next one is shared.
    assert_eq!(gate.began(), [2; 8]);
    gate.end();
    assert!(gate.began().contains(&3));
    gate.end();
    assert_eq!(single.await.unwrap(), Ok(vec![3]), "long before the huge one is done");
    assert!(!huge.is_finished());
    drop(gate);
    assert_eq!(huge.await.unwrap(), Ok(vec![2; 60]));
    assert_eq!(running.await.unwrap(), Ok(vec![1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded_in_requests_and_in_rows() {
    let (gate, device) = Gate::new();
    let engine = start(vec![device], EngineConfig { max_queue_size: 4, ..config() });
    let mut tasks = vec![send(&engine, vec![1], 0, 0).await];
    gate.began();
    for waiting in 1..=2 {
        tasks.push(send(&engine, vec![2; 8], 0, waiting).await);
    }
    let full = |result| matches!(result, Err(InferError::QueueFull { .. }));
    assert!(full(infer(&engine, &[3]).await), "16 rows are four for each of four requests");
    tasks[2].abort();
    pending(&engine, 1).await;
    for waiting in 2..=4 {
        tasks.push(send(&engine, vec![4], 0, waiting).await);
    }
    assert!(full(infer(&engine, &[3]).await), "four requests");
    let page = page(&engine);
    assert!(page.contains(r#"flotilla_requests_rejected_total{model="m",reason="queue_full",version="1"} 2"#));
    drop(gate);
    for (index, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.is_ok(), index != 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_can_not_be_served_in_time_is_turned_away_at_once() {
    let (gate, device) = Gate::new();
    let policy = Policy { max_rows: 1, max_delay: Duration::ZERO };
    let engine = start(vec![device], EngineConfig { policy, ..config() });
    for byte in 0..2 {
        let measured = send(&engine, vec![byte], 0, 0).await;
        gate.began();
        tokio::time::sleep(50 * MS).await;
        gate.end();
        measured.await.unwrap().unwrap();
    }
    let mut tasks = vec![send(&engine, vec![1], 0, 0).await];
    gate.began();
    for waiting in 1..=4 {
        tasks.push(send(&engine, vec![2], 4, waiting).await);
    }
    let hurried = |priority| Call { timeout: Some(60 * MS), priority, ..call([1, 1], vec![3]) };
    let start = Instant::now();
    let Err(InferError::QueueFull { retry_after }) = engine.infer(hurried(4)).await else { panic!("not turned away") };
    assert!(start.elapsed() < 60 * MS, "before its time was over");
    assert!(retry_after >= 100 * MS, "{retry_after:?} for what takes four executions");
    drop(gate);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}
