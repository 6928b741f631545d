//! The decode pool: OS threads that turn image files into pixels, one image at a time.
//!
//! Decoding never runs on the threads that serve the network. The unit of work is an image and not a request, so that the
//! images of one request use all cores; requests are taken in the order of their arrival.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use bytes::Bytes;
use crossbeam_channel::Sender;
use tokio::sync::oneshot;

use super::{
    Answer, InferError, QUEUE_FULL,
    pipeline::{Content, Entry},
    vitals::{Pulse, Vitals},
    waiting::Clock,
};
use crate::{
    image::{ImageError, Pixels, Preprocessor},
    metrics::Metrics,
};

/// Runs the threads.
#[derive(Debug)]
pub(super) struct DecodePool {
    queue: Arc<Queue>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Arc<Job>>,
    is_closed: bool,
}

/// A request with images to decode.
#[derive(Debug)]
struct Job {
    clock: Arc<Clock>,
    state: Mutex<JobState>,
}

#[derive(Debug)]
struct JobState {
    /// Files nobody has begun with, by their place in the request; taken from the end.
    files: Vec<(usize, Bytes)>,
    pixels: Vec<Option<Pixels>>,
    missing: usize,
    /// Taken by whoever answers first: the first failed image, or the hand-over to the batch queue.
    reply: Option<oneshot::Sender<Result<Answer, InferError>>>,
}

/// The pool's queue is full.
#[derive(Debug)]
pub(super) struct PoolFull;

impl DecodePool {
    /// Starts `threads` threads that hand what they finish to `entries`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        threads: usize,
        capacity: usize,
        preprocessor: &Arc<Preprocessor>,
        entries: &Sender<Entry>,
        metrics: &Arc<Metrics>,
        vitals: &Arc<Vitals>,
    ) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        for index in 0..threads {
            let (queue, preprocessor, entries) = (Arc::clone(&queue), Arc::clone(preprocessor), entries.clone());
            let (metrics, vitals) = (Arc::clone(metrics), Arc::clone(vitals));
            thread::Builder::new().name(format!("decode-{index}")).spawn(move || {
                let _pulse = Pulse(&vitals);
                while let Some((job, place, file)) = queue.next() {
                    job.run(place, &file, &preprocessor, &entries, &metrics);
                }
            })?;
        }
        Ok(Self { queue, capacity })
    }

    /// Queues a request's images.
    ///
    /// # Errors
    /// When too many requests, abandoned ones among them, are queued.
    pub(super) fn submit(
        &self,
        clock: Arc<Clock>,
        files: Vec<Bytes>,
        reply: oneshot::Sender<Result<Answer, InferError>>,
    ) -> Result<(), PoolFull> {
        let count = files.len();
        let job = Job {
            clock,
            state: Mutex::new(JobState {
                files: files.into_iter().enumerate().rev().collect(),
                pixels: vec![None; count],
                missing: count,
                reply: Some(reply),
            }),
        };
        let mut jobs = lock(&self.queue.jobs);
        if jobs.waiting.len() >= self.capacity {
            return Err(PoolFull);
        }
        jobs.waiting.push_back(Arc::new(job));
        drop(jobs);
        self.queue.changed.notify_all();
        Ok(())
    }
}

