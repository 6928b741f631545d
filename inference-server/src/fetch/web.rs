//! Files over plain HTTPS, with redirects that are looked at one by one.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, LOCATION, RANGE},
};
use http_body_util::BodyExt as _;
use url::Url;

use super::{
    Error,
    address::Chosen,
    client::{Clients, Refusal, Response, SendError, body, causes},
    source::{Opened, Remote},
};

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// A server that files are asked of.
#[derive(Clone, Debug)]
pub struct Web {
    clients: Clients,
    authorization: Option<HeaderValue>,
}

impl Web {
    /// Sends `authorization` to the server that the user named, and to no other.
    pub fn new(clients: Clients, authorization: Option<HeaderValue>) -> Self {
        Self { clients, authorization }
    }

    /// Opens a file, from an offset on where the server has the same file still.
    ///
    /// # Errors
    /// When it can't be had.
    pub async fn open(&self, url: &Url, file: &Remote, from: u64, tag: Option<&str>) -> Result<Opened, Error> {
        let mut headers = HeaderMap::new();
        // A file is wanted as it is: lengths and digests are about it.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(tag) = tag.filter(|_| from > 0)
            && let (Ok(range), Ok(tag)) = (format!("bytes={from}-").parse(), tag.parse())
        {
            headers.insert(RANGE, range);
            headers.insert(IF_RANGE, tag);
        }
        let place = shown(url);
        let response = match self.get(url, headers).await {
            Ok(response) => response,
            // Nothing is left to send, because all of it was sent before.
            Err(Answer::Status(response))
                if response.status() == StatusCode::RANGE_NOT_SATISFIABLE
                    && total(response.headers()) == Some(from) =>
            {
                return Ok(Opened {
                    offset: from,
                    size: Some(from),
                    tag: tag.map(str::to_owned),
                    body: futures::stream::empty().boxed(),
                });
            }
            Err(Answer::Status(response)) => return Err(Refusal::read(*response).await.into_error(&place)),
            Err(Answer::Error(error)) => return Err(error),
        };
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let offset = if partial { start(response.headers()).unwrap_or(u64::MAX) } else { 0 };
        if partial && offset != from {
            return Err(Error::Unreachable {
                place,
                problem: "it answers with another range than asked for".to_owned(),
            });
        }
        let size = if partial { total(response.headers()) } else { number(response.headers(), &CONTENT_LENGTH) };
        let tag = text(response.headers(), &ETAG).filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
        let body = response.into_body().into_data_stream();
        let body = body.map_err(move |error| Error::Unreachable { place: place.clone(), problem: causes(&error) });
        Ok(Opened { offset, size: size.or(file.size), tag, body: body.boxed() })
    }

    /// A small page as bytes, and its headers.
    ///
    /// # Errors
    /// When it can't be had, or has more than `max_bytes`.
    pub async fn page(&self, url: &Url, max_bytes: usize) -> Result<(Bytes, HeaderMap), Error> {
        let place = shown(url);
        let response = match self.get(url, HeaderMap::new()).await {
            Ok(response) => response,
            Err(Answer::Status(response)) => return Err(Refusal::read(*response).await.into_error(place)),
            Err(Answer::Error(error)) => return Err(error),
        };
        let headers = response.headers().clone();
        let page = body(response, max_bytes).await;
        let page = page.map_err(|error| error.into_error(place))?;
        Ok((page, headers))
    }

    /// Follows redirects by hand, because each may lead somewhere that it should not.
    async fn get(&self, url: &Url, headers: HeaderMap) -> Result<Response, Answer> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let chosen = if at.origin() == url.origin() { Chosen::ByUser } else { Chosen::ByServer };
            let refused = |problem| Error::Redirect { place: shown(url), target: origin(&at), problem };
            let mut request = Request::default();
            *request.headers_mut() = headers.clone();
            if let Some(authorization) = self.authorization.clone().filter(|_| chosen == Chosen::ByUser) {
                request.headers_mut().insert(AUTHORIZATION, authorization);
            }
            let response = match self.clients.send(&at, chosen, request).await {
                Ok(response) => response,
                Err(SendError::NotPublic) if chosen == Chosen::ByServer => {
                    return Err(refused("a private or reserved address").into());
                }
                Err(error) => return Err(error.into_error(shown(&at)).into()),
            };
            if response.status().is_success() {
                return Ok(response);
            }
            let next = response.status().is_redirection().then(|| text(response.headers(), &LOCATION)).flatten();
            let Some(next) = next.and_then(|location| at.join(location).ok()) else {
                return Err(Answer::Status(Box::new(response)));
            };
            if next.scheme() != "https" && next.scheme() != url.scheme() {
                return Err(Error::Redirect {
                    place: shown(url),
                    target: origin(&next),
                    problem: "without encryption",
                }
                .into());
            }
            at = next;
        }
        Err(Error::Redirect { place: shown(url), target: origin(&at), problem: "the sixth redirect in a row" }.into())
    }
}

/// What is no success.
enum Answer {
    Status(Box<Response>),
    Error(Error),
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// A URL without its query, which may hold a signature.
pub fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

/// A redirect's target is somebody else's text: its origin has to do.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// M of `Content-Range: bytes N-…/M` and of `bytes */M`.
fn total(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok()
}

/// N of `Content-Range: bytes N-…/M`.
fn start(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
