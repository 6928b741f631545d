//! One admitted request, shared by its caller and the pipeline: what it brings, its clock, and its answer as it comes together.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::InferError;
use crate::tensor::Tensor;

/// A request between its admission and its answer.
#[derive(Debug)]
pub(super) struct Ticket {
    /// Later requests have higher numbers.
    pub(super) id: u64,
    /// When its last byte was read.
    pub(super) arrived: Instant,
    /// When it is given up, unless all of it is executing by then.
    pub(super) deadline: Instant,
    /// Its priority less one.
    pub(super) level: u32,
    /// Its rows.
    pub(super) rows: usize,
    /// What it brings.
    pub(super) content: Content,
    decoding: Mutex<Decoding>,
    reply: Mutex<Reply>,
}

/// A request's inputs.
#[derive(Debug)]
pub(super) enum Content {
    /// One tensor for each input.
    Tensors(Vec<Tensor>),
    /// Files for the one image input.
    Images(Vec<Bytes>),
    /// Images that the device does not look at.
    Blank,
}

/// The rows of one request in one execution, and where they are in its outputs.
#[derive(Debug, Clone)]
pub(super) struct Share {
    /// The first of the request's rows.
    pub(super) first: usize,
    /// How many.
    pub(super) rows: usize,
    /// The row of the outputs where they begin.
    pub(super) at: usize,
    /// The outputs of the whole execution.
    pub(super) outputs: Arc<Vec<Tensor>>,
    /// How long the rows waited for the device after they were able to run.
    pub(super) queue: Duration,
    /// The phases of the execution: input, inference, output.
    pub(super) phases: [Duration; 3],
    /// The rows of the execution.
    pub(super) batch_rows: usize,
    /// When the execution began.
    pub(super) started: Instant,
}

#[derive(Debug)]
enum Reply {
    Open {
        shares: Vec<Share>,
        missing: usize,
        waker: Option<Waker>,
    },
    Done(Result<Vec<Share>, InferError>),
    /// The caller has it, or is gone.
    Closed,
}

#[derive(Debug, Default)]
struct Decoding {
    done: Duration,
    running: Vec<Instant>,
    /// How many of the request's images can decode at the same time.
    parallel: u32,
}

impl Ticket {
    /// A request that nobody has begun with. `decoders` is the number of threads that decode.
    pub(super) fn new(
        id: u64,
        [arrived, deadline]: [Instant; 2],
        level: u32,
        (content, rows): (Content, usize),
        decoders: usize,
    ) -> Self {
        let parallel = u32::try_from(rows.min(decoders).max(1)).unwrap_or(u32::MAX);
        let decoding = Mutex::new(Decoding { parallel, ..Decoding::default() });
        let reply = Mutex::new(Reply::Open { shares: Vec::new(), missing: rows, waker: None });
        Self { id, arrived, deadline, level, rows, content, decoding, reply }
    }

    /// What the board sorts by: who must be given up first is first.
    pub(super) fn key(&self) -> (Instant, u64) {
        (self.deadline, self.id)
    }

    /// Adds the outputs of some rows. False when nobody waits for them any more.
    pub(super) fn deliver(&self, share: Share) -> bool {
        let mut reply = self.reply();
        let Reply::Open { shares, missing, waker } = &mut *reply else { return false };
        *missing = missing.saturating_sub(share.rows);
        shares.push(share);
        if *missing == 0 {
            let waker = waker.take();
            let shares = std::mem::take(shares);
            *reply = Reply::Done(Ok(shares));
            drop(reply);
            wake(waker);
        }
        true
    }

    /// Ends the request with an error, unless it has its answer. False when it had.
    pub(super) fn fail(&self, error: InferError) -> bool {
        let mut reply = self.reply();
        let Reply::Open { waker, .. } = &mut *reply else { return false };
        let waker = waker.take();
        *reply = Reply::Done(Err(error));
        drop(reply);
        wake(waker);
        true
    }