impl Drop for DecodePool {
    fn drop(&mut self) {
        lock(&self.queue.jobs).is_closed = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    /// The next image; none when the pool is closed.
    fn next(&self) -> Option<(Arc<Job>, usize, Bytes)> {
        let mut jobs = lock(&self.jobs);
        loop {
            while let Some(job) = jobs.waiting.front() {
                let mut state = lock(&job.state);
                let image = if job.clock.is_waiting() && state.reply.is_some() { state.files.pop() } else { None };
                let is_done = state.files.is_empty() || image.is_none();
                drop(state);
                let job = if is_done { jobs.waiting.pop_front() } else { Some(Arc::clone(job)) };
                if let (Some(job), Some((place, file))) = (job, image) {
                    return Some((job, place, file));
                }
            }
            if jobs.is_closed {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Job {
    fn run(&self, place: usize, file: &Bytes, preprocessor: &Preprocessor, entries: &Sender<Entry>, metrics: &Metrics) {
        let (result, took) = self.clock.decode(|| {
            // A file that makes a decoder panic costs its sender an error, and nobody else anything.
            catch_unwind(AssertUnwindSafe(|| preprocessor.decode(file)))
                .unwrap_or_else(|_| Err(ImageError::Undecodable("the decoder gave up on it".to_owned())))
        });
        metrics.decode_duration.observe(took.as_secs_f64());
        let mut state = lock(&self.state);
        match result {
            Ok(pixels) => {
                state.pixels[place] = Some(pixels);
                state.missing -= 1;
                if state.missing == 0
                    && let Some(reply) = state.reply.take()
                {
                    let pixels: Vec<Pixels> = state.pixels.drain(..).flatten().collect();
                    drop(state);
                    let entry = Entry {
                        clock: Arc::clone(&self.clock),
                        reply,
                        rows: pixels.len(),
                        content: Content::Pixels(pixels),
                        ready: Instant::now(),
                    };
                    if let Err(refused) = entries.try_send(entry) {
                        drop(refused.into_inner().reply.send(Err(QUEUE_FULL)));
                    }
                }
            }
            Err(error) => {
                if let Some(reply) = state.reply.take() {
                    drop(reply.send(Err(error.into_infer_error(place))));
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs while one of these locks is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::{
        engine::waiting::{Board, Ticket},
        model::{Signature, TensorSpec},
        settings::Preset,
        tensor::DataType,
    };

    struct Bench {
        decoders: DecodePool,
        board: Arc<Board>,
        entries: Receiver<Entry>,
    }

    type Reply = oneshot::Receiver<Result<Answer, InferError>>;

    impl Bench {
        fn new(threads: usize) -> Self {
            let input = TensorSpec {
                name: "x".to_owned(),
                data_type: DataType::Fp32,
                dims: vec![None, Some(3), Some(32), Some(32)],
            };
            let signature = Signature { inputs: vec![input], outputs: vec![], platform: "test" };
            let preprocessor = Arc::new(Preprocessor::new(Preset::Clip, &signature).unwrap().unwrap());
            let (sender, entries) = bounded(8);
            let metrics = Arc::new(Metrics::new("m", "1").unwrap());
            let decoders =
                DecodePool::start(threads, 8, &preprocessor, &sender, &metrics, &Arc::new(Vitals::new(1))).unwrap();
            Self { decoders, board: Arc::new(Board::new(8)), entries }
        }

        fn submit(&self, files: Vec<Bytes>) -> (Ticket, Reply) {
            let ticket = self.board.admit(files.len(), Instant::now(), 1).unwrap();
            let (reply, answer) = oneshot::channel();
            self.decoders.submit(ticket.clock(), files, reply).unwrap();
            (ticket, answer)
        }
    }

    fn file(name: &str) -> Bytes {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
        Bytes::from(fs::read(folder.join(name)).unwrap())
    }

    fn pixels(entry: Entry) -> Vec<Pixels> {
        let Content::Pixels(pixels) = entry.content else { panic!("pixels") };
        pixels
    }

    #[test]
    fn images_keep_their_places_whichever_thread_decodes_them() {
        let pool = Bench::new(4);
        let names = ["large.png", "small.png", "wide.png", "same.png", "photo.jpg"];
        let (_ticket, _reply) = pool.submit(names.iter().map(|name| file(name)).collect());
        let together = pixels(pool.entries.recv().unwrap());
        for (name, expected) in names.iter().zip(&together) {
            let (_ticket, _reply) = pool.submit(vec![file(name)]);
            assert_eq!(&pixels(pool.entries.recv().unwrap())[0], expected, "{name}");
        }
    }

    #[test]
    fn one_bad_image_fails_its_request_and_no_other() {
        let pool = Bench::new(2);
        let (_bad, reply) = pool.submit(vec![file("wide.png"), Bytes::from_static(b"no image"), file("wide.png")]);
        let (_good, _reply) = pool.submit(vec![file("wide.png")]);
        let Err(InferError::Invalid(message)) = reply.blocking_recv().unwrap() else { panic!("invalid") };
        assert!(message.starts_with("image 1: "), "{message}");
        assert_eq!(pixels(pool.entries.recv().unwrap()).len(), 1);
        assert!(pool.entries.try_recv().is_err(), "the bad request goes no further");
    }

    #[test]
    fn an_abandoned_request_is_not_decoded() {
        let pool = Bench::new(0);
        let (abandoned, reply) = pool.submit(vec![file("wide.png")]);
        let (_kept, _reply) = pool.submit(vec![file("high.png")]);
        drop(abandoned);
        let (job, place, next) = pool.decoders.queue.next().unwrap();
        assert_eq!((place, next), (0, file("high.png")));
        assert!(job.clock.is_waiting());
        drop(reply);
    }
}
