//! The accept loop and the life of a connection, of both protocols: bounded in number, in age and in every wait.
//!
//! A connection that has reached its age answers its next request with `Connection: close`, and one of gRPC says GOAWAY at once,
//! which its client follows without losing a call. A connection over HTTP that stays idle for a little longer is closed. So
//! clients that hold connections meet new replicas, and a busy one never meets a closed door.

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, header},
    response::Response,
};
use bytes::Bytes;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncReadExt as _, join},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{App, fast_path};
use crate::telemetry::Telemetry;
pub use crate::telemetry::record::Protocol;

/// How long a client may take for a request's headers, and how long a connection may be idle.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an aged connection may stay idle before it is closed without having been told.
const AGED_IDLE: Duration = Duration::from_secs(3);
/// How long a request may still run on an aged connection before it is cut.
const AGED_BUSY: Duration = Duration::from_mins(5);
/// How long the loop pauses when the system gives no more connections (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The most bytes of a request's headers, over gRPC; over HTTP they share this much with what is read ahead of the body.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
const READ_BUFFER: usize = 128 * 1024;
/// The most calls at the same time on one connection of gRPC; a client opens a second one, or waits.
const MAX_STREAMS: u32 = 256;
/// What a client of gRPC may send ahead of its being read: for one call, and for all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A tensor of 600 kB comes in one frame instead of 37, from clients that send what they may.
const MAX_FRAME: u32 = 1 << 20;
/// What waits to be sent on one call of gRPC.
const SEND_BUFFER: usize = 1 << 20;
/// Calls that a client began and took back before they were looked at; a client that does only that is cut off.
const MAX_PENDING_RESETS: usize = 20;
/// Streams that were reset for a client's errors; the same.
const MAX_ERROR_RESETS: usize = 100;
/// A quiet connection of gRPC is asked whether it still is one, and may take so long to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client beyond the cap gets, without costing a task.
const OVER_CAP: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
    retry-after: 1\r\ncontent-length: 53\r\n\r\n{\"error\":\"the server has its maximum of connections\"}";

/// The bounds of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What is spoken.
    pub protocol: Protocol,
    /// The most connections at one time.
    pub max_connections: usize,
    /// The age at which one is closed gracefully, give or take a tenth; none for no age.
    pub max_age: Option<Duration>,
}

/// What answers the requests of a listener.
#[derive(Clone)]
pub struct Service {
    router: Router,
    /// Whose plain requests need no router.
    plain: Option<Arc<App>>,
}

impl Service {
    /// Everything by the router, but for requests that are plain inferences over HTTP.
    pub fn with_fast_path(router: Router, app: Arc<App>) -> Self {
        Self { router, plain: Some(app) }
    }
}

impl From<Router> for Service {
    fn from(router: Router) -> Self {
        Self { router, plain: None }
    }
}

/// What a connection's requests and its end tell each other.
#[derive(Debug, Default)]
struct End {
    /// The next answer is the last one.
    is_near: AtomicBool,
    /// The last answer has been given.
    has_come: Notify,
}

