//! One connection, and one request on it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::{
    answer::{WrongAnswer, check},
    plan::{Plan, Protocol, Sample},
};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The largest answer.
const LARGEST_ANSWER: usize = 256 << 20;
/// Of a window of HTTP/2, so that large messages need no more round trips than over HTTP/1.1.
const WINDOW: u32 = 8 << 20;

/// What came instead of a right answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection.
    #[error("can't connect: {0}")]
    Connect(std::io::Error),
    /// The connection broke.
    #[error("no answer: {0}")]
    Broken(#[from] hyper::Error),
    /// Too slow.
    #[error("no answer within 60 s")]
    TimedOut,
    /// Another status than 200, or gRPC's than 0.
    #[error("status {0}: {1}")]
    Status(String, String),
    /// The body could not be read.
    #[error("the answer can't be read: {0}")]
    Unreadable(String),
    /// It was not the answer that it should be.
    #[error(transparent)]
    Wrong(#[from] WrongAnswer),
}

/// A connection that is made when it is needed and again when it was closed.
#[derive(Debug)]
pub struct Connection {
    plan: Arc<Plan>,
    sender: Option<Sender>,
    /// How often it was made.
    pub made: usize,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Not made yet.
    pub fn new(plan: &Arc<Plan>) -> Self {
        Self { plan: Arc::clone(plan), sender: None, made: 0 }
    }

    /// Another user of the same connection, where it is one of HTTP/2; otherwise one that is not made yet.
    pub fn shared(&self) -> Self {
        let sender = match &self.sender {
            Some(Sender::Http2(sender)) => Some(Sender::Http2(sender.clone())),
            _ => None,
        };
        Self { plan: Arc::clone(&self.plan), sender, made: 0 }
    }

    /// Sends a request and checks its answer.
    ///
    /// # Errors
    /// There was no answer, or not the right one.
    pub async fn ask(&mut self, sample: &Sample) -> Result<(), AskError> {
        tokio::time::timeout(TIMEOUT, self.answered(sample)).await.map_err(|_| AskError::TimedOut)?
    }

    async fn answered(&mut self, sample: &Sample) -> Result<(), AskError> {
        let answer = match self.send(sample).await {
            // Closed in the moment in which the request was to be sent, so the server never saw it.
            Err(AskError::Broken(error)) if error.is_canceled() || error.is_closed() => {
                self.sender = None;
                self.send(sample).await?
            }
            other => other?,
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await;
        let body = body.map_err(|error| AskError::Unreadable(error.to_string()))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = body.to_bytes();
        if head.status != StatusCode::OK {
            return Err(AskError::Status(head.status.to_string(), beginning(&body)));
        }
        if self.plan.protocol == Protocol::Grpc {
            // An answer without a message has them in its only header.
            let field = |name| trailers.get(name).or_else(|| head.headers.get(name))?.to_str().ok();
            let status = field("grpc-status").unwrap_or("none");
            if status != "0" {
                let message = field("grpc-message").unwrap_or("no message");
                return Err(AskError::Status(format!("{status} of gRPC"), message.to_owned()));
            }
        }
        let length = head.headers.get("inference-header-content-length");
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(check(&self.plan.answer, length, body, &sample.expected, self.plan.tolerance)?)
    }

    async fn send(&mut self, sample: &Sample) -> Result<Response<Incoming>, AskError> {
        let closed = match &self.sender {
            None => true,
            Some(Sender::Http1(sender)) => sender.is_closed(),
            Some(Sender::Http2(sender)) => sender.is_closed(),
        };
        if closed {
            self.connect().await?;
        }
        let mut request = Request::new(Full::new(sample.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.plan.uri.clone();
        *request.headers_mut() = self.plan.headers.clone();
        match self.sender.as_mut() {
            Some(Sender::Http1(sender)) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Some(Sender::Http2(sender)) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            None => Err(AskError::TimedOut),
        }
    }

    /// Makes the connection.
    ///
    /// # Errors
    /// Nothing listens, or it does not speak the protocol.
    pub async fn connect(&mut self) -> Result<(), AskError> {
        let stream = TcpStream::connect(self.plan.address).await.map_err(AskError::Connect)?;
        stream.set_nodelay(true).map_err(AskError::Connect)?;
        let io = TokioIo::new(stream);
        // The tasks end with their connections; what goes wrong on one, its requests tell.
        self.sender = Some(match self.plan.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(async move { drop(connection.await) });
                Sender::Http1(sender)
            }
            Protocol::Grpc => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(WINDOW).initial_connection_window_size(2 * WINDOW);
                let (sender, connection) = builder.handshake(io).await?;
                tokio::spawn(async move { drop(connection.await) });
                Sender::Http2(sender)
            }
        });
        self.made += 1;
        Ok(())
    }
}

/// As much of a body as a message needs.
fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}
