//! The command line and the environment of `flotilla-fetch`.

use std::{env, path::PathBuf, time::Duration};

use clap::Parser;

use super::{Error, Request, credentials::Credentials, uri::Uri};

/// Fetches a model entry into a folder, for a server to start with.
#[derive(Debug, Parser)]
#[command(name = "flotilla-fetch", version)]
pub struct Arguments {
    /// Where the model is: s3://BUCKET/KEY, gs://BUCKET/KEY, <https://HOST/FILE> or hf://ORGANISATION/REPOSITORY[@REVISION]/PATH.
    #[arg(long, env = "FLOTILLA_URI", hide_env_values = true)]
    pub uri: String,
    /// The folder that becomes the model entry; beside it, a folder with .partial after its name holds what is not whole yet.
    #[arg(long, env = "FLOTILLA_DESTINATION")]
    pub destination: PathBuf,
    /// The sha256 that the file or archive has to have, or the folder, as the README says.
    #[arg(long, env = "FLOTILLA_SHA256", value_parser = sha256)]
    pub sha256: Option<String>,
    /// The most bytes on the disk at any time, an archive and its content together.
    #[arg(long, env = "FLOTILLA_MAX_BYTES", default_value_t = 16 << 30)]
    pub max_bytes: u64,
    /// The longest that all of it may take.
    #[arg(long, env = "FLOTILLA_TIMEOUT_SECONDS", default_value_t = 3600)]
    pub timeout_seconds: u64,
    /// Accepts URIs that begin with http://.
    #[arg(long, env = "FLOTILLA_ALLOW_HTTP")]
    pub allow_http: bool,
    /// The form of the log on standard error.
    #[arg(long, env = "FLOTILLA_LOG_FORMAT", default_value = "json", value_parser = ["json", "text"])]
    pub log_format: String,
    /// What is logged, as a tracing filter.
    #[arg(long, env = "FLOTILLA_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Where the outcome goes, a failure's reason above all.
    #[arg(long, env = "FLOTILLA_TERMINATION_LOG", default_value = "/dev/termination-log")]
    pub termination_log: PathBuf,
}

impl Arguments {
    /// What they ask for, with the credentials that the environment holds.
    ///
    /// # Errors
    /// When the URI can't be used.
    pub fn request(&self) -> Result<Request, Error> {
        Ok(Request {
            uri: Uri::parse(&self.uri, self.allow_http)?,
            uri_text: self.uri.clone(),
            destination: self.destination.clone(),
            sha256: self.sha256.clone(),
            max_bytes: self.max_bytes,
            timeout: Duration::from_secs(self.timeout_seconds),
            credentials: Credentials::read(|name| env::var(name).ok()),
        })
    }
}

fn sha256(text: &str) -> Result<String, String> {
    let is_digest = text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    is_digest.then(|| text.to_ascii_lowercase()).ok_or_else(|| "it has 64 hexadecimal digits".to_owned())
}
