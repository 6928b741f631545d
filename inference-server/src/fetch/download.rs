//! One file onto the disk: continued where it was cut, in this run or in one before, with waits that grow between attempts.
//!
//! Beside a partial file lies its tag, as the list of files had it and as the answer had it, for they need not be the same.
//! Without one, or where the source has another by now, the file is begun again.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, OpenOptions},
    io::AsyncWriteExt as _,
    time::timeout,
};

use super::{
    Error,
    budget::Budget,
    client::READ_TIMEOUT,
    digest,
    paths::confined,
    source::{Opened, Remote, Source},
};

/// Attempts in a row that may bring nothing; one that brings something starts the count again.
const BARREN_ATTEMPTS: usize = 6;

/// A file that is there as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fetched {
    /// Its path below the folder.
    pub path: String,
    /// Its size.
    pub size: u64,
    /// Its digest.
    pub sha256: String,
}

/// The waits between attempts: about 1, 2, 4, 8, 16 s, each longer by a random part.
pub fn waits() -> impl Iterator<Item = Duration> {
    let waits = ExponentialBuilder::new().with_jitter().with_min_delay(Duration::from_secs(1));
    waits.with_max_delay(Duration::from_secs(30)).with_max_times(BARREN_ATTEMPTS - 1).build()
}

/// Where partial files and their tags are.
#[derive(Clone, Debug)]
pub struct Area {
    /// The files, by the paths that they have in the source.
    pub files: PathBuf,
    /// Their tags, by the same paths.
    pub tags: PathBuf,
}

struct Download<'a> {
    source: &'a Source,
    remote: &'a Remote,
    budget: &'a Budget,
    file: PathBuf,
    tag_file: PathBuf,
    tag: Option<String>,
    /// Bytes on disk, and their hash.
    have: u64,
    hash: Sha256,
}

/// Downloads a file, or what is missing of it.
///
/// # Errors
/// When it can't be had, after the attempts that make sense; what came stays for the next run.
pub async fn download(source: &Source, remote: &Remote, area: &Area, budget: &Budget) -> Result<Fetched, Error> {
    let path = confined(&remote.path)
        .map_err(|problem| Error::Archive { place: remote.path.clone(), problem: format!("its path {problem}") })?;
    let mut download = Download::begin(source, remote, budget, area.files.join(&path), area.tags.join(&path)).await?;
    let mut remaining = waits();
    loop {
        let before = download.have;
        let error = match download.attempt().await {
            Ok(()) => break,
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        if download.have > before {
            remaining = waits();
        }
        let Some(wait) = remaining.next() else { return Err(error) };
        tracing::warn!(file = remote.path, bytes = download.have, wait_ms = wait.as_millis(), "{error}; trying again");
        tokio::time::sleep(wait).await;
    }
    let fetched =
        Fetched { path: remote.path.clone(), size: download.have, sha256: digest::hex(download.hash.clone()) };
    if let Some(expected) = remote.sha256.as_ref().filter(|expected| **expected != fetched.sha256) {
        download.start_again().await?;
        return Err(Error::Checksum { place: fetched.path, expected: expected.clone(), found: fetched.sha256 });
    }
    Ok(fetched)
}

impl<'a> Download<'a> {
    /// With what an earlier run left, as far as it can be trusted.
    async fn begin(
        source: &'a Source,
        remote: &'a Remote,
        budget: &'a Budget,
        file: PathBuf,
        tag_file: PathBuf,
    ) -> Result<Self, Error> {
        for folder in [&file, &tag_file].into_iter().filter_map(|path| path.parent()) {
            fs::create_dir_all(folder).await.map_err(Error::destination(folder))?;
        }
        let tags = fs::read_to_string(&tag_file).await.unwrap_or_default();
        let tag = tags.split_once('\n').filter(|(listed, _)| *listed == remote.tag.as_deref().unwrap_or_default());
        let tag = tag.map(|(_, tag)| tag.to_owned());
        let mut download = Self { source, remote, budget, file, tag_file, tag, have: 0, hash: Sha256::new() };
        let on_disk = fs::metadata(&download.file).await.map(|meta| meta.len()).unwrap_or_default();
        if download.tag.is_some() && on_disk > 0 && remote.size.is_none_or(|size| on_disk <= size) {
            budget.take(on_disk, &remote.path)?;
            let (path, bytes) = (download.file.clone(), on_disk);
            let hashed = tokio::task::spawn_blocking(move || digest::of_start(&path, bytes)).await;
            download.hash = hashed.map_err(io::Error::other).flatten().map_err(Error::destination(&download.file))?;
            download.have = on_disk;
            tracing::info!(file = remote.path, bytes = on_disk, "continuing");
        } else {
            download.start_again().await?;
        }
        Ok(download)
    }

    /// Until the file's end, or the first error.
    async fn attempt(&mut self) -> Result<(), Error> {
        if self.have > 0 && self.remote.size == Some(self.have) {
            return Ok(());
        }
        let opened = match self.source.open(self.remote, self.have, self.tag.as_deref()).await {
            Err(error @ Error::Changed { .. }) => {
                self.start_again().await?;
                return Err(error);
            }
            other => other?,
        };
        if opened.offset != self.have {
            self.start_again().await?;
        }
        self.keep_tag(&opened).await?;
        let size = opened.size;
        if let Some(size) = size {
            self.budget.check(size, &self.remote.path)?;
        }
        self.write(opened).await?;
        match size {
            Some(size) if self.have < size => {
                Err(self.unreachable(format!("it ended after {} of {size} bytes", self.have)))
            }
            Some(size) if self.have > size => {
                self.start_again().await?;
                Err(self.unreachable(format!("it sent more than the {size} bytes that it announced")))
            }
            _ => Ok(()),
        }
    }

    async fn write(&mut self, opened: Opened) -> Result<(), Error> {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&self.file).await;
        let mut file = file.map_err(Error::destination(&self.file))?;
        let mut body = opened.body;
        let result = loop {
            let piece = match timeout(READ_TIMEOUT, body.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => break Err(error),
                Ok(None) => break Ok(()),
                Err(_) => break Err(self.unreachable(format!("nothing came for {} s", READ_TIMEOUT.as_secs()))),
            };
            let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            self.budget.take(bytes, &self.remote.path)?;
            file.write_all(&piece).await.map_err(Error::destination(&self.file))?;
            self.hash.update(&piece);
            self.have += bytes;
        };
        file.flush().await.map_err(Error::destination(&self.file))?;
        result
    }

    /// The tag is on disk before the first byte, so that no byte is taken for one of another file.
    async fn keep_tag(&mut self, opened: &Opened) -> Result<(), Error> {
        if self.tag == opened.tag {
            return Ok(());
        }
        self.tag.clone_from(&opened.tag);
        match &self.tag {
            Some(tag) => {
                let tags = format!("{}\n{tag}", self.remote.tag.as_deref().unwrap_or_default());
                fs::write(&self.tag_file, tags).await.map_err(Error::destination(&self.tag_file))
            }
            None => remove(&self.tag_file).await,
        }
    }

    async fn start_again(&mut self) -> Result<(), Error> {
        self.budget.give(self.have);
        (self.have, self.hash, self.tag) = (0, Sha256::new(), None);
        remove(&self.tag_file).await?;
        remove(&self.file).await
    }

    fn unreachable(&self, problem: String) -> Error {
        Error::Unreachable { place: self.remote.path.clone(), problem }
    }
}

async fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::destination(path)(error)),
        _ => Ok(()),
    }
}
