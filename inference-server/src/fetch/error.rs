//! Why a model can't be fetched, and what to do about it. No message holds a credential, a query or a server's own text.

use std::{io, path::PathBuf, time::Duration};

use crate::failure::{Failure, Reason};

/// A failed step of a fetch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI can't be read.
    #[error("the model's URI can't be used: {problem}")]
    Uri {
        /// What is wrong with it.
        problem: String,
    },
    /// A credential or an endpoint can't be used.
    #[error("{name} can't be used: {problem}")]
    Credential {
        /// The name of the variable.
        name: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// Nothing is there.
    #[error("there is nothing at {place}{}", in_brackets(code))]
    NotFound {
        /// Where.
        place: String,
        /// The store's word for it.
        code: String,
    },
    /// The store wants other credentials.
    #[error("{place} was refused with status {status}{}", in_brackets(code))]
    Forbidden {
        /// What.
        place: String,
        /// 401 or 403.
        status: u16,
        /// The store's word for it.
        code: String,
    },
    /// The store does not take the request as it is.
    #[error("{place} was answered with status {status}{}", in_brackets(code))]
    Refused {
        /// What.
        place: String,
        /// The status.
        status: u16,
        /// The store's word for it.
        code: String,
    },
    /// A redirect that is not followed.
    #[error("{place} redirects to {target}, {problem}")]
    Redirect {
        /// What.
        place: String,
        /// Where to, without its path.
        target: String,
        /// Why it is not followed.
        problem: &'static str,
    },
    /// An address that is not connected to, or a server that does not prove that it is the one.
    #[error("{place} is not asked: {problem}")]
    Untrusted {
        /// What.
        place: String,
        /// Why not.
        problem: String,
    },
    /// No connection, or none that lasts.
    #[error("{place} can't be reached: {problem}")]
    Unreachable {
        /// What.
        place: String,
        /// Why.
        problem: String,
    },
    /// The file became another one while it was fetched.
    #[error("{place} changed while it was fetched")]
    Changed {
        /// What.
        place: String,
    },
    /// More than may be stored.
    #[error("{what} is more than the {max_bytes} bytes that may be stored")]
    TooLarge {
        /// What, with its size where it is known.
        what: String,
        /// The limit.
        max_bytes: u64,
    },
    /// It takes too long.
    #[error("fetching {place} took more than {} s", limit.as_secs())]
    TooSlow {
        /// What.
        place: String,
        /// The limit.
        limit: Duration,
    },
    /// Another content than the one asked for.
    #[error("{place} has sha256 {found}, and {expected} is asked for")]
    Checksum {
        /// What.
        place: String,
        /// What was asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A list or an archive that is not unpacked.
    #[error("{place} is not used: {problem}")]
    Archive {
        /// What.
        place: String,
        /// Why.
        problem: String,
    },
    /// What was fetched is no model entry.
    #[error("{place} was fetched and holds no model: {problem}")]
    NoModel {
        /// What.
        place: String,
        /// What was found.
        problem: String,
    },
    /// The destination can't be written.
    #[error("{} can't be written: {source}", path.display())]
    Destination {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn in_brackets(code: &str) -> String {
    if code.is_empty() { String::new() } else { format!(" ({code})") }
}

impl Error {
    /// A failure at this path of the destination.
    pub fn destination(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Destination { path, source }
    }

    /// Whether the same may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Changed { .. })
    }

    /// For the termination message.
    pub fn into_failure(self) -> Failure {
        let (reason, fix) = match &self {
            Self::Uri { .. } => (
                Reason::SourceInvalid,
                "write s3://BUCKET/KEY, gs://BUCKET/KEY, https://HOST/FILE or hf://ORGANISATION/REPOSITORY@REVISION/PATH",
            ),
            Self::Credential { .. } => (Reason::SourceInvalid, "correct the value in the Secret that secretRef names"),
            Self::NotFound { .. } => {
                (Reason::SourceNotFound, "check bucket, path and revision; a folder is named without an ending")
            }
            Self::Forbidden { .. } => (
                Reason::SourceForbidden,
                "check the credentials in the Secret that secretRef names, and that they may list and read there",
            ),
            Self::Refused { .. } => (
                Reason::SourceInvalid,
                "check the endpoint and the region (AWS_ENDPOINT_URL, AWS_REGION) in the Secret that secretRef names",
            ),
            Self::Redirect { .. } => {
                (Reason::RedirectRefused, "name the address that serves the file itself, by its own https URL")
            }
            Self::Untrusted { .. } => (
                Reason::SourceUnreachable,
                "name an address with a certificate for its name; CA_CERTIFICATES in the Secret adds an authority to trust",
            ),
            Self::Unreachable { .. } | Self::TooSlow { .. } => (
                Reason::SourceUnreachable,
                "check the address, and that network policies and firewalls let the pod out; what was fetched is kept and continued",
            ),
            Self::Changed { .. } => {
                (Reason::SourceUnreachable, "let the upload end, or name a version that does not change")
            }
            Self::TooLarge { .. } => (
                Reason::SourceTooLarge,
                "raise the limit, or name the folder that holds this model alone; an archive counts together with its content",
            ),
            Self::Checksum { .. } => (
                Reason::ChecksumMismatch,
                "if the new content is meant, write its sha256; else put the old content back",
            ),
            Self::Archive { .. } => (
                Reason::ArchiveInvalid,
                "pack the model's folder alone, plain files only: tar -czf model.tar.gz -C FOLDER .",
            ),
            Self::NoModel { .. } => (
                Reason::ModelNotFound,
                "name a folder or an archive that holds VERSION/model.onnx, or a file that ends in .onnx",
            ),
            Self::Destination { .. } => {
                (Reason::DestinationFailed, "check that the folder can be written and has room")
            }
        };
        Failure::new(reason, self.to_string(), fix)
    }
}
