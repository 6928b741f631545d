//! KEDA's calls, answered from the last decisions. No call waits for anything.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::answer::{self, LastDecision};
use super::error::ScalerError;
use super::metrics::ScalerMetrics;
use super::request::Question;
use super::server::CONNECTION_AGE;
use super::wire::external_scaler_server::ExternalScaler;
use super::wire::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use crate::scaling::whole;

/// How often a stream looks whether its answer still holds.
const STREAM_INTERVAL: Duration = Duration::from_secs(10);

/// The last decisions, as far as the external scaler sees them.
pub trait Decisions: Send + Sync + 'static {
    /// Whether this operator leads now: what a paused leader remembers may be old.
    fn leads(&self) -> bool;
    /// What was decided last for a service.
    fn last(&self, namespace: &str, service: &str) -> Option<LastDecision>;
}

/// The external scaler.
pub struct Scaler<D> {
    decisions: Arc<D>,
    metrics: ScalerMetrics,
    shutdown: CancellationToken,
}

impl<D: Decisions> Scaler<D> {
    /// Answers from `decisions` until `shutdown`, which ends its streams.
    pub fn new(decisions: Arc<D>, metrics: ScalerMetrics, shutdown: CancellationToken) -> Self {
        Self { decisions, metrics, shutdown }
    }

    /// Counts an answer; an error becomes a status, and a line in the log where nobody else would see it.
    fn answer<T>(&self, call: &str, result: Result<T, ScalerError>) -> Result<T, Status> {
        self.metrics.count(call, result.as_ref().map_or_else(ScalerError::category, |_| "ok"));
        result.map_err(|error| {
            tracing::debug!(call, error = %error, "KEDA gets no answer");
            error.into()
        })
    }

    fn spec(&self, scaled: &ScaledObjectRef) -> Result<GetMetricSpecResponse, ScalerError> {
        let question = question(scaled)?;
        let target = answer::target(&question, || last(&*self.decisions, &question))?;
        let spec = MetricSpec {
            metric_name: question.metric.name().to_owned(),
            // At least 1: a version of KEDA that reads only this one divides by it.
            target_size: i64::from(whole(target.round()).max(1)),
            target_size_float: target,
        };
        Ok(GetMetricSpecResponse { metric_specs: vec![spec] })
    }

    fn metrics(&self, request: &GetMetricsRequest) -> Result<GetMetricsResponse, ScalerError> {
        let question = question(request.scaled_object_ref.as_ref().ok_or(ScalerError::NoService)?)?;
        let expected = question.metric.name();
        if request.metric_name != expected {
            return Err(ScalerError::OtherMetric { expected, asked: request.metric_name.clone() });
        }
        let value = answer::value(question.metric, &last(&*self.decisions, &question)?)?;
        let value = MetricValue {
            metric_name: expected.to_owned(),
            metric_value: i64::from(whole(value.ceil())),
            metric_value_float: value,
        };
        Ok(GetMetricsResponse { metric_values: vec![value] })
    }
}

/// Whether the service is to have replicas at all: one that is known always, since Flotilla does not scale to zero.
fn is_active<D: Decisions>(decisions: &D, scaled: &ScaledObjectRef) -> Result<IsActiveResponse, ScalerError> {
    last(decisions, &question(scaled)?).map(|_| IsActiveResponse { result: true })
}

fn question(scaled: &ScaledObjectRef) -> Result<Question, ScalerError> {
    Question::new(&scaled.namespace, &scaled.scaler_metadata)
}

fn last<D: Decisions>(decisions: &D, question: &Question) -> Result<LastDecision, ScalerError> {
    if !decisions.leads() {
        return Err(ScalerError::NotLeading);
    }
    let Question { namespace, service, .. } = question;
    let last = decisions
        .last(namespace, service)
        .ok_or_else(|| ScalerError::Undecided { namespace: namespace.clone(), service: service.clone() })?;
    if last.age > answer::OLDEST { Err(ScalerError::Stale(last.age)) } else { Ok(last) }
}

type Activity = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl<D: Decisions> ExternalScaler for Scaler<D> {
    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        self.answer("IsActive", is_active(&*self.decisions, request.get_ref())).map(Response::new)
    }

    type StreamIsActiveStream = Activity;

    /// Says once that the service is active, and ends with an error when that is no longer known.
    async fn stream_is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<Activity>, Status> {
        let scaled = request.into_inner();
        let first = self.answer("StreamIsActive", is_active(&*self.decisions, &scaled))?;
        let (decisions, shutdown) = (Arc::clone(&self.decisions), self.shutdown.clone());
        let rest = async move {
            let until = tokio::time::Instant::now() + CONNECTION_AGE;
            while tokio::time::Instant::now() < until {
                tokio::select! {
                    () = shutdown.cancelled() => return Err(ScalerError::NotLeading.into()),
                    () = tokio::time::sleep(STREAM_INTERVAL) => {}
                }
                is_active(&*decisions, &scaled)?;
            }
            Err(Status::unavailable("the stream has reached its age; ask again"))
        };
        let stream = futures::StreamExt::chain(futures::stream::iter([Ok(first)]), futures::stream::once(rest));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.answer("GetMetricSpec", self.spec(request.get_ref())).map(Response::new)
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        self.answer("GetMetrics", self.metrics(request.get_ref())).map(Response::new)
    }
}
