//! A request while it runs: whoever works on it notes here what only it knows. Where nothing is watched, each note is a branch.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use http::{Extensions, HeaderName, Request, Response, header};
use tonic::{Code, Status};

use super::{
    Telemetry,
    record::{Answered, Protocol, Record, Trace, bounded},
};
use crate::{
    engine::{Answer, request::Payload},
    repository::Serving,
};

/// What nginx calls a request whose client went away.
const CLIENT_LEFT: u16 = 499;
/// What proxies call a request, where its client does not.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NO_ANSWER: &str = "the request was dropped before its answer: its client left, or the server ended";

/// A request that is watched, or nothing. It travels with the request, in its extensions.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Watched>>);

struct Watched {
    telemetry: Arc<Telemetry>,
    /// None once it has ended.
    record: Mutex<Option<Record>>,
}

/// A stream whose messages are watched, or nothing.
pub struct Stream(Option<(Arc<Telemetry>, Record)>);

impl Stream {
    /// One of its messages begins.
    pub fn message(&self) -> Watch {
        let Some((telemetry, call)) = &self.0 else { return Watch(None) };
        let now = Instant::now();
        let trace = call.trace.as_ref().map(|trace| telemetry.sibling(trace));
        let record = Record { began: now, began_at: SystemTime::now(), ended: now, trace, ..call.clone() };
        Watch(Some(Arc::new(Watched { telemetry: Arc::clone(telemetry), record: Mutex::new(Some(record)) })))
    }
}

/// Why a response is an error, in its extensions.
#[derive(Debug, Clone)]
pub struct Reason(pub String);

impl Watch {
    /// Begins to watch a request, and travels with it.
    pub(super) fn new<B>(
        telemetry: Arc<Telemetry>,
        protocol: Protocol,
        peer: SocketAddr,
        request: &mut Request<B>,
        trace: Option<Trace>,
    ) -> Self {
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let began = Instant::now();
        let record = Record {
            protocol,
            method: bounded(request.method().as_str()),
            path: bounded(request.uri().path()),
            // A client of IPv4 at a port of IPv6 is one of IPv4.
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            began,
            began_at: SystemTime::now(),
            trace,
            model: String::new(),
            version: String::new(),
            id: text(REQUEST_ID).map(bounded).unwrap_or_default(),
            images: 0,
            bytes_in: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0),
            bytes_out: 0,
            arrived: None,
            answer: None,
            ended: began,
            status: 0,
            error: String::new(),
        };
        let watch = Self(Some(Arc::new(Watched { telemetry, record: Mutex::new(Some(record)) })));
        request.extensions_mut().insert(watch.clone());
        watch
    }

    /// The one that travels with a request.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// The model is found.
    pub fn model(&self, serving: &Serving) {
        self.note(|record| {
            record.model.clone_from(&serving.name);
            record.version.clone_from(&serving.version);
        });
    }

    /// The last byte is there.
    pub fn arrived(&self, at: Instant, bytes: impl FnOnce() -> usize) {
        self.note(|record| {
            record.arrived = Some(at);
            record.bytes_in = bytes();
        });
    }

    /// The request is understood.
    pub fn asked(&self, id: &str, payload: &Payload, serving: &Serving) {
        self.note(|record| {
            if !id.is_empty() {
                record.id = bounded(id);
            }
            let first = match payload {
                Payload::Raw(_) => None,
                Payload::Tensors(tensors) => tensors.first().and_then(|named| named.tensor.shape.first()),
            };
            record.images = first.copied().filter(|_| serving.engine.signature().is_batched()).unwrap_or(1);
        });
    }

    /// The model has answered.
    pub fn answered(&self, answer: &Answer) {
        self.note(|record| {
            record.answer = Some(Answered { at: Instant::now(), timing: answer.timing, batch_rows: answer.batch_rows });
        });
    }

    /// The answer's size is known.
    pub fn sent(&self, bytes: impl FnOnce() -> usize) {
        self.note(|record| record.bytes_out = bytes());
    }

    /// The call turns out to be a stream, of which only the messages are requests.
    pub fn into_stream(self) -> Stream {
        let Some(watched) = self.0 else { return Stream(None) };
        let record = watched.lock().take();
        Stream(record.map(|record| (Arc::clone(&watched.telemetry), record)))
    }

    /// The response is ready.
    pub fn end<B: hyper::body::Body>(&self, response: &mut Response<B>) {
        let Some(watched) = &self.0 else { return };
        let Some(mut record) = watched.lock().take() else { return };
        match record.protocol {
            Protocol::Http => {
                record.status = response.status().as_u16();
                record.bytes_out =
                    response.body().size_hint().exact().and_then(|size| size.try_into().ok()).unwrap_or(0);
                record.error =
                    response.extensions_mut().remove::<Reason>().map_or_else(String::new, |why| bounded(&why.0));
            }
            Protocol::Grpc => match Status::from_header_map(response.headers()) {
                Some(status) => set_status(&mut record, &status),
                None if response.status().is_success() => {}
                None => {
                    record.status = code(Code::Unknown);
                    record.error = format!("the call is answered with {}", response.status());
                }
            },
        }
        watched.finish(record);
    }

    /// A stream's message is answered.
    pub fn end_message(&self, error: Option<&Status>) {
        let Some(watched) = &self.0 else { return };
        let Some(mut record) = watched.lock().take() else { return };
        if let Some(status) = error {
            set_status(&mut record, status);
        }
        watched.finish(record);
    }

    fn note(&self, write: impl FnOnce(&mut Record)) {
        if let Some(watched) = &self.0
            && let Some(record) = &mut *watched.lock()
        {
            write(record);
        }
    }
}

fn set_status(record: &mut Record, status: &Status) {
    record.status = code(status.code());
    record.error = bounded(status.message());
}

fn code(code: Code) -> u16 {
    u16::try_from(i32::from(code)).unwrap_or(u16::MAX)
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Option<Record>> {
        // A panic while it is held leaves a note half written, and the record whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, mut record: Record) {
        record.ended = Instant::now();
        self.telemetry.finish(record);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(mut record) = self.lock().take() else { return };
        record.status = match record.protocol {
            Protocol::Http => CLIENT_LEFT,
            Protocol::Grpc => code(Code::Cancelled),
        };
        NO_ANSWER.clone_into(&mut record.error);
        self.finish(record);
    }
}