    /// What the caller polls.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Result<Vec<Share>, InferError>> {
        let mut reply = self.reply();
        if let Reply::Open { waker, .. } = &mut *reply {
            match waker {
                Some(known) => known.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        match std::mem::replace(&mut *reply, Reply::Closed) {
            Reply::Done(result) => Poll::Ready(result),
            // Polled again after it was ready; there is nothing to come.
            Reply::Open { .. } | Reply::Closed => Poll::Pending,
        }
    }

    /// The caller is gone.
    pub(super) fn close(&self) {
        *self.reply() = Reply::Closed;
    }

    /// Does one image's decoding with the clock stopped for it, and says how long it took.
    pub(super) fn decode<T>(&self, work: impl FnOnce() -> T) -> (T, Duration) {
        let start = Instant::now();
        self.decoding().running.push(start);
        let result = work();
        let took = start.elapsed();
        let mut decoding = self.decoding();
        if let Some(place) = decoding.running.iter().position(|other| *other == start) {
            decoding.running.swap_remove(place);
        }
        decoding.done += took;
        (result, took)
    }

    /// The queue signal so far: the time since the last byte, less the request's own decoding (which no second replica would
    /// shorten); a wait for a core to decode on (which one would) stays in it.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.arrived);
        if !matches!(self.content, Content::Images(_)) {
            return since;
        }
        let decoding = self.decoding();
        let running: Duration = decoding.running.iter().map(|start| now.saturating_duration_since(*start)).sum();
        // Images of one request that decode at the same time are one stretch of its time, so their sum is divided.
        since.saturating_sub((decoding.done + running) / decoding.parallel)
    }

    /// How long its images took to decode so far, those of the same time counted once.
    pub(super) fn decoded(&self) -> Duration {
        let decoding = self.decoding();
        decoding.done / decoding.parallel
    }

    fn reply(&self) -> MutexGuard<'_, Reply> {
        // Nothing that can panic runs while one of these locks is held.
        self.reply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decoding(&self) -> MutexGuard<'_, Decoding> {
        self.decoding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ticket(content: Content, rows: usize, decoders: usize) -> Ticket {
        let now = Instant::now();
        Ticket::new(0, [now, now + 1000 * MS], 0, (content, rows), decoders)
    }

    fn share(first: usize, rows: usize) -> Share {
        let outputs = Arc::new(Vec::new());
        Share { first, rows, at: 0, outputs, queue: MS, phases: [MS; 3], batch_rows: rows, started: Instant::now() }
    }

    #[test]
    fn an_answer_is_whole_or_none() {
        let ticket = ticket(Content::Blank, 5, 1);
        let mut context = Context::from_waker(Waker::noop());
        assert!(ticket.poll(&mut context).is_pending());
        assert!(ticket.deliver(share(3, 2)));
        assert!(ticket.poll(&mut context).is_pending());
        assert!(ticket.deliver(share(0, 3)));
        assert!(!ticket.fail(InferError::Timeout), "it has its answer");
        let Poll::Ready(Ok(shares)) = ticket.poll(&mut context) else { panic!("an answer") };
        assert_eq!(shares.iter().map(|share| share.first).collect::<Vec<_>>(), [3, 0]);
        assert!(ticket.poll(&mut context).is_pending(), "and only one");
    }

    #[test]
    fn whoever_fails_or_leaves_gets_nothing_more() {
        let failed = ticket(Content::Blank, 2, 1);
        assert!(failed.deliver(share(0, 1)));
        assert!(failed.fail(InferError::Timeout));
        assert!(!failed.deliver(share(1, 1)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(failed.poll(&mut context), Poll::Ready(Err(InferError::Timeout))));
        let left = ticket(Content::Blank, 1, 1);
        left.close();
        assert!(!left.deliver(share(0, 1)));
    }

    #[test]
    fn own_decoding_is_not_waiting() {
        let ticket = ticket(Content::Images(vec![Bytes::new()]), 1, 4);
        let (value, took) = ticket.decode(|| {
            std::thread::sleep(20 * MS);
            let so_far = ticket.waited(Instant::now());
            assert!(so_far + 15 * MS < ticket.arrived.elapsed(), "work that runs counts as decoding too");
            7
        });
        assert_eq!(value, 7);
        let now = Instant::now();
        assert_eq!(ticket.waited(now), (now - ticket.arrived).saturating_sub(took));
        assert_eq!(ticket.decoded(), took);
    }
}
