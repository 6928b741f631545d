//! HTTPS as this program speaks it: rustls, no proxy, no redirect that is not looked at, and connections to no address that
//! was not checked. Names are resolved by our own resolver, so what is checked is what is connected to.

use std::{
    fmt,
    future::Future,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header::USER_AGENT};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::timeout;
use tower::Service;
use url::{Host, Url};

use super::{
    Error,
    address::{Chosen, allowed},
    credentials::Credentials,
};

/// For a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until an answer's headers, and between two pieces of its body.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Of an error's body, which holds its code, this much is read.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// An answer whose body has not been read.
pub type Response = http::Response<Incoming>;

type Inner = Client<HttpsConnector<HttpConnector<Checked>>, Full<Bytes>>;

/// Two clients that differ in where they may connect to.
#[derive(Clone, Debug)]
pub struct Clients {
    by_user: Inner,
    by_server: Inner,
}

/// Why no answer came.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SendError {
    /// The address is one that may not be connected to.
    #[error("it has a private or reserved address, which is not connected to")]
    NotPublic,
    /// The server does not prove that it is the one asked for.
    #[error("its certificate is not accepted: {0}")]
    Untrusted(String),
    /// Anything of the network.
    #[error("{0}")]
    Transport(String),
}

impl SendError {
    /// The error of a place that can't be asked.
    pub fn into_error(self, place: impl fmt::Display) -> Error {
        let (place, problem) = (place.to_string(), self.to_string());
        match self {
            Self::NotPublic | Self::Untrusted(_) => Error::Untrusted { place, problem },
            Self::Transport(_) => Error::Unreachable { place, problem },
        }
    }
}

impl Clients {
    /// Trusts the system's certificates, Mozilla's, and those in `CA_CERTIFICATES`.
    ///
    /// # Errors
    /// When the given certificates can't be read.
    pub fn new(credentials: &Credentials) -> Result<Self, Error> {
        let tls = tls(credentials)?;
        let build = |chosen| {
            let mut tcp = HttpConnector::new_with_resolver(Checked(chosen));
            tcp.enforce_http(false);
            tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
            let tls = HttpsConnectorBuilder::new().with_tls_config(tls.clone());
            Client::builder(TokioExecutor::new()).build(tls.https_or_http().enable_http1().wrap_connector(tcp))
        };
        Ok(Self { by_user: build(Chosen::ByUser), by_server: build(Chosen::ByServer) })
    }

    /// Sends a request to where `chosen` may connect.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(
        &self,
        url: &Url,
        chosen: Chosen,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response, SendError> {
        let literal = match url.host() {
            Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
            _ => None,
        };
        // A literal address is connected to without asking the resolver.
        if literal.is_some_and(|address| !allowed(address, chosen)) {
            return Err(SendError::NotPublic);
        }
        let transport = |problem: String| SendError::Transport(problem);
        *request.uri_mut() =
            url[..url::Position::AfterQuery].parse::<Uri>().map_err(|error| transport(error.to_string()))?;
        let agent = HeaderValue::from_static(concat!("flotilla-fetch/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let client = match chosen {
            Chosen::ByUser => &self.by_user,
            Chosen::ByServer => &self.by_server,
        };
        match timeout(READ_TIMEOUT, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if cause::<NotPublic>(&error).is_some() => Err(SendError::NotPublic),
            Ok(Err(error)) => Err(match cause::<rustls::Error>(&error) {
                Some(error @ rustls::Error::InvalidCertificate(_)) => SendError::Untrusted(error.to_string()),
                _ => transport(causes(&error)),
            }),
            Err(_) => Err(transport(format!("no answer within {} s", READ_TIMEOUT.as_secs()))),
        }
    }
}

/// A body as a whole, of at most so many bytes.
///
/// # Errors
/// When it is longer, or does not arrive.
pub async fn body(response: Response, max_bytes: usize) -> Result<Bytes, SendError> {
    let collected = timeout(READ_TIMEOUT, Limited::new(response.into_body(), max_bytes).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(SendError::Transport(causes(error.as_ref()))),
        Err(_) => Err(SendError::Transport(format!("no whole answer within {} s", READ_TIMEOUT.as_secs()))),
    }
}

fn tls(credentials: &Credentials) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = credentials.get("CA_CERTIFICATES") {
        let invalid = |problem: String| Error::Credential { name: "CA_CERTIFICATES", problem };
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| invalid(format!("it is no PEM: {error}")))?;
            roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Unreachable { place: "TLS".to_owned(), problem: error.to_string() })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Resolves a name and gives the addresses that may be connected to.
