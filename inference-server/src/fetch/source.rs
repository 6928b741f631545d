//! The three kinds of source behind one face: what is there, and its bytes.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::stream::BoxStream;
use http::HeaderValue;
use url::Url;

use super::{Error, bucket::Bucket, client::Clients, credentials::Credentials, hub::Hub, uri::Uri, web::Web};

/// A file of a source.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Remote {
    /// Its path below what the URI names; its own name for a single file.
    pub path: String,
    /// Its size, where that is known before it is opened.
    pub size: Option<u64>,
    /// What changes when its content does, where that is known before it is opened.
    pub tag: Option<String>,
    /// Its digest, where the source vouches for one.
    pub sha256: Option<String>,
}

/// A file's bytes, as they arrive.
pub struct Opened {
    /// Where they begin: where they were asked from, or 0 where the source can't continue.
    pub offset: u64,
    /// The whole file's size.
    pub size: Option<u64>,
    /// What changes when the content does; none where the file can't be continued later.
    pub tag: Option<String>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, Error>>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("offset", &self.offset).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Where files come from.
#[derive(Debug)]
pub enum Source {
    /// S3 or GCS.
    Bucket(Bucket),
    /// One file over HTTPS.
    Web(Web, Url),
    /// A Hugging Face repository.
    Hub(Hub),
}

impl Source {
    /// The source of a URI, with the credentials that fit its scheme.
    ///
    /// # Errors
    /// When a credential can't be used.
    pub fn new(uri: &Uri, credentials: &Credentials) -> Result<Self, Error> {
        let clients = Clients::new(credentials)?;
        Ok(match uri {
            Uri::Bucket { store, bucket, key } => Self::Bucket(Bucket::new(*store, bucket, key, clients, credentials)?),
            Uri::Web(url) => Self::Web(Web::new(clients, web_authorization(credentials)?), url.clone()),
            Uri::Hub { repository, revision, path } => {
                let token = credentials.get("HF_TOKEN").map(|token| bearer("HF_TOKEN", token)).transpose()?;
                Self::Hub(Hub::new(repository, revision, path, Web::new(clients, token), credentials)?)
            }
        })
    }

    /// The files that there are, in no order; of a source that names one file, that file.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn list(&self) -> Result<Vec<Remote>, Error> {
        match self {
            Self::Bucket(bucket) => bucket.list().await,
            Self::Web(_, url) => {
                let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
                Ok(vec![Remote { path: name.to_owned(), ..Remote::default() }])
            }
            Self::Hub(hub) => hub.list().await,
        }
    }

    /// Opens a file, from an offset on where its tag is still the given one.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn open(&self, file: &Remote, from: u64, tag: Option<&str>) -> Result<Opened, Error> {
        match self {
            Self::Bucket(bucket) => bucket.open(file, from, tag).await,
            Self::Web(web, url) => web.open(url, file, from, tag).await,
            Self::Hub(hub) => hub.open(file, from, tag).await,
        }
    }
}

fn web_authorization(credentials: &Credentials) -> Result<Option<HeaderValue>, Error> {
    match (credentials.get("HTTPS_TOKEN"), credentials.get("HTTPS_USERNAME"), credentials.get("HTTPS_PASSWORD")) {
        (Some(token), ..) => bearer("HTTPS_TOKEN", token).map(Some),
        (None, Some(user), password) => {
            let pair = BASE64_STANDARD.encode(format!("{user}:{}", password.unwrap_or_default()));
            secret("HTTPS_PASSWORD", &format!("Basic {pair}")).map(Some)
        }
        _ => Ok(None),
    }
}

fn bearer(name: &'static str, token: &str) -> Result<HeaderValue, Error> {
    secret(name, &format!("Bearer {token}"))
}

/// A header that logs don't show.
fn secret(name: &'static str, value: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::Credential { name, problem: "it holds characters that no header may".to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}
