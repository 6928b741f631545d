//! Where a model is, as its user wrote it.

use std::fmt;

use url::Url;

use super::Error;

/// A place that a model can be fetched from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Uri {
    /// `s3://bucket/key` or `gs://bucket/key`.
    Bucket {
        /// Which kind of store.
        store: Store,
        /// The bucket's name.
        bucket: String,
        /// A key, or a prefix of keys up to a slash; empty for the whole bucket.
        key: String,
    },
    /// `https://host/path`: one file.
    Web(Url),
    /// `hf://organisation/repository[@revision]/path`.
    Hub {
        /// `organisation/repository`.
        repository: String,
        /// A branch, tag or commit.
        revision: String,
        /// A file or folder; empty for the whole repository.
        path: String,
    },
}

/// A kind of object store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Store {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
}

/// What a name says about a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A model's graph by itself.
    Onnx,
    /// A tar archive.
    Tar,
    /// A tar archive, compressed by gzip.
    TarGz,
}

impl Kind {
    /// What a path names, if it names one file. Everything else is a folder.
    pub fn of(path: &str) -> Option<Self> {
        let name = path.to_ascii_lowercase();
        [(".onnx", Self::Onnx), (".tar", Self::Tar), (".tar.gz", Self::TarGz), (".tgz", Self::TarGz)]
            .into_iter()
            .find_map(|(ending, kind)| name.ends_with(ending).then_some(kind))
    }
}

impl Uri {
    /// Reads a URI. `http://` passes only where `allow_http` says so.
    ///
    /// # Errors
    /// [`Error::Uri`] with what is wrong and how a good one looks.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, Error> {
        let invalid = |problem: &str| Error::Uri { problem: problem.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        if scheme != "https" && scheme != "http" && rest.contains(['?', '#']) {
            return Err(invalid("it may have neither '?' nor '#'"));
        }
        match scheme {
            "s3" | "gs" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() || bucket.contains('@') {
                    return Err(invalid("a bucket's name has to follow, without credentials"));
                }
                let store = if scheme == "s3" { Store::S3 } else { Store::Gs };
                Ok(Self::Bucket { store, bucket: bucket.to_owned(), key: key.to_owned() })
            }
            "hf" => {
                let mut parts = rest.splitn(3, '/');
                let (organisation, repository, path) = (
                    parts.next().unwrap_or_default(),
                    parts.next().unwrap_or_default(),
                    parts.next().unwrap_or_default(),
                );
                let (repository, revision) = repository.split_once('@').unwrap_or((repository, "main"));
                let plain = |name: &str| {
                    let good = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
                    !name.is_empty() && name != "." && name != ".." && name.chars().all(good)
                };
                if ![organisation, repository, revision].into_iter().all(plain) {
                    return Err(invalid(
                        "organisation, repository and revision hold letters, digits, '-', '_' and '.'",
                    ));
                }
                let repository = format!("{organisation}/{repository}");
                Ok(Self::Hub { repository, revision: revision.to_owned(), path: path.trim_matches('/').to_owned() })
            }
            "https" | "http" => {
                if scheme == "http" && !allow_http {
                    return Err(invalid("http has no encryption: use https, or --allow-http where that is meant"));
                }
                let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(invalid("credentials don't belong into it"));
                }
                if Kind::of(url.path()).is_none() {
                    return Err(invalid(
                        "over https one file is fetched: its path has to end in .onnx, .tar, .tar.gz or .tgz",
                    ));
                }
                Ok(Self::Web(url))
            }
            _ => Err(invalid("its scheme is none of s3, gs, https and hf")),
        }
    }

    /// The one file that it names by its ending, or none for a folder.
    pub fn file_kind(&self) -> Option<Kind> {
        match self {
            Self::Bucket { key, .. } => Kind::of(key),
            Self::Web(url) => Kind::of(url.path()),
            Self::Hub { path, .. } => Kind::of(path),
        }
    }
}

/// Without a query, which may hold a signature.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket { store: Store::S3, bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::Bucket { store: Store::Gs, bucket, key } => write!(f, "gs://{bucket}/{key}"),
            Self::Web(url) => {
                let mut shown = url.clone();
                shown.set_query(None);
                shown.set_fragment(None);
                f.write_str(shown.as_str())
            }
            Self::Hub { repository, revision, path } => write!(f, "hf://{repository}@{revision}/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_is_read() {
        for (text, shown, kind) in [
            ("s3://models/clip/", "s3://models/clip/", None),
            ("s3://models", "s3://models/", None),
            ("gs://models/clip.tar.gz", "gs://models/clip.tar.gz", Some(Kind::TarGz)),
            ("https://example.com/m.TGZ?sig=secret#x", "https://example.com/m.TGZ", Some(Kind::TarGz)),
            ("hf://org/repo/onnx/model.onnx", "hf://org/repo@main/onnx/model.onnx", Some(Kind::Onnx)),
            ("hf://org/repo@v1.0", "hf://org/repo@v1.0/", None),
        ] {
            let uri = Uri::parse(text, false).unwrap();
            assert_eq!((uri.to_string().as_str(), uri.file_kind()), (shown, kind));
        }
    }

    #[test]
    fn what_can_not_be_fetched_says_why() {
        for (text, problem) in [
            ("models/clip", "no scheme"),
            ("ftp://host/m.onnx", "none of s3"),
            ("file:///etc/passwd", "none of s3"),
            ("s3:///key", "bucket"),
            ("s3://key:secret@bucket/x", "credentials"),
            ("s3://bucket/x?y", "'?'"),
            ("hf://repo", "organisation"),
            ("hf://org/../x", "organisation"),
            ("hf://org/repo@a b/x", "organisation"),
            ("http://host/m.onnx", "encryption"),
            ("https://user:pass@host/m.onnx", "credentials"),
            ("https://host/folder/", "end in"),
        ] {
            let error = Uri::parse(text, false).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
            assert!(!error.contains("secret") && !error.contains("pass@"), "{error}");
        }
        assert!(Uri::parse("http://host/m.onnx", true).is_ok());
    }
}
