//! What stands between the network and the messages of a call: every bound that a body over HTTP has, a message has here.
//!
//! A call's body is a row of messages, each behind five bytes: whether it is compressed, and its length. Messages that are not
//! compressed go through as they came; compressed ones are inflated here, because here their bounds are known.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::Frame;
use tokio::{task::JoinHandle, time::Sleep};
use tonic::Status;

use crate::{
    http::body::{BodyBudget, BodyLimits, SMALL, Share},
    protocol::inflate::{Encoding, InflateError},
};

/// The bytes before a message.
const HEADER: usize = 5;

/// The memory of a call's messages, shared with whoever answers them.
#[derive(Debug)]
pub struct Messages(Mutex<Held>);

#[derive(Debug)]
struct Held {
    share: Share,
    /// The sizes of the messages that were read and not yet answered.
    sizes: VecDeque<usize>,
}

impl Messages {
    fn new(budget: &Arc<BodyBudget>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Held { share: Share::new(budget), sizes: VecDeque::new() })))
    }

    /// Gives back the memory of the oldest message that has not been answered.
    pub fn answered(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(size) = held.sizes.pop_front() {
            held.share.shrink(size);
        }
    }

    fn grow(&self, bytes: usize) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).share.grow(bytes)
    }

    fn shrink(&self, bytes: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).share.shrink(bytes);
    }

    fn complete(&self, size: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sizes.push_back(size);
    }
}

/// The body of a call, with its bounds.
pub struct Frames {
    body: Body,
    encoding: Option<Encoding>,
    is_stream: bool,
    limits: BodyLimits,
    messages: Arc<Messages>,
    part: Part,
    chunk: Bytes,
    any: bool,
    started: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Where in a message the body is.
enum Part {
    /// Before one, or within its header.
    Header([u8; HEADER], usize),
    /// In one that goes through as it is, with so many bytes to come.
    Plain { left: usize, size: usize },
    /// In one that is compressed.
    Compressed { so_far: BytesMut, size: usize },
    /// In one that is being inflated.
    Inflating(JoinHandle<Result<Vec<u8>, InflateError>>, usize),
}

impl Frames {
    /// The body of a call. `is_stream`: it may have any number of messages, and pauses between them.
    pub fn new(
        body: Body,
        encoding: Option<Encoding>,
        is_stream: bool,
        limits: BodyLimits,
        budget: &Arc<BodyBudget>,
    ) -> (Self, Arc<Messages>) {
        let messages = Messages::new(budget);
        let frames = Self {
            body,
            encoding,
            is_stream,
            limits,
            messages: Arc::clone(&messages),
            part: Part::Header([0; HEADER], 0),
            chunk: Bytes::new(),
            any: false,
            started: Instant::now(),
            timer: None,
        };
        (frames, messages)
    }

