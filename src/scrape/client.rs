//! Fetches one page from one pod, with every limit on: the pod runs a user's image and may be hostile.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use reqwest::redirect::Policy;

use super::store::Target;

/// Longest page in bytes.
pub const BODY_LIMIT: usize = 1 << 20;
/// Most header lines of an answer.
const HEADER_LIMIT: usize = 32;

/// A client that only ever asks for `http://<pod address>:<metrics port>/metrics`.
#[derive(Debug, Clone)]
pub struct MetricsClient {
    http: reqwest::Client,
}

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for metrics could not be set up")]
pub struct ClientError(#[source] reqwest::Error);

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
        source: reqwest::Error,
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
        source: reqwest::Error,
    },
}

impl MetricsClient {
    /// A client whose requests end after `timeout`, the body included.
    ///
    /// # Errors
    /// When the HTTP client can't be set up.
    pub fn new(timeout: Duration) -> Result<Self, ClientError> {
        let builder = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .referer(false)
            .http1_only()
            .http1_max_headers(HEADER_LIMIT)
            .connect_timeout(timeout / 2)
            .timeout(timeout)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(15))
            .user_agent(concat!("flotilla-operator/", env!("CARGO_PKG_VERSION")));
        Ok(Self { http: builder.build().map_err(ClientError)? })
    }

    /// The page of a pod.
    ///
    /// # Errors
    /// Says what kept the page from being read; never waits longer than the timeout.
    pub async fn fetch(&self, target: &Target) -> Result<Vec<u8>, FetchError> {
        let address = SocketAddr::new(target.address, target.port);
        let failed = |source| FetchError::from_reqwest(address, source);
        let mut response = self.http.get(format!("http://{address}/metrics")).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status { address, status: response.status().as_u16() });
        }
        if is_encoded(response.headers()) {
            return Err(FetchError::Encoded { address });
        }
        // The length that the server claims saves reading; what it sends is counted all the same.
        if response.content_length().is_some_and(|length| length > BODY_LIMIT as u64) {
            return Err(FetchError::TooLarge { address });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(FetchError::TooLarge { address });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

impl FetchError {
    fn from_reqwest(address: SocketAddr, source: reqwest::Error) -> Self {
        if source.is_connect() {
            Self::Connect { address, source: source.without_url() }
        } else if source.is_timeout() {
            Self::Timeout { address }
        } else {
            Self::Broken { address, source: source.without_url() }
        }
    }

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
