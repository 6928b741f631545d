//! Images: decoded by whoever is free, in their places, and only for those who wait; and what a queue for decoding shows.

use std::{fs, path::PathBuf};

use super::*;
use crate::settings::Preset;

/// A model of images of 32 x 32 that gives them back, and its engine.
fn images(threads: usize, max_rows: usize, run: impl FnMut(usize) + Send + 'static) -> Arc<Engine> {
    struct Echo<F>(Signature, F);
    impl<F: FnMut(usize) + Send> Device for Echo<F> {
        fn signature(&self) -> &Signature {
            &self.0
        }
        fn provider(&self) -> &'static str {
            "Echo"
        }
        fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
            (self.1)(inputs[0].shape[0]);
            let output =
                Tensor { data_type: DataType::Fp32, shape: inputs[0].shape.clone(), data: inputs[0].to_data() };
            Ok(Executed { outputs: vec![output], input: Duration::ZERO, infer: Duration::ZERO, output: Duration::ZERO })
        }
    }
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        data_type: DataType::Fp32,
        dims: vec![None, Some(3), Some(32), Some(32)],
    };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], platform: "test" };
    let preprocessor = Preprocessor::new(Preset::Clip, &signature).unwrap().unwrap();
    let config = EngineConfig {
        policy: Policy { max_rows, max_delay: Duration::ZERO },
        images: Images::Decoded(Arc::new(preprocessor)),
        decode_threads: threads,
        ..config()
    };
    start(vec![Box::new(Echo(signature, run))], config)
}

fn file(name: &str) -> Bytes {
    let folder = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/fixtures/images");
    Bytes::from(fs::read(folder.join(name)).unwrap())
}

fn call_with(files: Vec<Bytes>) -> Call {
    let tensor = Tensor { data_type: DataType::Bytes, shape: vec![files.len()], data: Data::Strings(files) };
    let payload = Payload::Tensors(vec![NamedTensor { name: "x".to_owned(), tensor }]);
    Call { payload, arrived: Instant::now(), timeout: None, priority: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_keep_their_places_whoever_decodes_them_and_wherever_they_run() {
    let engine = images(4, 2, |_| ());
    let names = ["large.png", "small.png", "wide.png", "same.png", "photo.jpg"];
    let together = engine.infer(call_with(names.iter().map(|name| file(name)).collect())).await.unwrap();
    let together = &together.outputs[0].tensor;
    assert_eq!(together.shape, [5, 3, 32, 32]);
    for (place, name) in names.iter().enumerate() {
        let alone = engine.infer(call_with(vec![file(name)])).await.unwrap();
        assert_eq!(together.rows(place, 1), alone.outputs[0].tensor, "{name}");
        assert!(alone.timing.decode > Duration::ZERO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_image_fails_its_request_and_no_other() {
    let engine = images(2, 8, |_| ());
    let bad = vec![file("wide.png"), Bytes::from_static(b"no image"), file("wide.png")];
    let (bad, good) = tokio::join!(engine.infer(call_with(bad)), engine.infer(call_with(vec![file("wide.png")])));
    let Err(InferError::Invalid(message)) = bad else { panic!("invalid") };
    assert!(message.starts_with("image 1: "), "{message}");
    assert!(good.is_ok());
    assert_eq!(engine.metrics().pending_images.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decoded_for_whoever_is_gone_nor_long_before_it_can_run() {
    let (end, may_end) = channel::<()>();
    let engine = images(1, 1, move |_| may_end.recv().unwrap_or_default());
    let mut tasks = Vec::new();
    for waiting in 0..6 {
        let engine = Arc::clone(&engine);
        tasks.push(tokio::spawn({
            let engine = Arc::clone(&engine);
            async move { engine.infer(call_with(vec![file("wide.png")])).await.map(drop) }
        }));
        pending(&engine, waiting).await;
    }
    let decoded = || engine.metrics().decode_duration.get_sample_count();
    while decoded() < 3 {
        tokio::time::sleep(MS).await;
    }
    for gone in &tasks[3..] {
        gone.abort();
    }
    pending(&engine, 2).await;
    assert_eq!(decoded(), 3, "one runs, one is in the next batch, one is ahead");
    drop(end);
    for task in tasks.drain(..3) {
        task.await.unwrap().unwrap();
    }
    assert_eq!(decoded(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overload_of_decoding_alone_shows_in_the_queue_signal() {
    let engine = images(1, 8, |_| ());
    let requests: Vec<_> = (0..60)
        .map(|_| {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move { engine.infer(call_with(vec![file("large.png")])).await.unwrap().timing })
        })
        .collect();
    let (mut oldest, mut most) = (0.0_f64, 0);
    while engine.metrics().request_success.get() < 60 {
        let metrics = engine.metrics();
        oldest = oldest.max(metrics.queue_oldest.get());
        most = most.max(metrics.pending_images.get());
        tokio::time::sleep(MS).await;
    }
    let metrics = engine.metrics();
    let (queued, decoding) = (metrics.queue_duration.get_sample_sum(), metrics.decode_duration.get_sample_sum());
    assert_eq!(metrics.queue_duration.get_sample_count(), 60);
    // Each waits for those before it: thirty times the work on average.
    assert!(queued > 10.0 * decoding, "{queued} s in the queue for {decoding} s of work");
    assert!(oldest > 5.0 * decoding / 60.0 && most > 10, "{oldest} s, {most} images");
    assert_eq!((metrics.queue_oldest.get(), metrics.pending_images.get()), (0.0, 0));
    for request in requests {
        let timing = request.await.unwrap();
        assert!(timing.queue.as_secs_f64() < queued / 60.0, "the device itself kept nobody waiting");
    }
}
