//! Hugging Face repositories, by the hub's plain HTTPS API: the commit behind a revision, its list of files, the files.

use http::{HeaderMap, header::LINK};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::OnceCell;
use url::Url;

use super::{
    Error, MAX_FILES,
    credentials::Credentials,
    source::{Opened, Remote},
    uri::Kind,
    web::{Web, shown},
};

const ENDPOINT: &str = "https://huggingface.co";
/// One page of a list.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// A repository at a revision.
#[derive(Debug)]
pub struct Hub {
    web: Web,
    endpoint: Url,
    repository: String,
    revision: String,
    path: String,
    /// What the revision meant when it was first asked: all files are of one commit.
    commit: OnceCell<String>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: u64,
    oid: String,
    lfs: Option<LargeFile>,
}

/// A large file's id is its SHA-256.
#[derive(Deserialize)]
struct LargeFile {
    oid: String,
}

impl Hub {
    /// The repository, at the hub or at `HF_ENDPOINT`.
    ///
    /// # Errors
    /// When the endpoint is no URL.
    pub fn new(
        repository: &str,
        revision: &str,
        path: &str,
        web: Web,
        credentials: &Credentials,
    ) -> Result<Self, Error> {
        let endpoint = credentials.get("HF_ENDPOINT").unwrap_or(ENDPOINT);
        let endpoint = Url::parse(endpoint)
            .map_err(|error| Error::Credential { name: "HF_ENDPOINT", problem: error.to_string() })?;
        let (repository, revision, path) = (repository.to_owned(), revision.to_owned(), path.to_owned());
        Ok(Self { web, endpoint, repository, revision, path, commit: OnceCell::new() })
    }

    /// The files below the path; of a path that names a file, that file and the ones that hold its external data.
    ///
    /// # Errors
    /// When the repository does not answer, or has no such path.
    pub async fn list(&self) -> Result<Vec<Remote>, Error> {
        let is_file = Kind::of(&self.path).is_some();
        let folder = if is_file { self.path.rsplit_once('/').map_or("", |(folder, _)| folder) } else { &self.path };
        let mut page = Some(self.address(&["api", "models"], &["tree", self.commit().await?], folder)?);
        if let (Some(page), false) = (&mut page, is_file) {
            page.set_query(Some("recursive=true"));
        }
        let mut files = Vec::new();
        while let Some(url) = page {
            let (entries, headers): (Vec<Entry>, HeaderMap) = self.json(&url).await?;
            files.extend(
                entries
                    .into_iter()
                    .filter(|entry| entry.kind == "file")
                    .filter_map(|entry| self.remote(entry, folder, is_file)),
            );
            if files.len() > MAX_FILES {
                return Err(Error::Archive {
                    place: shown(&url),
                    problem: format!("it has more than {MAX_FILES} files"),
                });
            }
            page = next(&headers).and_then(|next| url.join(&next).ok()).filter(|next| next.origin() == url.origin());
        }
        let name = self.path.rsplit('/').next().unwrap_or_default();
        if is_file && !files.iter().any(|file| file.path == name) {
            return Err(Error::NotFound { place: self.place(), code: String::new() });
        }
        Ok(files)
    }

    /// Opens a file of the list.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn open(&self, file: &Remote, from: u64, tag: Option<&str>) -> Result<Opened, Error> {
        let folder = if Kind::of(&self.path).is_some() {
            self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
        } else {
            &self.path
        };
        let path = if folder.is_empty() { file.path.clone() } else { format!("{folder}/{}", file.path) };
        let url = self.address(&[], &["resolve", self.commit().await?], &path)?;
        self.web.open(&url, file, from, tag).await
    }

    /// As a file of ours, if it is one that is wanted.
    fn remote(&self, entry: Entry, folder: &str, is_file: bool) -> Option<Remote> {
        let below = entry.path.strip_prefix(folder)?.trim_start_matches('/').to_owned();
        // The file itself, or model.onnx_data, model.onnx.data and the like beside it.
        let wanted = !is_file || entry.path == self.path || is_data_of(&entry.path, &self.path);
        wanted.then(|| Remote {
            path: below,
            size: Some(entry.size),
            tag: Some(entry.oid),
            sha256: entry.lfs.map(|file| file.oid),
        })
    }

    async fn commit(&self) -> Result<&str, Error> {
        let commit = self.commit.get_or_try_init(|| async {
            let url = self.address(&["api", "models"], &["revision"], &self.revision)?;
            let (Revision { sha }, _) = self.json(&url).await?;
            let plain = sha.len() <= 64 && sha.chars().all(|c| c.is_ascii_hexdigit());
            plain.then_some(sha).ok_or_else(|| Error::NotFound { place: self.place(), code: "no commit".to_owned() })
        });
        commit.await.map(String::as_str)
    }

    async fn json<T: DeserializeOwned>(&self, url: &Url) -> Result<(T, HeaderMap), Error> {
        let (body, headers) = self.web.page(url, MAX_PAGE_BYTES).await?;
        let parsed = serde_json::from_slice(&body).map_err(|_| Error::Archive {
            place: shown(url),
            problem: "the answer is not what Hugging Face's API answers".to_owned(),
        })?;
        Ok((parsed, headers))
    }

    /// ENDPOINT/before/REPOSITORY/after/path.
    fn address(&self, before: &[&str], after: &[&str], path: &str) -> Result<Url, Error> {
        let mut url = self.endpoint.clone();
        let no_base = || Error::Credential { name: "HF_ENDPOINT", problem: "no path can follow it".to_owned() };
        url.path_segments_mut()
            .map_err(|()| no_base())?
            .pop_if_empty()
            .extend(before)
            .extend(self.repository.split('/'))
            .extend(after)
            .extend(path.split('/').filter(|part| !part.is_empty()));
        Ok(url)
    }

    fn place(&self) -> String {
        format!("hf://{}@{}/{}", self.repository, self.revision, self.path)
    }
}

/// Exporters put a large model's weights into a file of the graph's name and one of these endings.
fn is_data_of(path: &str, graph: &str) -> bool {
    path.strip_prefix(graph).is_some_and(|ending| ending.starts_with("_data") || ending.starts_with(".data"))
}

/// The URL of `Link: <URL>; rel="next"`.
fn next(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}
