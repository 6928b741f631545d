//! `POST /v1/embed`: images in base64 in, rows of numbers out, for whoever has curl and no client of KServe.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{
    App,
    body::{self, BodyLimits},
    error::ApiError,
    flat::decode_base64,
    infer::{no_images, parse},
    infer_response::Values,
    reply::{self, Reply},
};
use crate::{
    engine::{
        Call, Images,
        request::{NamedTensor, Payload},
    },
    protocol::{
        find,
        parameters::{self, Wishes},
        timing::{SERVER_TIMING, server_timing},
    },
    repository::Serving,
    telemetry::watch::Watch,
    tensor::{Data, DataType, Tensor},
};

/// What a client sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRequest {
    /// The model; it may be left out where the server has only one.
    #[serde(default)]
    model: String,
    /// The model's version; without one the newest.
    #[serde(default)]
    version: String,
    /// JPEG, PNG or WebP files in base64.
    images: Vec<String>,
    /// The output wanted; without one the model's first.
    #[serde(default)]
    output: String,
    /// `timeout` in microseconds, `priority`.
    #[serde(default)]
    parameters: Map<String, Value>,
}

#[derive(Serialize)]
struct WireResponse<'a> {
    model: &'a str,
    version: &'a str,
    output: &'a str,
    embeddings: Rows<'a>,
}

struct Order {
    model: String,
    version: String,
    output: String,
    files: Vec<Bytes>,
    wishes: Wishes,
}

pub(super) async fn embed(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, &app.budget, BodyLimits::new(app.max_body_bytes)).await?;
    let arrived = Instant::now();
    let watch = Watch::of(&parts.extensions);
    watch.arrived(arrived, || body.len());
    let order = parse(&app, body.len(), move || read(&body)).await?;
    let serving = choose(&app, &order)?;
    watch.model(&serving);
    serving.engine.begin()?;
    let signature = serving.engine.signature();
    if matches!(serving.engine.config().images, Images::Refused) {
        return Err(no_images(&serving.name));
    }
    let output = if order.output.is_empty() {
        0
    } else {
        signature.outputs.iter().position(|spec| spec.name == order.output).ok_or_else(|| {
            let message = format!("unexpected inference output '{}' for model '{}'", order.output, serving.name);
            ApiError::bad_request(message)
        })?
    };
    let input = signature.inputs.first().map(|spec| spec.name.clone()).unwrap_or_default();
    let tensor =
        Tensor { data_type: DataType::Bytes, shape: vec![order.files.len()], data: Data::Strings(order.files) };
    let payload = Payload::Tensors(vec![NamedTensor { name: input, tensor }]);
    watch.asked("", &payload, &serving);
    let call = Call { payload, arrived, timeout: order.wishes.timeout, priority: order.wishes.priority };
    let answer = serving.engine.infer(call).await?;
    watch.answered(&answer);
    let missing = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the model gave no such output");
    let output = answer.outputs.get(output).ok_or_else(missing)?;
    let wire = WireResponse {
        model: &serving.name,
        version: &serving.version,
        output: &output.name,
        embeddings: Rows(&output.tensor),
    };
    let body = serde_json::to_vec(&wire).unwrap_or_default();
    let reply = Reply { body: Bytes::from(body), header_length: None };
    let mut response = reply::respond(reply, reply::accepted(&parts.headers)).await;
    response.headers_mut().insert(SERVER_TIMING, server_timing(&answer));
    Ok(response)
}

fn read(body: &Bytes) -> Result<Order, ApiError> {
    let wire: WireRequest = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("failed to parse the request JSON: {error}")))?;
    let named = wire.parameters.iter().map(|(name, value)| (name.as_str(), super::infer_request::neutral(value)));
    Ok(Order {
        wishes: parameters::read(named).map_err(ApiError::bad_request)?,
        files: wire
            .images
            .iter()
            .map(|text| decode_base64(text))
            .collect::<Result<_, _>>()
            .map_err(ApiError::bad_request)?,
        model: wire.model,
        version: wire.version,
        output: wire.output,
    })
}

fn choose(app: &App, order: &Order) -> Result<Arc<Serving>, ApiError> {
    if !order.model.is_empty() {
        return Ok(find(&app.repository, &order.model, &order.version)?);
    }
    let index = app.repository.index();
    match index.as_slice() {
        [only] => Ok(find(&app.repository, &only.name, &order.version)?),
        _ => Err(ApiError::bad_request(format!("the server has {} models; name one in 'model'", index.len()))),
    }
}

/// A tensor as a list of its rows, each flat.
struct Rows<'a>(&'a Tensor);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = self.0.shape.first().copied().unwrap_or(1);
        serializer.collect_seq((0..rows).map(|row| Row(self.0.rows(row, 1))))
    }
}

struct Row(Tensor);

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Values(&self.0).serialize(serializer)
    }
}
