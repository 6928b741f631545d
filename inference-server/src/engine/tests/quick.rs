//! A device that is quicker than a change of threads runs on its caller's thread, and nothing else about it changes.

use std::thread::{ThreadId, current};

use super::*;

/// A device that says which thread ran it, after `run` had its say.
fn seen(mut run: impl FnMut(u8) + Send + 'static) -> (Receiver<ThreadId>, Box<dyn Device>) {
    let (sender, receiver) = channel();
    let device = device(move |input| {
        run(input.bytes()[0]);
        let _ = sender.send(current().id());
        Ok(())
    });
    (receiver, device)
}

/// Sends until a batch has run here. Beside other programs even a quick execution may take long, so one is not enough.
async fn until_lent(engine: &Engine, threads: &Receiver<ThreadId>) {
    for _ in 0..10_000 {
        assert_eq!(infer(engine, &[1]).await, Ok(vec![1]));
        if threads.recv().unwrap() == current().id() {
            return;
        }
    }
    panic!("it never ran here");
}

#[tokio::test]
async fn a_caller_runs_what_takes_no_time() {
    let (threads, device) = seen(|_| {});
    let engine = start(vec![device], config());
    assert_eq!(infer(&engine, &[1]).await, Ok(vec![1]));
    assert_ne!(threads.recv().unwrap(), current().id(), "how long it takes is not known yet");
    until_lent(&engine, &threads).await;
    let page = page(&engine);
    assert!(page.contains(r#"nv_inference_pending_request_count{model="m",version="1"} 0"#), "{page}");
    let Metrics { exec_count, .. } = engine.metrics();
    assert!(exec_count.get() >= 2, "it counts as any other");
}

#[tokio::test]
async fn what_takes_longer_has_its_own_thread() {
    for (name, nap, delay, devices) in [
        ("a slow one", MS, Duration::ZERO, 1),
        ("a batch that waits for others", Duration::ZERO, MS, 1),
        ("several", Duration::ZERO, Duration::ZERO, 2),
    ] {
        let (threads, devices): (Vec<_>, Vec<_>) = (0..devices)
            .map(|_| {
                seen(move |_| {
                    if nap > Duration::ZERO {
                        thread::sleep(nap);
                    }
                })
            })
            .unzip();
        let policy = Policy { max_rows: 8, max_delay: delay };
        let engine = start(devices, EngineConfig { policy, ..config() });
        for byte in 0..20 {
            assert_eq!(infer(&engine, &[byte]).await, Ok(vec![byte]), "{name}");
        }
        let ran: Vec<_> = threads.iter().flat_map(Receiver::try_iter).collect();
        assert_eq!((ran.len(), ran.contains(&current().id())), (20, false), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_wait_for_a_caller_as_for_the_device() {
    let (begin, began) = channel();
    let (may_end, end) = channel();
    let (threads, device) = seen(move |byte| {
        if byte == 66 {
            let _ = begin.send(());
            let _ = end.recv();
        }
    });
    let engine = start(vec![device], config());
    for round in 0..20 {
        until_lent(&engine, &threads).await;
        let blocked = {
            let engine = Arc::clone(&engine);
            // A thread of its own, for one of the runtime's can't wait here.
            thread::spawn(move || futures::executor::block_on(infer(&engine, &[66])))
        };
        began.recv().unwrap();
        let waiting = send(&engine, vec![round], 0, 1).await;
        assert!(engine.is_alive());
        may_end.send(()).unwrap();
        assert_eq!(blocked.join().unwrap(), Ok(vec![66]));
        assert_eq!(waiting.await.unwrap(), Ok(vec![round]));
        threads.try_iter().for_each(drop);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_the_engine_wherever_it_runs() {
    let (threads, device) = seen(|byte| assert_ne!(byte, 66, "on purpose"));
    let engine = start(vec![device], config());
    until_lent(&engine, &threads).await;
    assert_eq!(infer(&engine, &[66]).await, Err(InferError::Backend("the device panicked".to_owned())));
    assert!(!engine.is_alive());
    assert_eq!(infer(&engine, &[1]).await, Err(InferError::Stopped));
}