/// Accepts until `stop`, then lets every connection finish its request, and returns when all are gone.
///
/// While `is_leaving` is set, every answer is the last one of its connection.
pub async fn serve(
    listener: TcpListener,
    service: impl Into<Service>,
    limits: Limits,
    telemetry: Arc<Telemetry>,
    is_leaving: impl Fn() -> bool + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let (connections, service) = (TaskTracker::new(), service.into());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() >= limits.max_connections => {
                // Best effort: a client that does not read gets a reset, and one of gRPC understands nothing else.
                if limits.protocol == Protocol::Http {
                    drop(stream.try_write(OVER_CAP));
                }
            }
            Ok((stream, peer)) => {
                let (service, is_leaving, stop) = (service.clone(), is_leaving.clone(), stop.clone());
                let telemetry = Arc::clone(&telemetry);
                connections.spawn(connection(stream, peer, service, limits, telemetry, is_leaving, stop));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(
    mut stream: TcpStream,
    peer: SocketAddr,
    Service { router, plain }: Service,
    limits: Limits,
    telemetry: Arc<Telemetry>,
    is_leaving: impl Fn() -> bool + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) {
    // Answers are written at once; waiting to fill a packet would only add latency.
    drop(stream.set_nodelay(true));
    let end = Arc::new(End::default());
    let mut is_over = pin!(until_end(&end, limits, stop.clone()));
    let mut read = Bytes::new();
    if let Some(app) = plain.filter(|_| limits.protocol == Protocol::Http && telemetry.is_off()) {
        let is_last = || end.is_near.load(Ordering::Acquire) || is_leaving() || stop.is_cancelled();
        match fast_path::serve(&mut stream, &app, is_last, is_over.as_mut()).await {
            Some(rest) => read = rest,
            None => return,
        }
    }
    let service = {
        let end = Arc::clone(&end);
        service_fn(move |mut request: Request<Incoming>| {
            let watch = telemetry.watch(limits.protocol, peer, &mut request);
            let (router, is_leaving, end) = (router.clone(), is_leaving.clone(), Arc::clone(&end));
            async move {
                let mut response = router.oneshot(request.map(Body::new)).await?;
                watch.end(&mut response);
                if end.is_near.load(Ordering::Acquire) || is_leaving() {
                    say_last(&mut response, limits.protocol, &end);
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    match limits.protocol {
        Protocol::Http => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(READ_BUFFER);
            let (rest, answers) = stream.into_split();
            let stream = join(io::Cursor::new(read).chain(rest), answers);
            drive(builder.serve_connection(TokioIo::new(stream), service), is_over, peer).await;
        }
        Protocol::Grpc => {
            // The library waits for a first byte without end.
            if tokio::time::timeout(HEADER_TIMEOUT, stream.readable()).await.is_err() {
                return;
            }
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(MAX_HEADER_BYTES)
                .max_frame_size(MAX_FRAME)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
                .max_local_error_reset_streams(MAX_ERROR_RESETS)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT);
            drive(builder.serve_connection(TokioIo::new(stream), service), is_over, peer).await;
        }
    }
}

/// Tells the client that this answer is the last one here.
fn say_last(response: &mut Response, protocol: Protocol, end: &End) {
    match protocol {
        Protocol::Http => {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Protocol::Grpc => end.has_come.notify_one(),
    }
}

/// Waits until the connection should take no more requests.
async fn until_end(end: &End, limits: Limits, stop: CancellationToken) {
    let old_enough = async {
        age(limits.max_age).await;
        end.is_near.store(true, Ordering::Release);
        if limits.protocol == Protocol::Http {
            tokio::time::sleep(AGED_IDLE).await;
        }
    };
    tokio::select! {
        () = old_enough => {}
        () = end.has_come.notified() => {}
        () = stop.cancelled() => {}
    }
}

/// Serves a connection until its client ends it, or gracefully until `end`.
async fn drive<C>(connection: C, end: impl Future<Output = ()>, peer: SocketAddr)
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = end => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(AGED_BUSY, connection).await {
                Ok(result) => result,
                Err(_) => return tracing::warn!(%peer, "a request ran longer than its connection may"),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection ended with an error");
    }
}

/// Waits for the age, moved by up to a tenth either way so that connections made together do not end together.
async fn age(max_age: Option<Duration>) {
    match max_age {
        Some(max_age) => {
            let random = u32::try_from(RandomState::new().hash_one(0) % 2001).unwrap_or(1000);
            tokio::time::sleep(max_age * (9000 + random) / 10_000).await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_s_length_is_right() {
        let text = std::str::from_utf8(OVER_CAP).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }

    #[tokio::test]
    async fn a_client_beyond_the_cap_is_told() {
        use tokio::io::AsyncReadExt as _;

        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let limits = Limits { protocol: Protocol::Http, max_connections: 1, max_age: None };
        let server = tokio::spawn(serve(listener, Router::new(), limits, Arc::default(), || false, stop.clone()));
        let _first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        second.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer:?}");
        stop.cancel();
        server.await.unwrap();
    }
}