#[derive(Clone, Debug)]
pub struct Checked(Chosen);

impl Service<Name> for Checked {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let chosen = self.0;
        Box::pin(async move {
            let mut found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            found.retain(|address| allowed(address.ip(), chosen));
            if found.is_empty() {
                return Err(io::Error::new(ErrorKind::PermissionDenied, NotPublic));
            }
            Ok(found.into_iter())
        })
    }
}

/// A name whose every address is one that may not be connected to.
#[derive(Debug, thiserror::Error)]
#[error("its name stands for a private or reserved address, which is not connected to")]
pub struct NotPublic;

/// An answer that is no success, without what its body says beyond a code.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("status {status}")]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The store's code, as in S3's `<Code>NoSuchBucket</Code>`; else empty.
    pub code: String,
}

impl Refusal {
    /// Reads what an unsuccessful answer says.
    pub async fn read(response: Response) -> Self {
        let status = response.status().as_u16();
        let body = body(response, MAX_ERROR_BYTES).await.unwrap_or_default();
        Self { status, code: code(&String::from_utf8_lossy(&body)) }
    }

    /// The error of a place that answers so.
    pub fn into_error(self, place: impl fmt::Display) -> Error {
        let Self { status, code } = self;
        let place = place.to_string();
        match status {
            404 | 410 => Error::NotFound { place, code },
            401 | 403 => Error::Forbidden { place, status, code },
            408 | 425 | 429 | 500.. => {
                Error::Unreachable { place, problem: format!("status {status}{}", spaced(&code)) }
            }
            // What was to be continued is another file by now.
            412 | 416 => Error::Changed { place },
            _ => Error::Refused { place, status, code },
        }
    }
}

fn spaced(code: &str) -> String {
    if code.is_empty() { String::new() } else { format!(" {code}") }
}

/// S3's code out of its XML; only letters, so that nothing else of the body gets into a message.
fn code(body: &str) -> String {
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    code.filter(|code| code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric()))
        .unwrap_or_default()
        .to_owned()
}

/// What went wrong, from the outermost error to its last cause; reqwest's own first line says little.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// The first error of this type among an error and its causes.
pub fn cause<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // An io::Error is transparent to source(), and may be what carries it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        current = inner.map_or_else(|| error.source(), |inner| Some(inner));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_code_leaves_a_body() {
        let body = "<?xml?><Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        assert_eq!(code(body), "SignatureDoesNotMatch");
        for body in ["", "<Code></Code>", "<Code>a secret!</Code>", "<Code>open", "{\"error\": \"x\"}"] {
            assert_eq!(code(body), "", "{body}");
        }
    }

    /// Whether a request is stopped before it opens a connection. (What is not stopped finds nobody at port 9.)
    async fn is_stopped(url: &str, chosen: Chosen) -> bool {
        let clients = Clients::new(&Credentials::default()).unwrap();
        let url = Url::parse(url).unwrap();
        clients.send(&url, chosen, Request::default()).await.is_err_and(|error| error == SendError::NotPublic)
    }

    #[tokio::test]
    async fn no_way_of_writing_a_private_address_gets_past() {
        // Names, and other ways to write 127.0.0.1, which a URL parser takes apart.
        for host in ["10.0.0.1", "127.1", "0x7f000001", "2130706433", "[::1]", "[::ffff:7f00:1]", "localhost"] {
            assert!(is_stopped(&format!("https://{host}:9/x"), Chosen::ByServer).await, "{host}");
        }
        assert!(is_stopped("https://169.254.169.254/latest", Chosen::ByUser).await);
        assert!(!is_stopped("https://127.0.0.1:9/x", Chosen::ByUser).await);
        assert!(!is_stopped("https://localhost:9/x", Chosen::ByUser).await);
    }
}
