//! The note inside a finished model entry: what it was made of, so that a second run finds nothing to do.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::Error;

/// Its name; model servers look at folders named by numbers and at `config.pbtxt` alone.
const FILE: &str = ".flotilla-fetch.json";

/// What a model entry was made of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Receipt {
    /// Of the file as it was given, a query included, for it may choose the content; hashed, for it may hold a signature.
    pub uri_sha256: String,
    /// The source's digest: of the file or archive, or of the folder.
    pub sha256: String,
    /// Bytes that were downloaded.
    pub bytes: u64,
    /// Files that were downloaded.
    pub files: usize,
}

impl Receipt {
    /// The receipt of what is at the destination, if there is one.
    pub fn read(destination: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(destination.join(FILE)).ok()?).ok()
    }

    /// Puts it into the entry, as the last file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, entry: &Path) -> Result<(), Error> {
        let path = entry.join(FILE);
        let text = serde_json::to_vec(self).unwrap_or_default();
        fs::write(&path, text).map_err(Error::destination(path))
    }

    /// Whether it answers a request for this URI and digest.
    pub fn answers(&self, uri_sha256: &str, sha256: Option<&str>) -> bool {
        self.uri_sha256 == uri_sha256 && sha256.is_none_or(|sha256| sha256 == self.sha256)
    }
}
