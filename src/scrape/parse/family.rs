//! The families that are read, and the type that each must have.

use super::line::Sample;

/// A needed family, or a part of the one histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    Success,
    Failure,
    Count,
    Executions,
    QueueMicroseconds,
    InputMicroseconds,
    InferMicroseconds,
    OutputMicroseconds,
    PendingRequests,
    CacheHits,
    Queue,
    QueueBucket,
    QueueSum,
    QueueCount,
    OldestWait,
    PendingImages,
    ImagesRejected,
    DeviceBusy,
    DeviceBatches,
    DeviceBatchSeconds,
    ServerInfo,
    ProcessStart,
}

/// How many there are.
pub(super) const COUNT: usize = ALL.len();

const ALL: [(Family, &str, &str); 22] = [
    (Family::Success, "nv_inference_request_success", "counter"),
    (Family::Failure, "nv_inference_request_failure", "counter"),
    (Family::Count, "nv_inference_count", "counter"),
    (Family::Executions, "nv_inference_exec_count", "counter"),
    (Family::QueueMicroseconds, "nv_inference_queue_duration_us", "counter"),
    (Family::InputMicroseconds, "nv_inference_compute_input_duration_us", "counter"),
    (Family::InferMicroseconds, "nv_inference_compute_infer_duration_us", "counter"),
    (Family::OutputMicroseconds, "nv_inference_compute_output_duration_us", "counter"),
    (Family::PendingRequests, "nv_inference_pending_request_count", "gauge"),
    (Family::CacheHits, "nv_cache_num_hits_per_model", "counter"),
    (Family::Queue, "flotilla_queue_duration_seconds", "histogram"),
    (Family::QueueBucket, "flotilla_queue_duration_seconds_bucket", ""),
    (Family::QueueSum, "flotilla_queue_duration_seconds_sum", ""),
    (Family::QueueCount, "flotilla_queue_duration_seconds_count", ""),
    (Family::OldestWait, "flotilla_queue_oldest_seconds", "gauge"),
    (Family::PendingImages, "flotilla_pending_images", "gauge"),
    (Family::ImagesRejected, "flotilla_images_rejected_total", "counter"),
    (Family::DeviceBusy, "flotilla_device_busy_seconds_total", "counter"),
    (Family::DeviceBatches, "flotilla_device_batches_total", "counter"),
    (Family::DeviceBatchSeconds, "flotilla_device_batch_seconds_total", "counter"),
    (Family::ServerInfo, "flotilla_server_info", "gauge"),
    (Family::ProcessStart, "process_start_time_seconds", "gauge"),
];

impl Family {
    /// The family that a sample's name is of.
    pub(super) fn of(name: &str) -> Option<Self> {
        ALL.into_iter().find(|(_, known, _)| *known == name).map(|(family, ..)| family)
    }

    /// The family that a line of types names: the parts of a histogram have no type of their own.
    pub(super) fn typed(name: &str) -> Option<Self> {
        Self::of(name).filter(|family| !family.kind().is_empty())
    }

    /// Its name on a page.
    pub(super) const fn name(self) -> &'static str {
        ALL[self as usize].1
    }

    /// The type that it must have; empty for the parts of a histogram.
    pub(super) const fn kind(self) -> &'static str {
        ALL[self as usize].2
    }

    /// Whether a sample has the label without which it says nothing.
    pub(super) fn has_its_labels(self, sample: &Sample<'_>) -> bool {
        self != Self::QueueBucket || bound(sample).is_some()
    }
}

/// The upper bound of a histogram's bucket.
pub(super) fn bound(bucket: &Sample<'_>) -> Option<f64> {
    bucket.label("le")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_names() {
        for (index, (family, name, _)) in ALL.into_iter().enumerate() {
            assert_eq!((family as usize, Family::of(name)), (index, Some(family)));
        }
    }
}
