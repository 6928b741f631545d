//! The thread that owns a device: it runs one batch after another and answers its members.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
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

/// Runs batches.
pub(super) struct Worker {
    /// Its device's place among the devices.
    pub(super) instance: usize,
    /// What executes them; nobody else touches it.
    pub(super) device: Box<dyn Device>,
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
    pub(super) fn start(self) -> std::io::Result<()> {
        thread::Builder::new().name(format!("device-{}", self.instance)).spawn(move || self.run()).map(drop)
    }

    fn run(self) {
        let Self { instance, mut device, shared, metrics } = self;
        let _post = Post(&shared);
        let _pulse = Pulse(&shared);
        while let Some(Start { batch, waits }) = shared.next_batch(instance) {
            for wait in waits {
                metrics.queue_duration.observe(wait.as_secs_f64());
            }
            let rows = batch.rows;
            let executed_rows = batch.inputs.first().and_then(|input| input.shape.first()).copied();
            let start = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| device.run(&batch.inputs)));
            let took = matches!(result, Ok(Ok(_))).then(|| (rows, start.elapsed()));
            let members = shared.end(instance, batch.into_memory(), took);
            match result {
                Ok(Ok(executed)) => {
                    let times =
                        BatchTimes { count: 1, input: executed.input, infer: executed.infer, output: executed.output };
                    metrics.executed(rows, times);
                    match misfit(&executed, executed_rows.filter(|_| shared.layout.is_batched)) {
                        None => deliver(members, executed, rows, start),
                        Some(message) => refuse(&shared, members, &message),
                    }
                }
                Ok(Err(error)) => refuse(&shared, members, &format!("the execution failed: {error}")),
                Err(_) => {
                    // What a panic leaves behind in the device is unknown, so the server stops being live.
                    shared.die();
                    tracing::error!("the device panicked; the server is not live any more");
                    refuse(&shared, members, "the device panicked");
                    return;
                }
            }
        }
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
