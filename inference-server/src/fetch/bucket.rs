//! Objects in S3 and GCS, by `object_store`: it signs and lists, and asks for everything through our own HTTP client.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Full};
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
    gcp::GoogleCloudStorageBuilder,
    path::Path,
};
use url::Url;

use super::{
    Error, MAX_FILES,
    address::Chosen,
    client::{Clients, Refusal, SendError, cause, causes},
    credentials::Credentials,
    source::{Opened, Remote},
    uri::{Kind, Store, Uri},
};

/// A part of a bucket.
#[derive(Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    uri: Uri,
    key: Path,
}

impl Bucket {
    /// The store with what the credentials hold for it; without any, requests are not signed.
    ///
    /// # Errors
    /// When a credential or the endpoint can't be used.
    pub fn new(
        store: Store,
        bucket: &str,
        key: &str,
        clients: Clients,
        credentials: &Credentials,
    ) -> Result<Self, Error> {
        let connector = Connector::new(clients);
        let uri = Uri::Bucket { store, bucket: bucket.to_owned(), key: key.to_owned() };
        let key = Path::parse(key.trim_matches('/'))
            .map_err(|_| Error::Uri { problem: "its key has an empty part or one of dots alone".to_owned() })?;
        let store: Arc<dyn ObjectStore> = match store {
            Store::S3 => Arc::new(s3(bucket, connector, credentials)?),
            Store::Gs => Arc::new(gs(bucket, connector, credentials)?),
        };
        Ok(Self { store, uri, key })
    }

    /// The object that the key names by its ending, or all below it.
    ///
    /// # Errors
    /// When it can't be listed, or nothing is there.
    pub async fn list(&self) -> Result<Vec<Remote>, Error> {
        if self.uri.file_kind().is_some() {
            let meta = self.store.head(&self.key).await.map_err(|error| self.error(&error))?;
            return Ok(vec![Remote { path: self.key.filename().unwrap_or_default().to_owned(), ..remote(&meta) }]);
        }
        let mut files = Vec::new();
        let mut listed = self.store.list(Some(&self.key));
        while let Some(meta) = listed.try_next().await.map_err(|error| self.error(&error))? {
            let below = meta.location.prefix_match(&self.key).into_iter().flatten();
            let path = below.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
            files.push(Remote { path, ..remote(&meta) });
            if files.len() > MAX_FILES {
                let problem = format!("it has more than {MAX_FILES} files");
                return Err(Error::Archive { place: self.uri.to_string(), problem });
            }
        }
        // Empty objects that stand for folders, as consoles make them.
        let folders: Vec<String> = files.iter().map(|file| format!("{}/", file.path)).collect();
        let is_folder = |index: usize| files.iter().any(|other: &Remote| other.path.starts_with(&folders[index]));
        let kept = files
            .iter()
            .enumerate()
            .filter(|(index, file)| !(file.path.is_empty() || (file.size == Some(0) && is_folder(*index))));
        let kept: Vec<Remote> = kept.map(|(_, file)| file.clone()).collect();
        if kept.is_empty() {
            return Err(Error::NotFound { place: self.uri.to_string(), code: String::new() });
        }
        Ok(kept)
    }

    /// Opens an object of the list.
    ///
    /// # Errors
    /// When it can't be read, or is another one by now.
    pub async fn open(&self, file: &Remote, from: u64, tag: Option<&str>) -> Result<Opened, Error> {
        let location =
            if Kind::of(self.key.as_ref()).is_some() { self.key.clone() } else { below(&self.key, &file.path) };
        let options = GetOptions {
            range: (from > 0).then_some(GetRange::Offset(from)),
            if_match: tag.or(file.tag.as_deref()).map(str::to_owned),
            ..GetOptions::default()
        };
        let result = self.store.get_opts(&location, options).await.map_err(|error| self.error(&error))?;
        let (size, tag) = (result.meta.size, result.meta.e_tag.clone());
        let uri = self.uri.clone();
        let body = result.into_stream().map_err(move |error| to_error(&uri, &error));
        Ok(Opened { offset: from, size: Some(size), tag, body: body.boxed() })
    }

    fn error(&self, error: &object_store::Error) -> Error {
        to_error(&self.uri, error)
    }
}

