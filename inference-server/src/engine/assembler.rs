//! The thread that fills batches: it copies requests into the open batch as they come, while the device runs the one before.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, never, select};

use super::{
    batch::{Next, Open, Policy},
    pipeline::{Batch, Entry},
    vitals::{Pulse, Vitals},
};
use crate::{image::Preprocessor, model::Signature};

/// Longer than any wait that matters: a wake-up once an hour costs nothing and needs no second code path.
const FOREVER: Duration = Duration::from_hours(1);

/// Fills batches.
pub(super) struct Assembler {
    /// The limits.
    pub(super) policy: Policy,
    /// What the model takes.
    pub(super) signature: Arc<Signature>,
    /// How pixels become the model's input.
    pub(super) preprocessor: Option<Arc<Preprocessor>>,
    /// Requests that are ready to run.
    pub(super) entries: Receiver<Entry>,
    /// Batches that a device has run; each one says that a device is idle.
    pub(super) finished: Receiver<Batch>,
    /// Batches for the devices, each of which takes one at a time.
    pub(super) batches: Sender<Batch>,
    /// How many devices there are.
    pub(super) devices: usize,
    /// What liveness is told.
    pub(super) vitals: Arc<Vitals>,
}

impl Assembler {
    /// Starts the thread. It ends when the requests' or the device's side is gone.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(self) -> std::io::Result<()> {
        thread::Builder::new().name("assembler".to_owned()).spawn(move || self.run()).map(drop)
    }

    fn run(self) {
        let _pulse = Pulse(&self.vitals);
        let closed = never();
        let mut open = Batch::new(&self.signature, self.policy.max_rows);
        // The second of the two memories: while one runs, the other fills.
        let mut spare = Some(Batch::new(&self.signature, self.policy.max_rows));
        let mut next_up: Option<Entry> = None;
        let mut idle = self.devices;
        loop {
            match self.fill(&mut open, &mut next_up) {
                Ok(()) => {}
                // The engine is gone, and with it every caller.
                Err(Gone) => return,
            }
            let now = Instant::now();
            let state = Open { rows: open.rows, age: open.age(now), is_closed: next_up.is_some() };
            let timeout = match self.policy.next(state, idle > 0) {
                Next::Run => {
                    open.drop_abandoned();
                    if open.rows == 0 {
                        open.clear();
                        continue;
                    }
                    open.seal(self.signature.is_batched());
                    let next = spare.take().unwrap_or_else(|| Batch::new(&self.signature, self.policy.max_rows));
                    if self.batches.send(std::mem::replace(&mut open, next)).is_err() {
                        return;
                    }
                    idle -= 1;
                    continue;
                }
                Next::Wait => FOREVER,
                Next::WaitAtMost(timeout) => {
                    open.held_since.get_or_insert(now);
                    timeout
                }
            };
            let is_full = next_up.is_some() || open.rows >= self.policy.max_rows;
            select! {
                recv(if is_full { &closed } else { &self.entries }) -> entry => match entry {
                    Ok(entry) => next_up = Some(entry),
                    Err(_) => return,
                },
                recv(self.finished) -> batch => match batch {
                    Ok(mut batch) => {
                        batch.clear();
                        spare = Some(batch);
                        idle += 1;
                    }
                    Err(_) => return,
                },
                default(timeout) => {}
            }
        }
    }

    /// Copies in whatever waits and fits. What does not fit stays in `next_up` and is first in the next batch.
    fn fill(&self, open: &mut Batch, next_up: &mut Option<Entry>) -> Result<(), Gone> {
        loop {
            let entry = match next_up.take() {
                Some(entry) => entry,
                None if open.rows >= self.policy.max_rows => return Ok(()),
                None => match self.entries.try_recv() {
                    Ok(entry) => entry,
                    Err(TryRecvError::Empty) => return Ok(()),
                    Err(TryRecvError::Disconnected) => return Err(Gone),
                },
            };
            if !entry.clock.is_waiting() {
                continue;
            }
            if !self.policy.fits(open.rows, entry.rows) || !open.accepts(&entry) {
                *next_up = Some(entry);
                return Ok(());
            }
            open.push(entry, &self.signature, self.preprocessor.as_deref());
        }
    }
}

struct Gone;
