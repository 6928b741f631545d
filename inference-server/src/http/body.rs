//! Reading a request's body within bounds: of bytes for one, of bytes for all together, and of time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;

use super::error::ApiError;

/// The bounds of one body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The most bytes.
    pub bytes: usize,
    /// How long a client may take between two pieces.
    pub pause: Duration,
    /// How long a client may take for all of it.
    pub total: Duration,
}

/// The bytes of all bodies in memory together, from their first byte until the last use of them.
#[derive(Debug)]
pub struct BodyBudget {
    used: AtomicUsize,
    limit: usize,
}

/// A body's share of the budget, given back when the body's memory is.
#[derive(Debug)]
struct Share {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

/// A body and its share; slices of it keep both.
struct Held {
    bytes: Vec<u8>,
    _share: Share,
}

impl BodyLimits {
    /// A body of at most so many bytes, with the times that a slow link needs.
    pub fn new(bytes: usize) -> Self {
        Self { bytes, pause: Duration::from_secs(10), total: Duration::from_mins(2) }
    }
}

impl BodyBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// The bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}

impl Share {
    /// Takes more of the budget, if there is more.
    fn grow(&mut self, bytes: usize) -> bool {
        let limit = self.budget.limit;
        let grown = self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|used| *used <= limit)
        });
        if grown.is_ok() {
            self.bytes += bytes;
        }
        grown.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body to its end.
///
/// # Errors
/// 413 beyond the body's bytes, 429 beyond the budget, 408 beyond the time, 400 for a body that breaks off, 415 for a compressed one.
pub async fn read(
    headers: &HeaderMap,
    body: Body,
    budget: &Arc<BodyBudget>,
    limits: BodyLimits,
) -> Result<Bytes, ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the Content-Encoding {encoding:?} is not supported; send the body as it is"),
        ));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.bytes) {
        return Err(too_large(limits.bytes));
    }
    let timed_out = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time");
    tokio::time::timeout(limits.total, collect(body, announced.unwrap_or(0), budget, limits))
        .await
        .map_err(timed_out)?
}

async fn collect(
    mut body: Body,
    announced: usize,
    budget: &Arc<BodyBudget>,
    limits: BodyLimits,
) -> Result<Bytes, ApiError> {
    let mut share = Share { budget: Arc::clone(budget), bytes: 0 };
    let mut bytes = Vec::with_capacity(announced);
    loop {
        let frame = tokio::time::timeout(limits.pause, body.frame())
            .await
            .map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request's body stopped arriving"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| ApiError::bad_request(format!("the request's body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limits.bytes {
            return Err(too_large(limits.bytes));
        }
        if !share.grow(data.len()) {
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "the server holds its most bytes of requests"));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Bytes::from_owner(Held { bytes, _share: share }))
}

fn too_large(max_bytes: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request's body is larger than {max_bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll, ready},
    };

    use hyper::body::Frame;
    use tokio::time::Sleep;

    use super::*;

    /// A body of one byte at a time, without an end.
    struct Crawl {
        gap: Duration,
        next: Pin<Box<Sleep>>,
    }

    impl hyper::body::Body for Crawl {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            ready!(self.next.as_mut().poll(context));
            self.next = Box::pin(tokio::time::sleep(self.gap));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    async fn status(body: &'static [u8], budget: &Arc<BodyBudget>, max_bytes: usize) -> Result<Bytes, u16> {
        read(&HeaderMap::new(), Body::from(body), budget, BodyLimits::new(max_bytes))
            .await
            .map_err(|error| error.status.as_u16())
    }

    #[tokio::test]
    async fn a_body_is_counted_while_a_slice_of_it_lives() {
        let budget = BodyBudget::new(10);
        let first = status(b"123456", &budget, 8).await.unwrap();
        assert_eq!(budget.used(), 6);
        let slice = first.slice(2..3);
        drop(first);
        assert_eq!(status(b"123456", &budget, 8).await, Err(429));
        assert_eq!(budget.used(), 6, "a refused body gives back what it took");
        drop(slice);
        assert_eq!(budget.used(), 0);
        assert_eq!(status(b"123456789", &budget, 8).await, Err(413));
    }

    #[tokio::test]
    async fn a_compressed_body_is_refused() {
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().unwrap())]);
        let error = read(&headers, Body::from("x"), &BodyBudget::new(10), BodyLimits::new(8)).await.unwrap_err();
        assert_eq!(error.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[tokio::test]
    async fn a_body_that_stops_or_crawls_is_given_up() {
        let budget = BodyBudget::new(1000);
        let limits = BodyLimits { bytes: 1000, pause: Duration::from_millis(40), total: Duration::from_millis(200) };
        for (gap, part) in [(Duration::from_mins(1), "stopped arriving"), (Duration::from_millis(5), "in time")] {
            let pieces = Body::new(Crawl { gap, next: Box::pin(tokio::time::sleep(Duration::ZERO)) });
            let error = read(&HeaderMap::new(), pieces, &budget, limits).await.unwrap_err();
            assert_eq!(error.status, StatusCode::REQUEST_TIMEOUT);
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert_eq!(budget.used(), 0);
    }
}
