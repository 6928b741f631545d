//! A device and its thread: one batch after another is run, and its members are answered.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use super::{
    InferError,
    shared::{Pulse, Shared},
    state::{Member, Start},
    ticket::Share,
};
use crate::{
    device::{Device, Executed},
    metrics::{BatchTimes, Metrics},
};

/// One device, and what an execution needs beside it. Its own thread runs its batches, and a caller one that is quick.
pub(super) struct Worker {
    /// Its device's place among the devices.
    pub(super) instance: usize,
    /// What executes them.
    pub(super) device: Mutex<Box<dyn Device>>,
    /// What waits.
    pub(super) shared: Arc<Shared>,
    /// What is counted.
    pub(super) metrics: Arc<Metrics>,
}

/// Tells those who wait when the thread is gone, however it ended.
struct Post<'a>(&'a Shared);

impl Drop for Post<'_> {
    fn drop(&mut self) {
        self.0.lose_device();
    }
}

impl Worker {
    /// Starts the thread. It ends with the engine, or when the device panics.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(self: Arc<Self>) -> std::io::Result<()> {
        thread::Builder::new().name(format!("device-{}", self.instance)).spawn(move || self.run()).map(drop)
    }

    fn run(&self) {
        let _post = Post(&self.shared);
        let _pulse = Pulse(&self.shared);
        while let Some(start) = self.shared.next_batch(self.instance) {
            if self.execute(start).is_break() {
                return;
            }
        }
    }

    /// Runs a batch that a caller was lent.
    pub(super) fn execute_lent(&self, start: Start) {
        if self.execute(start).is_break() {
            // The device's thread sleeps, and will never be called again.
            self.shared.lose_device();
        }
    }

    /// Runs a batch and answers its members. It breaks with a device that is not to be used again.
    fn execute(&self, Start { batch, waits }: Start) -> ControlFlow<()> {
        let Self { instance, device, shared, metrics } = self;
        for wait in waits {
            metrics.queue_duration.observe(wait.as_secs_f64());
        }
        let rows = batch.rows;
        let executed_rows = batch.inputs.first().and_then(|input| input.shape.first()).copied();
        // Nobody else waits for it: a batch is handed out for an idle device only.
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| device.run(&batch.inputs)));
        drop(device);
        let took = matches!(result, Ok(Ok(_))).then(|| (rows, start.elapsed()));
        let members = shared.end(*instance, batch.into_memory(), took);
        match result {
            Ok(Ok(executed)) => {
                let times =
                    BatchTimes { count: 1, input: executed.input, infer: executed.infer, output: executed.output };
                metrics.executed(rows, times);
                match misfit(&executed, executed_rows.filter(|_| shared.layout.is_batched)) {
                    None => deliver(members, executed, rows, start),
                    Some(message) => refuse(shared, members, &message),
                }
            }
            Ok(Err(error)) => refuse(shared, members, &format!("the execution failed: {error}")),
            Err(_) => {
                // What a panic leaves behind in the device is unknown, so the server stops being live.
                shared.die();
                tracing::error!("the device panicked; the server is not live any more");
                refuse(shared, members, "the device panicked");
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// What is wrong with the outputs of a batch of `rows`.
fn misfit(executed: &Executed, rows: Option<usize>) -> Option<String> {
    let rows = rows?;
    let bad = executed.outputs.iter().find(|output| output.shape.first() != Some(&rows))?;
    Some(format!("an output has the shape {:?} where {rows} rows went in", bad.shape))
}

fn deliver(members: Vec<Member>, executed: Executed, batch_rows: usize, started: Instant) {
    let phases = [executed.input, executed.infer, executed.output];
    let outputs = Arc::new(executed.outputs);
    for Member { ticket, first, rows, at, queue } in members {
        let outputs = Arc::clone(&outputs);
        // Whoever went away meanwhile was counted then.
        ticket.deliver(Share { first, rows, at, outputs, queue, phases, batch_rows, started });
    }
}

fn refuse(shared: &Shared, members: Vec<Member>, message: &str) {
    tracing::error!(requests = members.len(), message, "a batch failed");
    for Member { ticket, .. } in members {
        shared.fail(&ticket, InferError::Backend(message.to_owned()));
    }
}
