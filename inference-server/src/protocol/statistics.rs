//! Triton's statistics of a model, from its metrics.

use std::time::Duration;

use crate::{
    repository::Serving,
    wire::inference::{InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration},
};

/// What has been counted; clients read every one of these numbers, so none is left out.
pub fn statistics(serving: &Serving) -> ModelStatistics {
    let metrics = serving.engine.metrics();
    let success = metrics.request_success.get();
    let duration = |count: u64, ns: u64| Some(StatisticDuration { count, ns });
    let sum = |micros: u64| duration(success, micros.saturating_mul(1000));
    let batches = metrics.batches();
    let batch_stats = batches.iter().map(|(batch_size, times)| {
        let part = |time: Duration| duration(times.count, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        InferBatchStatistics {
            batch_size: *batch_size as u64,
            compute_input: part(times.input),
            compute_infer: part(times.infer),
            compute_output: part(times.output),
        }
    });
    ModelStatistics {
        name: serving.name.clone(),
        version: serving.version.clone(),
        last_inference: metrics.last_inference_milliseconds(),
        inference_count: metrics.inference_count.get(),
        execution_count: metrics.exec_count.get(),
        inference_stats: Some(InferStatistics {
            success: sum(metrics.request_duration_us.get()),
            fail: duration(metrics.failures(), 0),
            queue: sum(metrics.queue_duration_us.get()),
            compute_input: sum(metrics.compute_input_duration_us.get()),
            compute_infer: sum(metrics.compute_infer_duration_us.get()),
            compute_output: sum(metrics.compute_output_duration_us.get()),
            cache_hit: duration(0, 0),
            cache_miss: duration(0, 0),
        }),
        batch_stats: batch_stats.collect(),
        ..ModelStatistics::default()
    }
}