    /// Looks at the bytes that have come; gives those that may go on.
    fn advance(&mut self) -> Result<Option<Bytes>, Status> {
        while !self.chunk.is_empty() {
            match &mut self.part {
                Part::Header(header, filled) => {
                    let count = (HEADER - *filled).min(self.chunk.len());
                    self.chunk.split_to(count).copy_to_slice(&mut header[*filled..*filled + count]);
                    *filled += count;
                    if *filled < HEADER {
                        continue;
                    }
                    let header = *header;
                    self.part = self.begin(header)?;
                    if matches!(self.part, Part::Plain { .. }) {
                        self.finish_plain();
                        return Ok(Some(Bytes::copy_from_slice(&header)));
                    }
                }
                Part::Plain { left, .. } => {
                    let data = self.chunk.split_to((*left).min(self.chunk.len()));
                    *left -= data.len();
                    self.take(data.len())?;
                    self.finish_plain();
                    return Ok(Some(data));
                }
                Part::Compressed { so_far, size } => {
                    let data = self.chunk.split_to((*size - so_far.len()).min(self.chunk.len()));
                    so_far.extend_from_slice(&data);
                    let is_whole = so_far.len() == *size;
                    self.take(data.len())?;
                    if is_whole {
                        return self.inflate();
                    }
                }
                Part::Inflating(..) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Reads a message's header.
    fn begin(&mut self, header: [u8; HEADER]) -> Result<Part, Status> {
        let [flag, length @ ..] = header;
        let size = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if self.any && !self.is_stream {
            return Err(Status::invalid_argument("the call has more than one message"));
        }
        self.any = true;
        self.started = Instant::now();
        if size > self.limits.bytes {
            return Err(Status::resource_exhausted(format!(
                "the message of {size} bytes is larger than {} bytes",
                self.limits.bytes
            )));
        }
        match (flag, self.encoding) {
            (0, _) => Ok(Part::Plain { left: size, size }),
            (1, Some(_)) => Ok(Part::Compressed { so_far: BytesMut::new(), size }),
            (1, None) => Err(Status::internal("a message is compressed and the call has no grpc-encoding")),
            (flag, _) => Err(Status::invalid_argument(format!("a message begins with {flag} and not with 0 or 1"))),
        }
    }

    fn finish_plain(&mut self) {
        if let Part::Plain { left: 0, size } = self.part {
            self.messages.complete(size);
            self.part = Part::Header([0; HEADER], 0);
        }
    }

    /// Inflates a small message at once, and a larger one on a thread that may take its time.
    fn inflate(&mut self) -> Result<Option<Bytes>, Status> {
        let part = std::mem::replace(&mut self.part, Part::Header([0; HEADER], 0));
        let (Part::Compressed { so_far, size }, Some(encoding)) = (part, self.encoding) else { return Ok(None) };
        let (limit, messages) = (self.limits.bytes, Arc::clone(&self.messages));
        let work = move || encoding.inflate(&so_far, limit, |bytes| messages.grow(bytes));
        if size <= SMALL {
            return self.inflated(work(), size).map(Some);
        }
        self.part = Part::Inflating(tokio::task::spawn_blocking(work), size);
        Ok(None)
    }

    /// Passes an inflated message on as if it had come so.
    fn inflated(&mut self, result: Result<Vec<u8>, InflateError>, compressed: usize) -> Result<Bytes, Status> {
        self.messages.shrink(compressed);
        let message = result.map_err(|error| match error {
            InflateError::TooLarge(_) | InflateError::Bomb => Status::resource_exhausted(error.to_string()),
            InflateError::Budget => over_budget(),
            InflateError::Corrupt(_) => Status::invalid_argument(error.to_string()),
        })?;
        self.messages.complete(message.len());
        let mut framed = BytesMut::with_capacity(HEADER + message.len());
        framed.extend_from_slice(&[0]);
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        framed.extend_from_slice(&message);
        Ok(framed.freeze())
    }

    fn take(&self, bytes: usize) -> Result<(), Status> {
        if self.messages.grow(bytes) { Ok(()) } else { Err(over_budget()) }
    }

    /// Whether the client is in the middle of something; between the messages of a stream it may take its time.
    fn is_owing(&self) -> bool {
        !self.is_stream || !matches!(self.part, Part::Header(_, 0))
    }

    /// What a body that ends here is.
    fn end(&self) -> Option<Status> {
        match self.part {
            Part::Header(_, 0) if self.any || self.is_stream => None,
            Part::Header(_, 0) => Some(Status::invalid_argument("the call has no message")),
            _ => Some(Status::invalid_argument("the call ends within a message")),
        }
    }

    /// Ends a call whose client takes too long, by the piece or by the message.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        if !self.is_owing() {
            return Poll::Pending;
        }
        let (pause, total) = (self.limits.pause, self.limits.total);
        let wait = pause.min(total.saturating_sub(self.started.elapsed()));
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait.max(Duration::from_millis(1)))));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Status::deadline_exceeded("the message did not arrive in time"))
    }
}

