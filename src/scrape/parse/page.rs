//! The samples of one page, added up: a family of several versions and GPUs counts as one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ParseError;
use super::family::{COUNT, Family, bound};
use super::line::Sample;
use crate::scrape::snapshot::{BatchTotal, Failures, Histogram, ServerInfo, Snapshot};

/// Longest label value that is kept.
const LABEL_LIMIT: usize = 128;

#[derive(Default)]
pub(super) struct Page {
    sums: [Option<f64>; COUNT],
    failures: Failures,
    /// Upper bound of each bucket and how many were at or below it.
    buckets: Vec<(f64, f64)>,
    batches: BTreeMap<u32, BatchTotal>,
    server: Option<ServerInfo>,
}

impl Page {
    pub(super) fn add(&mut self, family: Family, sample: &Sample<'_>) -> Result<(), ParseError> {
        let value = sample.value;
        match family {
            Family::Failure => match sample.label("reason").as_deref() {
                Some("REJECTED") => self.failures.rejected += value,
                Some("CANCELED") => self.failures.canceled += value,
                Some("BACKEND") => self.failures.backend += value,
                _ => {}
            },
            Family::QueueBucket => self.add_bucket(bound(sample).unwrap_or(f64::INFINITY), value),
            Family::DeviceBatches => self.batches.entry(batch_size(family, sample)?).or_default().executions += value,
            Family::DeviceBatchSeconds => self.batches.entry(batch_size(family, sample)?).or_default().seconds += value,
            Family::ServerInfo => {
                self.server.get_or_insert_with(|| server(sample));
            }
            // Of several versions the one that has waited longest, and the one that started last.
            Family::OldestWait | Family::ProcessStart => {
                self.sums[family as usize] = Some(self.of(family).map_or(value, |largest| largest.max(value)));
            }
            _ => self.sums[family as usize] = Some(self.of(family).unwrap_or_default() + value),
        }
        Ok(())
    }

    fn add_bucket(&mut self, bound: f64, count: f64) {
        match self.buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
            Some((_, sum)) => *sum += count,
            None => self.buckets.push((bound, count)),
        }
    }

    pub(super) fn snapshot(mut self, typed_histogram: bool) -> Result<Snapshot, ParseError> {
        if self.of(Family::PendingRequests).is_none() && self.of(Family::PendingImages).is_none() {
            return Err(ParseError::Missing { name: Family::PendingRequests.name() });
        }
        let compute = [Family::InputMicroseconds, Family::InferMicroseconds, Family::OutputMicroseconds];
        Ok(Snapshot {
            requests_completed: self.need(Family::Success)?,
            images_completed: self.need(Family::Count)?,
            executions: self.need(Family::Executions)?,
            failures: self.failures,
            queue_seconds: self.need(Family::QueueMicroseconds)? / 1e6,
            compute_seconds: compute.into_iter().filter_map(|family| self.of(family)).map(|value| value / 1e6).sum(),
            requests_cached: self.of(Family::CacheHits),
            pending_requests: self.of(Family::PendingRequests),
            pending_images: self.of(Family::PendingImages),
            images_rejected: self.of(Family::ImagesRejected),
            queue: self.queue(typed_histogram)?,
            oldest_wait: self.of(Family::OldestWait).map(seconds),
            device_busy_seconds: self.of(Family::DeviceBusy),
            process_start_seconds: self.of(Family::ProcessStart),
            batches: self.batches,
            server: self.server,
        })
    }

    fn queue(&mut self, typed: bool) -> Result<Option<Histogram>, ParseError> {
        let wrong = |found: &str| ParseError::WrongType {
            name: Family::Queue.name(),
            expected: Family::Queue.kind(),
            found: found.to_owned(),
        };
        if self.of(Family::Queue).is_some() {
            return Err(wrong("a single value"));
        }
        let mut buckets = std::mem::take(&mut self.buckets);
        if buckets.is_empty() {
            return Ok(None);
        }
        if !typed {
            return Err(wrong("untyped"));
        }
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        Ok(Some(Histogram { buckets, sum: self.need(Family::QueueSum)?, count: self.need(Family::QueueCount)? }))
    }

    fn of(&self, family: Family) -> Option<f64> {
        self.sums[family as usize]
    }

    fn need(&self, family: Family) -> Result<f64, ParseError> {
        self.of(family).ok_or(ParseError::Missing { name: family.name() })
    }
}

fn batch_size(family: Family, sample: &Sample<'_>) -> Result<u32, ParseError> {
    let label = sample.label("batch_size").unwrap_or_default();
    label.parse().map_err(|_| ParseError::BadValue {
        name: format!("the label batch_size of {}", family.name()),
        value: label.chars().take(32).collect(),
    })
}

fn server(sample: &Sample<'_>) -> ServerInfo {
    let label = |name| sample.label(name).unwrap_or_default().chars().take(LABEL_LIMIT).collect();
    ServerInfo { provider: label("provider"), model_sha256: label("model_sha256"), version: label("server_version") }
}

/// A time of the page; an absurd one is cut, so that it can't overflow.
fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.clamp(0.0, 1e6))
}
