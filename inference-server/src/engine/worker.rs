//! The thread that owns the device: it runs one batch after another and answers its members.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};

use super::{
    Answer, InferError, Timing,
    pipeline::{Batch, Member},
    request::NamedTensor,
    vitals::{Pulse, Vitals},
    waiting::Board,
};
use crate::{
    device::{Device, Executed},
    metrics::{BatchTimes, Failed, Metrics, micros},
    model::Signature,
    tensor::Tensor,
};

/// Runs batches.
pub(super) struct Worker {
    /// Its device's place among the devices.
    pub(super) instance: usize,
    /// What executes them; nobody else touches it.
    pub(super) device: Box<dyn Device>,
    /// What the model gives.
    pub(super) signature: Arc<Signature>,
    /// Where members leave the queue.
    pub(super) board: Arc<Board>,
    /// What is counted.
    pub(super) metrics: Arc<Metrics>,
    /// Batches to run.
    pub(super) batches: Receiver<Batch>,
    /// Where the memory of a batch goes back.
    pub(super) finished: Sender<Batch>,
    /// What liveness is told.
    pub(super) vitals: Arc<Vitals>,
}

/// What one request of a batch gets.
struct Started {
    member: Member,
    queue: Duration,
    /// False where the caller went away after the batch was sealed, and was counted then.
    is_wanted: bool,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(self) -> std::io::Result<()> {
        thread::Builder::new().name(format!("device-{}", self.instance)).spawn(move || self.run()).map(drop)
    }

    fn run(mut self) {
        let vitals = Arc::clone(&self.vitals);
        let _pulse = Pulse(&vitals);
        while let Ok(mut batch) = self.batches.recv() {
            let started = self.begin(&mut batch);
            vitals.begin(self.instance);
            let result = catch_unwind(AssertUnwindSafe(|| self.device.run(&batch.inputs)));
            vitals.end(self.instance);
            let rows = batch.rows;
            // The memory goes back first: the next batch can start to fill and be sent while these are answered.
            if self.finished.send(batch).is_err() {
                tracing::debug!("the assembler is gone");
            }
            match result {
                Ok(Ok(executed)) => self.answer(started, rows, &executed),
                Ok(Err(error)) => self.refuse(started, &format!("the execution failed: {error}")),
                Err(_) => {
                    // What a panic leaves behind in the device is unknown, so the server stops being live.
                    vitals.die();
                    tracing::error!("the device panicked; the server is not live any more");
                    self.refuse(started, "the device panicked");
                    return;
                }
            }
        }
    }

    /// Takes the members off the board and observes how long each has waited.
    fn begin(&self, batch: &mut Batch) -> Vec<Started> {
        let now = Instant::now();
        batch
            .members
            .drain(..)
            .map(|member| {
                let waited = member.clock.waited(now);
                let held = batch
                    .held_since
                    .map_or(Duration::ZERO, |since| now.saturating_duration_since(since.max(member.ready)));
                let is_wanted = self.board.start(&member.clock);
                if is_wanted {
                    self.metrics.queue_duration.observe(waited.saturating_sub(held).as_secs_f64());
                }
                let queue = now.saturating_duration_since(member.ready);
                Started { member, queue, is_wanted }
            })
            .collect()
    }

    fn answer(&self, started: Vec<Started>, rows: usize, executed: &Executed) {
        self.metrics.executed(
            rows,
            BatchTimes { count: 1, input: executed.input, infer: executed.infer, output: executed.output },
        );
        if self.signature.is_batched()
            && let Some(bad) = executed.outputs.iter().find(|output| output.shape.first() != Some(&rows))
        {
            let message = format!("an output has the shape {:?} where {rows} rows went in", bad.shape);
            return self.refuse(started, &message);
        }
        let mut from = 0;
        for Started { member, queue, is_wanted } in started {
            let outputs = self
                .signature
                .outputs
                .iter()
                .zip(&executed.outputs)
                .map(|(spec, output)| NamedTensor {
                    name: spec.name.clone(),
                    tensor: if self.signature.is_batched() {
                        output.rows(from, member.rows)
                    } else {
                        Tensor::clone(output)
                    },
                })
                .collect();
            from += member.rows;
            let total = member.clock.arrived().elapsed();
            let timing = Timing {
                decode: member.clock.decoded(),
                queue,
                compute_input: executed.input,
                compute: executed.infer,
                compute_output: executed.output,
            };
            let answer = Answer { outputs, batch_rows: rows, timing };
            if member.reply.send(Ok(answer)).is_ok() {
                self.metrics.request_success.inc();
                self.metrics.request_duration_us.inc_by(micros(total));
                self.metrics.queue_duration_us.inc_by(micros(queue));
                self.metrics.compute_input_duration_us.inc_by(micros(executed.input));
                self.metrics.compute_infer_duration_us.inc_by(micros(executed.infer));
                self.metrics.compute_output_duration_us.inc_by(micros(executed.output));
            } else if is_wanted {
                self.metrics.fail(Failed::Canceled);
            }
        }
    }

    fn refuse(&self, started: Vec<Started>, message: &str) {
        tracing::error!(requests = started.len(), message, "a batch failed");
        for Started { member, .. } in started.into_iter().filter(|started| started.is_wanted) {
            self.metrics.fail(Failed::Backend);
            drop(member.reply.send(Err(InferError::Backend(message.to_owned()))));
        }
    }
}
