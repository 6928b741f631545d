//! The plainest request, an inference whose head and body are small, answered without HTTP's library.
//!
//! The library, the router and the maps of headers take much of what a small request costs. A connection begins here and stays as
//! long as its requests are of that kind; with the first that is not (see [`head`]) it goes to the library for good, and so does
//! what has been read of that request. Both give the same answers, which a test holds against each other.

mod head;
mod writer;

use std::{
    future::pending,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::response::IntoResponse as _;
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use self::{head::Head, writer::Writer};
use super::{
    App, body,
    connections::HEADER_TIMEOUT,
    error::ApiError,
    infer::{self, Answered, BodyKind},
};
use crate::{protocol::inflate::Encoding, repository::Serving, telemetry::watch::Watch};

/// The most bytes of a request, head and body. It is also the memory of a connection that is idle.
const MAX_REQUEST: usize = 8 * 1024;
/// How long a client may take to read an answer.
const SEND_TIMEOUT: Duration = Duration::from_mins(5);

/// A request whose head is understood.
struct Asked {
    serving: Arc<Serving>,
    kind: BodyKind,
    encoding: Option<Encoding>,
}

/// Answers requests until one comes that is for the library: then gives back what has been read of it. None when the connection is
/// over.
///
/// `end` is awaited while no request is under way, and `is_last` is asked of each answer.
pub(super) async fn serve(
    stream: &mut TcpStream,
    app: &App,
    is_last: impl Fn() -> bool,
    mut end: Pin<&mut impl Future<Output = ()>>,
) -> Option<Bytes> {
    let (mut buffer, mut writer) = (BytesMut::new(), Writer::default());
    let (mut pause, mut has_begun, mut has_ended) = (pin!(sleep(HEADER_TIMEOUT)), false, false);
    loop {
        let whole = match head::read(&buffer) {
            Head::Nothing => None,
            Head::Infer(request) if request.length() <= MAX_REQUEST && request.body <= app.max_body_bytes => {
                Some(request).filter(|request| request.length() <= buffer.len())
            }
            // What was plain when the end came stays so, however much of it is here.
            Head::Infer(_) | Head::Other => return (!has_ended).then(|| buffer.freeze()),
        };
        let Some(request) = whole else {
            buffer.reserve(MAX_REQUEST - buffer.len());
            if !buffer.is_empty() && !has_begun {
                has_begun = true;
                pause.as_mut().reset(Instant::now() + HEADER_TIMEOUT);
            }
            tokio::select! {
                biased;
                read = stream.read_buf(&mut buffer) => match read {
                    Ok(1..) => {}
                    // The library has a word for a body that breaks off.
                    Ok(0) if !buffer.is_empty() && !has_ended => return Some(buffer.freeze()),
                    Ok(0) | Err(_) => return None,
                },
                () = end.as_mut(), if !has_ended => has_ended = true,
                () = pause.as_mut() => {
                    if !buffer.is_empty() {
                        writer.response(body::stopped().into_response(), true).await;
                        drop(send(stream, writer.parts()).await);
                    }
                    return None;
                }
            }
            if has_ended && buffer.is_empty() {
                return None;
            }
            continue;
        };
        let (head, body) = (request.head, request.body);
        let asked = Asked::new(&request, app);
        buffer.advance(head);
        let body = buffer.split_to(body).freeze();
        let outcome = tokio::select! {
            biased;
            outcome = answer(app, asked, body) => outcome,
            () = leaving(stream, &mut buffer) => return None,
        };
        let is_last = has_ended || is_last();
        match outcome {
            Ok((answered, None)) => writer.answer(answered, is_last),
            Ok((answered, Some(encoding))) => writer.response(answered.respond(Some(encoding)).await, is_last).await,
            Err(error) => writer.response(error.into_response(), is_last).await,
        }
        if send(stream, writer.parts()).await.is_err() || is_last {
            return None;
        }
        has_begun = false;
        pause.as_mut().reset(Instant::now() + HEADER_TIMEOUT);
    }
}

impl Asked {
    fn new(request: &head::Infer<'_>, app: &App) -> Result<Self, ApiError> {
        let serving = app.repository.model(request.model, request.version)?;
        serving.engine.begin()?;
        let kind = BodyKind::of(request.content_type, request.header_length)?;
        let encoding = request.accept_encoding.and_then(|accepted| Encoding::accepted(str::from_utf8(accepted).ok()?));
        Ok(Self { serving, kind, encoding })
    }
}

/// The answer, and how it is to be compressed.
async fn answer(
    app: &App,
    asked: Result<Asked, ApiError>,
    body: Bytes,
) -> Result<(Answered, Option<Encoding>), ApiError> {
    let Asked { serving, kind, encoding } = asked?;
    let body = body::hold(body, &app.budget)?;
    let answered = infer::answer(app, &serving, kind, body, &Watch::default()).await?;
    let is_worth_it = answered.reply.is_worth_compressing();
    Ok((answered, encoding.filter(|_| is_worth_it)))
}

/// Waits until the client has gone. What it sends meanwhile is its next request.
async fn leaving(stream: &TcpStream, buffer: &mut BytesMut) {
    while buffer.len() < MAX_REQUEST {
        if stream.readable().await.is_err() {
            return;
        }
        buffer.reserve(MAX_REQUEST - buffer.len());
        match stream.try_read_buf(buffer) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
    pending::<()>().await;
}

/// Sends head and body, nearly always by one call of the system.
async fn send(stream: &mut TcpStream, (head, body): (&[u8], &[u8])) -> io::Result<()> {
    let mut rest = Buf::chain(head, body);
    match stream.try_write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
        Ok(written) => rest.advance(written),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    if rest.has_remaining() {
        timeout(SEND_TIMEOUT, stream.write_all_buf(&mut rest)).await??;
    }
    Ok(())
}
