//! Fetches one page from one pod, with every limit on: the pod runs a user's image and may be hostile.
//!
//! A pod's connection is kept from one scrape to the next, since a new one for each would leave twenty times as many behind in
//! the kernels and firewalls between. What is kept is the bare socket: ten thousand HTTP clients that wait, each with its
//! buffers, would be most of the operator's memory.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{CONTENT_ENCODING, HOST, HeaderMap, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::store::Target;

/// Longest page in bytes.
pub const BODY_LIMIT: usize = 1 << 20;
/// Most header lines of an answer.
const HEADER_LIMIT: usize = 32;
/// Longest head of an answer in bytes.
const HEAD_LIMIT: usize = 16 << 10;
/// Read at once: more than a usual page with its head, so that it takes one call of the kernel.
const READ_SIZE: usize = 16 << 10;

/// A client that only ever asks for `http://<pod address>:<metrics port>/metrics`.
#[derive(Debug, Clone)]
pub struct MetricsClient {
    http: http1::Builder,
    timeout: Duration,
}

/// The connection of one pod between two scrapes, if there is one.
#[derive(Debug, Default)]
pub struct Kept(Option<(SocketAddr, TcpStream)>);

/// Why a page could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection within the limit.
    #[error("no connection to {address}; is the pod's metrics port open to the operator (NetworkPolicy)?")]
    Connect {
        /// The address that was dialled.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// No complete answer within the limit.
    #[error("no complete answer from {address} in time; is the server overloaded, or a NetworkPolicy in the way?")]
    Timeout {
        /// The address that was dialled.
        address: SocketAddr,
    },
    /// Another status than 200; redirects are not followed.
    #[error("{address} answered with status {status}, expected 200")]
    Status {
        /// The address that was dialled.
        address: SocketAddr,
        /// The status.
        status: u16,
    },
    /// A compressed answer, which nobody asked for and which could be a bomb.
    #[error("{address} answered with a compressed page that was not asked for")]
    Encoded {
        /// The address that was dialled.
        address: SocketAddr,
    },
    /// The page is longer than [`BODY_LIMIT`].
    #[error("the page of {address} is longer than {BODY_LIMIT} bytes")]
    TooLarge {
        /// The address that was dialled.
        address: SocketAddr,
    },
    /// The connection broke, or what came over it was no HTTP.
    #[error("the answer of {address} broke off or was no HTTP")]
    Broken {
        /// The address that was dialled.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl MetricsClient {
    /// A client whose requests end after `timeout`, the body included.
    pub fn new(timeout: Duration) -> Self {
        let mut http = http1::Builder::new();
        http.max_headers(HEADER_LIMIT).max_header_size(HEAD_LIMIT).read_buf_exact_size(Some(READ_SIZE));
        Self { http, timeout }
    }

    /// The page of a pod, over the connection that was kept, if it still serves.
    ///
    /// # Errors
    /// Says what kept the page from being read; never waits longer than the timeout.
    pub async fn fetch(&self, target: &Target, kept: &mut Kept) -> Result<Bytes, FetchError> {
        let address = SocketAddr::new(target.address, target.port);
        let fetched = tokio::time::timeout(self.timeout, async {
            if let Some(stream) = kept.take(address) {
                match self.ask(stream, address, kept).await {
                    // The server may have given the connection up at the same moment; asking twice changes nothing.
                    Err(FetchError::Broken { .. }) => {}
                    answered => return answered,
                }
            }
            let connected = tokio::time::timeout(self.timeout / 2, TcpStream::connect(address)).await;
            let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            let stream = connected.map_err(|source| FetchError::Connect { address, source })?;
            let _ = stream.set_nodelay(true);
            self.ask(stream, address, kept).await
        });
        fetched.await.unwrap_or(Err(FetchError::Timeout { address }))
    }

    /// Asks once; the connection is kept where the server keeps it.
    async fn ask(&self, stream: TcpStream, address: SocketAddr, kept: &mut Kept) -> Result<Bytes, FetchError> {
        let broken = |source: hyper::Error| FetchError::Broken { address, source: source.into() };
        let (mut sender, mut connection) = self.http.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let page = {
            let mut asking = pin!(page(&mut sender, address));
            let mut open = true;
            std::future::poll_fn(|context| {
                // What the connection brings is there for the question in the same turn. Once it has ended, so does the body.
                open = open && pin!(&mut connection).poll(context).is_pending();
                asking.as_mut().poll(context)
            })
            .await?
        };
        kept.keep(address, connection).await;
        Ok(page)
    }
}

impl Kept {
    /// The connection, unless it is another address's, or the server has closed it or said something unasked.
    fn take(&mut self, address: SocketAddr) -> Option<TcpStream> {
        let (of, stream) = self.0.take()?;
        let is_silent = stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        (of == address && is_silent).then_some(stream)
    }

    /// Keeps the socket of a connection on which an answer has just ended, where the server lets it.
    async fn keep(&mut self, address: SocketAddr, mut connection: Connection<TokioIo<TcpStream>, Empty<Bytes>>) {
        let ended =
            std::future::poll_fn(|context| std::task::Poll::Ready(pin!(&mut connection).poll(context).is_ready()));
        if ended.await {
            return;
        }
        let parts = connection.into_parts();
        if parts.read_buf.is_empty() {
            self.0 = Some((address, parts.io.into_inner()));
        }
    }
}

async fn page(sender: &mut SendRequest<Empty<Bytes>>, address: SocketAddr) -> Result<Bytes, FetchError> {
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| FetchError::Broken { address, source };
    let request = Request::get("/metrics")
        .header(HOST, address.to_string())
        .header(USER_AGENT, concat!("flotilla-operator/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .map_err(|error| broken(error.into()))?;
    let response: Response<Incoming> = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status { address, status: response.status().as_u16() });
    }
    if is_encoded(response.headers()) {
        return Err(FetchError::Encoded { address });
    }
    // The length that the server claims saves reading; what it sends is counted all the same.
    if response.body().size_hint().lower() > BODY_LIMIT as u64 {
        return Err(FetchError::TooLarge { address });
    }
    let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { FetchError::TooLarge { address } } else { broken(error) }
    })?;
    Ok(body.to_bytes())
}

impl FetchError {
    /// A bounded name for metrics.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Timeout { .. } => "timeout",
            Self::Status { .. } => "status",
            Self::Encoded { .. } => "encoded",
            Self::TooLarge { .. } => "too_large",
            Self::Broken { .. } => "broken",
        }
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}