fn remote(meta: &ObjectMeta) -> Remote {
    Remote { path: String::new(), size: Some(meta.size), tag: meta.e_tag.clone(), sha256: None }
}

fn below(folder: &Path, path: &str) -> Path {
    path.split('/').fold(folder.clone(), Path::join)
}

/// Our own client put its errors below `object_store`'s, which would show bodies and URLs.
fn to_error(uri: &Uri, error: &object_store::Error) -> Error {
    let place = uri.to_string();
    if let Some(refusal) = cause::<Refusal>(error) {
        return refusal.clone().into_error(place);
    }
    if let Some(error) = cause::<SendError>(error) {
        return error.clone().into_error(place);
    }
    Error::Unreachable { place, problem: "the answer is not what such a store answers".to_owned() }
}

fn s3(bucket: &str, connector: Connector, credentials: &Credentials) -> Result<object_store::aws::AmazonS3, Error> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_http_connector(connector)
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(true));
    for (name, key) in [
        ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
        ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
        ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
        ("AWS_REGION", AmazonS3ConfigKey::Region),
        ("AWS_ENDPOINT_URL", AmazonS3ConfigKey::Endpoint),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", AmazonS3ConfigKey::VirtualHostedStyleRequest),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
        ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ] {
        if let Some(value) = credentials.get(name) {
            builder = builder.with_config(key, value);
        }
    }
    check_endpoint("AWS_ENDPOINT_URL", credentials)?;
    // Else the crate would ask the node's metadata service for the node's own rights.
    let signed =
        credentials.get("AWS_ACCESS_KEY_ID").is_some() || credentials.get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some();
    builder.with_skip_signature(!signed).build().map_err(|_| Error::Credential {
        name: "AWS_SECRET_ACCESS_KEY",
        problem: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together".to_owned(),
    })
}

fn gs(
    bucket: &str,
    connector: Connector,
    credentials: &Credentials,
) -> Result<object_store::gcp::GoogleCloudStorage, Error> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_http_connector(connector)
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(true));
    if let Some(endpoint) = credentials.get("GOOGLE_ENDPOINT_URL") {
        builder = builder.with_base_url(endpoint);
    }
    check_endpoint("GOOGLE_ENDPOINT_URL", credentials)?;
    builder = match credentials.get("GOOGLE_SERVICE_ACCOUNT_KEY") {
        Some(key) => builder.with_service_account_key(key),
        // A token that is never sent: else the crate would look for credentials in files and at the metadata service.
        None => builder.with_bearer_token("none").with_skip_signature(true),
    };
    builder.build().map_err(|_| Error::Credential {
        name: "GOOGLE_SERVICE_ACCOUNT_KEY",
        problem: "it is not the JSON of a service account's key".to_owned(),
    })
}

fn check_endpoint(name: &'static str, credentials: &Credentials) -> Result<(), Error> {
    let Some(endpoint) = credentials.get(name) else { return Ok(()) };
    let url = Url::parse(endpoint).map_err(|error| Error::Credential { name, problem: error.to_string() })?;
    if url.scheme() == "http" {
        tracing::warn!(name, "the endpoint has no encryption: only a sha256 tells that the model is the one meant");
    }
    Ok(())
}

/// Retries are counted in one place, where a download is.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// Gives `object_store` our clients.
#[derive(Debug)]
pub struct Connector(Clients);

impl Connector {
    /// To be given to a store's builder.
    pub fn new(clients: Clients) -> Self {
        Self(clients)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(self.0.clone())))
    }
}

/// A request through our clients; whatever is no success is an error with its status and code alone.
#[derive(Debug)]
struct Service(Clients);

fn failed(error: SendError) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, error)
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url =
            Url::parse(&parts.uri.to_string()).map_err(|error| failed(SendError::Transport(error.to_string())))?;
        let body = body.collect().await?.to_bytes();
        let request = http::Request::from_parts(parts, Full::new(body));
        let response = self.0.send(&url, Chosen::ByUser, request).await;
        let response = response.map_err(failed)?;
        if !response.status().is_success() {
            return Err(HttpError::new(HttpErrorKind::Unknown, Refusal::read(response).await));
        }
        Ok(response
            .map(|body| HttpResponseBody::new(body.map_err(|error| failed(SendError::Transport(causes(&error)))))))
    }
}
