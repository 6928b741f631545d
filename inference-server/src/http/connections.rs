//! The accept loop and the life of a connection: bounded in number, in age and in every wait.
//!
//! A connection that has reached its age answers its next request with `Connection: close`; one that stays idle for a little
//! longer is closed. So clients that hold connections meet new replicas, and a busy one never meets a closed door.

use std::{
    hash::{BuildHasher as _, RandomState},
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
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// How long a client may take for a request's headers, and how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an aged connection may stay idle before it is closed without having been told.
const AGED_IDLE: Duration = Duration::from_secs(3);
/// How long a request may still run on an aged connection before it is cut.
const AGED_BUSY: Duration = Duration::from_mins(5);
/// How long the loop pauses when the system gives no more connections (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a client beyond the cap gets, without costing a task.
const OVER_CAP: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
    retry-after: 1\r\ncontent-length: 53\r\n\r\n{\"error\":\"the server has its maximum of connections\"}";

/// The bounds of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most connections at one time.
    pub max_connections: usize,
    /// The age at which one is closed gracefully, give or take a tenth; none for no age.
    pub max_age: Option<Duration>,
}

/// Accepts until `stop`, then lets every connection finish its request, and returns when all are gone.
///
/// While `is_leaving` is set, every answer carries `Connection: close`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    is_leaving: impl Fn() -> bool + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() >= limits.max_connections => {
                // Best effort: a client that does not read gets a reset.
                drop(stream.try_write(OVER_CAP));
            }
            Ok((stream, peer)) => {
                let (router, is_leaving, stop) = (router.clone(), is_leaving.clone(), stop.clone());
                connections.spawn(connection(stream, peer, router, limits.max_age, is_leaving, stop));
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
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    max_age: Option<Duration>,
    is_leaving: impl Fn() -> bool + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) {
    // Answers are written at once; waiting to fill a packet would only add latency.
    drop(stream.set_nodelay(true));
    let is_aged = Arc::new(AtomicBool::new(false));
    let service = {
        let is_aged = Arc::clone(&is_aged);
        service_fn(move |request: Request<Incoming>| {
            let (router, is_leaving, is_aged) = (router.clone(), is_leaving.clone(), Arc::clone(&is_aged));
            async move {
                let mut response = router.oneshot(request.map(Body::new)).await?;
                if is_aged.load(Ordering::Acquire) || is_leaving() {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        })
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async {
            tokio::select! {
                () = age(max_age) => {
                    is_aged.store(true, Ordering::Release);
                    tokio::select! {
                        () = tokio::time::sleep(AGED_IDLE) => {}
                        () = stop.cancelled() => {}
                    }
                }
                () = stop.cancelled() => {}
            }
        } => {
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
        let limits = Limits { max_connections: 1, max_age: None };
        let server = tokio::spawn(serve(listener, Router::new(), limits, || false, stop.clone()));
        let _first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        second.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer:?}");
        stop.cancel();
        server.await.unwrap();
    }
}
