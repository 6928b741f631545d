//! What the server tells of each request: a line in the access log, and spans of its trace. Off, a request costs it a branch.
//!
//! A request is noted while it runs and told when it has ended, from the times that were measured anyway. In reading order:
//!
//! - [`context`]: the trace that a client says its request belongs to.
//! - [`record`]: what is known of a request in the end; [`watch`]: how it comes together.
//! - [`access_log`], [`spans`]: the two forms that it is told in.
//! - [`exporter`]: how spans leave the server.

pub mod access_log;
pub mod context;
pub mod exporter;
pub mod record;
pub mod spans;
pub mod watch;

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use opentelemetry::trace::{SpanId, SpanKind, TraceId, TraceState};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _};

use self::{
    access_log::Choice,
    context::Parent,
    exporter::Exporter,
    record::{Protocol, Record, Trace},
    watch::Watch,
};
use crate::{failure::Failure, log, settings::Settings};

/// Tells of requests, or not.
#[derive(Debug, Default)]
pub struct Telemetry {
    access_log: Option<Choice>,
    tracer: Option<Tracer>,
}

#[derive(Debug)]
struct Tracer {
    ratio: f64,
    exporter: Exporter,
}

impl Telemetry {
    /// As the settings have it.
    ///
    /// # Errors
    /// When traces can't be exported to where they should be.
    pub fn start(settings: &Settings) -> Result<Arc<Self>, Failure> {
        let access_log = Choice::new(&settings.access_log);
        let tracer = match settings.tracing.url() {
            Some(url) => {
                let exporter = Exporter::start(&url)?;
                tracing::info!(url, ratio = ?settings.tracing.sampling_ratio, "requests are traced");
                Some(Tracer { ratio: settings.tracing.sampling_ratio.value(), exporter })
            }
            None => None,
        };
        Ok(Arc::new(Self { access_log, tracer }))
    }

    /// Whether nothing is told of any request.
    pub fn is_off(&self) -> bool {
        self.access_log.is_none() && self.tracer.is_none()
    }

    /// Begins to watch a request, where anything is told of it. Whether the server is healthy is asked every few seconds by every
    /// probe, and is nobody's request.
    pub fn watch<B>(self: &Arc<Self>, protocol: Protocol, peer: SocketAddr, request: &mut Request<B>) -> Watch {
        if self.is_off() || is_probe(request.uri().path()) {
            return Watch::default();
        }
        let trace = self.trace(context::parent(request.headers()));
        Watch::new(Arc::clone(self), protocol, peer, request, trace)
    }

    /// A request's place in its trace; without traces, what its client says of it goes into the log.
    fn trace(&self, parent: Option<Parent>) -> Option<Trace> {
        let ids = RandomIdGenerator::default();
        match (parent, &self.tracer) {
            (Some(parent), tracer) => Some(Trace {
                id: parent.trace,
                // Without traces the request has no span, and the log names its client's.
                span: if tracer.is_some() { ids.new_span_id() } else { parent.span },
                parent: parent.span,
                is_sampled: parent.is_sampled && tracer.is_some(),
                state: parent.state,
            }),
            (None, Some(tracer)) => {
                let id = ids.new_trace_id();
                Some(Trace {
                    id,
                    span: ids.new_span_id(),
                    parent: SpanId::INVALID,
                    is_sampled: is_chosen(id, tracer.ratio),
                    state: TraceState::default(),
                })
            }
            (None, None) => None,
        }
    }

    /// The place of a stream's message: under the span that the call is under, or in a trace of its own.
    fn sibling(&self, call: &Trace) -> Trace {
        let parent = (call.parent != SpanId::INVALID).then(|| Parent {
            trace: call.id,
            span: call.parent,
            is_sampled: call.is_sampled,
            state: call.state.clone(),
        });
        self.trace(parent).unwrap_or_else(|| call.clone())
    }

    /// Tells of a request that has ended.
    fn finish(&self, record: Record) {
        if self.access_log.as_ref().is_some_and(|choice| choice.takes(&record, fastrand::f64)) {
            access_log::write(&record);
        }
        if let Some(tracer) = &self.tracer
            && record.trace.as_ref().is_some_and(|trace| trace.is_sampled)
        {
            tracer.exporter.put(record);
        }
    }

    /// Exports what is left, for so long at most.
    pub async fn flush(&self, limit: Duration) {
        if let Some(tracer) = &self.tracer {
            tracer.exporter.flush(limit).await;
        }
    }

    /// The part of the metrics page that says what was lost.
    pub fn page(&self) -> String {
        let mut page = format!(
            "# HELP flotilla_log_lines_dropped_total Lines of the log that there was no room for\n\
             # TYPE flotilla_log_lines_dropped_total counter\nflotilla_log_lines_dropped_total {}\n",
            log::dropped()
        );
        if let Some(tracer) = &self.tracer {
            page += "# HELP flotilla_traced_requests_total Requests whose spans were exported, failed to be, or had no room\n\
                     # TYPE flotilla_traced_requests_total counter\n";
            for (result, count) in tracer.exporter.counts() {
                // Writing to a string can't fail.
                let _written = writeln!(page, "flotilla_traced_requests_total{{result=\"{result}\"}} {count}");
            }
        }
        page
    }
}

/// As OpenTelemetry's sampler by ratio decides, so that every service decides alike: by the lower half of the trace's id.
fn is_chosen(trace: TraceId, ratio: f64) -> bool {
    let result = Sampler::TraceIdRatioBased(ratio).should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
    result.decision == SamplingDecision::RecordAndSample
}

/// Whether a path is one that asks for health.
fn is_probe(path: &str) -> bool {
    const CALLS: [&str; 3] = ["ServerLive", "ServerReady", "ModelReady"];
    let last = path.rsplit('/').next().unwrap_or_default();
    path.starts_with("/v2/health/")
        || path.starts_with("/grpc.health.v1.Health/")
        || (path.starts_with("/v2/models/") && last == "ready")
        || (path.starts_with("/inference.") && CALLS.contains(&last))
}

#[cfg(test)]
mod tests;
