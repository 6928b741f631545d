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
use crate::protocol::inflate::{Encoding, InflateError};

/// Compressed bytes that inflate in a moment; more are for a thread of their own.
pub const SMALL: usize = 16 * 1024;

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
pub struct Share {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

/// A body and its share; slices of it keep both.
struct Held {
    bytes: Bytes,
    share: Share,
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
    /// Nothing of the budget, for now.
    pub fn new(budget: &Arc<BodyBudget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Takes more of the budget, if there is more.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let limit = self.budget.limit;
        let grown = self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|used| *used <= limit)
        });
        if grown.is_ok() {
            self.bytes += bytes;
        }
        grown.is_ok()
    }

    /// Gives a part back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::AcqRel);
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

/// Reads a body to its end, and inflates it where it is compressed.
///
/// # Errors
/// 413 beyond the body's bytes, 429 beyond the budget, 408 beyond the time, 400 for a body that breaks off or can't be inflated,
/// 415 for a compression that is not known.
pub async fn read(
    headers: &HeaderMap,
    body: Body,
    budget: &Arc<BodyBudget>,
    limits: BodyLimits,
) -> Result<Bytes, ApiError> {
    let encoding = encoding(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.bytes) {
        return Err(too_large(limits.bytes));
    }
    let timed_out = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time");
    let held =
        tokio::time::timeout(limits.total, collect(body, announced, budget, limits)).await.map_err(timed_out)??;
    let held = match encoding {
        None => held,
        Some(encoding) => inflate(encoding, held, limits.bytes).await?,
    };
    Ok(Bytes::from_owner(held))
}

/// A body that is there, once the budget has room for it.
///
/// # Errors
/// 429 beyond the budget.
pub fn hold(bytes: Bytes, budget: &Arc<BodyBudget>) -> Result<Bytes, ApiError> {
    let mut share = Share::new(budget);
    if share.grow(bytes.len()) { Ok(Bytes::from_owner(Held { bytes, share })) } else { Err(over_budget()) }
}

/// A body of which nothing more has come for too long.
pub fn stopped() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request's body stopped arriving")
}

fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, ApiError> {
    let Some(value) = headers.get(header::CONTENT_ENCODING).filter(|value| *value != "identity") else {
        return Ok(None);
    };
    let known = value.to_str().ok().and_then(|name| Encoding::from_name(name.trim()));
    known.map(Some).ok_or_else(|| {
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the Content-Encoding {value:?} is not supported; send gzip, deflate or the body as it is"),
        )
    })
}

async fn collect(
    mut body: Body,
    announced: Option<usize>,
    budget: &Arc<BodyBudget>,
    limits: BodyLimits,
) -> Result<Held, ApiError> {
    let mut share = Share::new(budget);
    let mut first = Bytes::new();
    let mut all = Vec::new();
    loop {
        let frame = tokio::time::timeout(limits.pause, body.frame()).await.map_err(|_| stopped())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| ApiError::bad_request(format!("the request's body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if share.bytes + data.len() > limits.bytes {
            return Err(too_large(limits.bytes));
        }
        if !share.grow(data.len()) {
            return Err(over_budget());
        }
        // Most bodies come in one piece, which is kept as it is. Room for what is announced is taken once some of it is there.
        if share.bytes == data.len() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all.reserve_exact(announced.unwrap_or(0).max(share.bytes));
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&data);
    }
    Ok(Held { bytes: if all.is_empty() { first } else { Bytes::from(all) }, share })
}

/// Inflates a small body here, and a larger one on a thread that may take its time.
async fn inflate(encoding: Encoding, compressed: Held, limit: usize) -> Result<Held, ApiError> {
    let is_small = compressed.bytes.len() <= SMALL;
    let work = move || {
        let mut share = Share::new(&compressed.share.budget);
        let bytes = encoding.inflate(&compressed.bytes, limit, |bytes| share.grow(bytes))?;
        Ok(Held { bytes: Bytes::from(bytes), share })
    };
    let result = if is_small {
        work()
    } else {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(InflateError::Corrupt(error.to_string())))
    };
    result.map_err(|error| match error {
        InflateError::TooLarge(_) | InflateError::Bomb => {
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
        }
        InflateError::Budget => over_budget(),
        InflateError::Corrupt(_) => ApiError::bad_request(error.to_string()),
    })
}

fn over_budget() -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "the server holds its most bytes of requests")
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
    async fn a_compressed_body_is_inflated_and_counted() {
        let budget = BodyBudget::new(1 << 20);
        let compressed = async |encoding: &str, body: Vec<u8>, max_bytes: usize| {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, encoding.parse().unwrap())]);
            let result = read(&headers, Body::from(body), &budget, BodyLimits::new(max_bytes)).await;
            result.map_err(|error| error.status.as_u16())
        };
        let good = Encoding::Gzip.deflate(&vec![7; 100_000]).unwrap();
        let inflated = compressed("gzip", good.clone(), 100_000).await.unwrap();
        assert_eq!((inflated.len(), budget.used()), (100_000, 100_000));
        drop(inflated);
        assert_eq!(compressed("gzip", good.clone(), 99_999).await, Err(413));
        assert_eq!(compressed("gzip", Encoding::Gzip.deflate(&vec![0; 2 << 20]).unwrap(), 4 << 20).await, Err(429));
        assert_eq!(compressed("deflate", good.clone(), 100_000).await, Err(400));
        assert_eq!(compressed("br", good, 100_000).await, Err(415));
        assert_eq!(budget.used(), 0);
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