fn over_budget() -> Status {
    Status::resource_exhausted("the server holds its most bytes of requests")
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Part::Inflating(work, size) = &mut this.part {
                let result = ready!(Pin::new(work).poll(context));
                let size = *size;
                this.part = Part::Header([0; HEADER], 0);
                let result = result.unwrap_or_else(|error| Err(InflateError::Corrupt(error.to_string())));
                return Poll::Ready(Some(this.inflated(result, size).map(Frame::data)));
            }
            match this.advance() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(status) => return Poll::Ready(Some(Err(status))),
                Ok(None) if matches!(this.part, Part::Inflating(..)) => continue,
                Ok(None) => {}
            }
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.timer = None;
                    // Trailers of a request mean nothing.
                    this.chunk = frame.into_data().unwrap_or_default();
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(Status::cancelled(format!("the call broke off: {error}")))));
                }
                Poll::Ready(None) => return Poll::Ready(this.end().map(Err)),
                Poll::Pending => {
                    return this.poll_timer(context).map(|status| Some(Err(status)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    fn message(flag: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[flag], &length[..], bytes].concat()
    }

    /// What comes out of a body that comes in pieces of some size.
    async fn read(body: Vec<u8>, piece: usize, encoding: Option<Encoding>, is_stream: bool) -> Result<Vec<u8>, Code> {
        let budget = BodyBudget::new(1 << 20);
        let pieces: Vec<_> = body.chunks(piece).map(|bytes| Ok::<_, Status>(Bytes::copy_from_slice(bytes))).collect();
        let body = Body::from_stream(futures::stream::iter(pieces));
        let (frames, messages) = Frames::new(body, encoding, is_stream, BodyLimits::new(1 << 18), &budget);
        let result = frames.collect().await.map(|all| all.to_bytes().to_vec()).map_err(|status| status.code());
        if let Ok(bytes) = &result {
            assert_eq!(budget.used(), bytes.len() - HEADER * messages.0.lock().unwrap().sizes.len());
        }
        drop(messages);
        assert_eq!(budget.used(), 0);
        result
    }

    #[tokio::test]
    async fn messages_go_through_whatever_the_pieces() {
        let two = [message(0, b"abc"), message(0, b"")].concat();
        let compressed = [message(1, &Encoding::Gzip.deflate(&vec![7; 100_000]).unwrap()), message(0, b"x")].concat();
        let inflated = [message(0, &vec![7; 100_000]), message(0, b"x")].concat();
        for piece in [1, 2, 5, 7, 100, 10_000] {
            assert_eq!(read(two.clone(), piece, None, true).await, Ok(two.clone()));
            assert_eq!(read(compressed.clone(), piece, Some(Encoding::Gzip), true).await, Ok(inflated.clone()));
        }
    }

    #[tokio::test]
    async fn a_bad_body_has_the_code_that_says_so() {
        let bomb = message(1, &Encoding::Deflate.deflate(&vec![0; 8 << 20]).unwrap());
        for (body, encoding, is_stream, code) in [
            (vec![], None, false, Code::InvalidArgument),
            (vec![0, 0], None, true, Code::InvalidArgument),
            (message(0, b"abc")[..6].to_vec(), None, true, Code::InvalidArgument),
            ([message(0, b"a"), message(0, b"b")].concat(), None, false, Code::InvalidArgument),
            (message(7, b"abc"), None, true, Code::InvalidArgument),
            (message(1, b"abc"), None, true, Code::Internal),
            (message(1, b"abc"), Some(Encoding::Gzip), true, Code::InvalidArgument),
            (vec![0, 255, 255, 255, 255], None, true, Code::ResourceExhausted),
            (bomb, Some(Encoding::Deflate), true, Code::ResourceExhausted),
        ] {
            assert_eq!(read(body.clone(), 10_000, encoding, is_stream).await, Err(code), "{body:?}");
        }
        assert_eq!(read(vec![], 1, None, true).await, Ok(vec![]), "a stream may be empty");
    }

    #[tokio::test]
    async fn a_client_that_stops_within_a_message_is_given_up() {
        let budget = BodyBudget::new(1000);
        let pieces = futures::stream::iter([Ok::<_, Status>(Bytes::from_static(&[0, 0, 0, 0, 9, 1]))]);
        let body = Body::from_stream(futures::StreamExt::chain(pieces, futures::stream::pending()));
        let limits = BodyLimits { pause: Duration::from_millis(30), ..BodyLimits::new(1000) };
        let (frames, _messages) = Frames::new(body, None, true, limits, &budget);
        let status = frames.collect().await.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    proptest! {
        #[test]
        fn no_body_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), piece in 1_usize..20, is_stream: bool) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            drop(runtime.block_on(read(bytes, piece, Some(Encoding::Gzip), is_stream)));
        }
    }
}
