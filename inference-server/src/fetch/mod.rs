//! Fetches a model entry from where it is kept, for a server that is to start with it. The way of a model:
//!
//! - [`uri`], [`credentials`]: what is asked for, and what opens it.
//! - [`source`]: what is there. [`bucket`], [`web`] and [`hub`] are its kinds; [`client`] and [`address`] are how they connect.
//! - [`download`]: the files, into `DESTINATION.partial`, continued where they were cut.
//! - [`digest`]: is it what was asked for? [`archive`], [`layout`]: its content as a model entry.
//! - [`receipt`]: it becomes `DESTINATION` in one step, with a note that lets a second run find nothing to do.
//!
//! [`paths`] and [`budget`] bound what others name and send; [`error`] says why not, without a secret.

pub mod address;
pub mod archive;
pub mod arguments;
pub mod bucket;
pub mod budget;
pub mod client;
pub mod credentials;
pub mod digest;
pub mod download;
pub mod error;
pub mod hub;
pub mod layout;
pub mod paths;
pub mod receipt;
pub mod source;
pub mod uri;
pub mod web;

use std::{
    collections::HashSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};

pub use error::Error;

use archive::Limits;
use budget::Budget;
use credentials::Credentials;
use download::{Area, Fetched, download};
use receipt::Receipt;
use source::{Remote, Source};
use uri::{Kind, Uri};

/// The most files of a folder, and entries of an archive.
pub const MAX_FILES: usize = 10_000;
/// Files of a folder that are fetched at the same time.
const AT_ONCE: usize = 8;

/// What to fetch, to where, within which bounds.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the model is.
    pub uri: Uri,
    /// The URI as it was written.
    pub uri_text: String,
    /// The folder that becomes the model entry.
    pub destination: PathBuf,
    /// The digest that the source has to have.
    pub sha256: Option<String>,
    /// The most bytes on the disk at any time: what is downloaded and what is unpacked.
    pub max_bytes: u64,
    /// The longest that all of it may take.
    pub timeout: Duration,
    /// What opens the source.
    pub credentials: Credentials,
}

/// Fetches the model, unless it is there.
///
/// # Errors
/// When it can't be had, or is not what was asked for. What was downloaded stays for the next run, unless it is wrong.
pub async fn fetch(request: &Request) -> Result<Receipt, Error> {
    let uri_sha256 = digest::hex(Sha256::new_with_prefix(&request.uri_text));
    if let Some(receipt) = Receipt::read(&request.destination)
        && receipt.answers(&uri_sha256, request.sha256.as_deref())
    {
        tracing::info!(sha256 = receipt.sha256, "the model is there already");
        return Ok(receipt);
    }
    let deadline = Instant::now() + request.timeout;
    let place = request.uri.to_string();
    match tokio::time::timeout(request.timeout, fetch_anew(request, &uri_sha256, deadline)).await {
        Ok(result) => result,
        Err(_) => Err(Error::TooSlow { place, limit: request.timeout }),
    }
}

async fn fetch_anew(request: &Request, uri_sha256: &str, deadline: Instant) -> Result<Receipt, Error> {
    let work = Work::prepare(&request.destination, uri_sha256)?;
    let source = Source::new(&request.uri, &request.credentials)?;
    let listed = list(&source).await?;
    let budget = Budget::new(request.max_bytes);
    let sizes = listed.iter().try_fold(0_u64, |sum, file| Some(sum.saturating_add(file.size?)));
    let place = request.uri.to_string();
    check_names(&listed, &place)?;
    tracing::info!(files = listed.len(), bytes = sizes, "fetching {place}");
    if let Some(bytes) = sizes {
        budget.check(bytes, &place)?;
    }
    let downloads = futures::stream::iter(&listed).map(|file| download(&source, file, &work.area, &budget));
    let fetched: Vec<Fetched> = tokio::select! {
        fetched = downloads.buffer_unordered(AT_ONCE).try_collect() => fetched?,
        never = budget.report(sizes) => match never {},
    };

    let sha256 = verify(&fetched, request.sha256.as_deref(), &place).inspect_err(|_| work.discard())?;
    let receipt = Receipt {
        uri_sha256: uri_sha256.to_owned(),
        sha256,
        bytes: fetched.iter().map(|file| file.size).sum(),
        files: fetched.len(),
    };
    let kind = request.uri.file_kind();
    let (destination, written) = (request.destination.clone(), receipt.clone());
    // Unpacking reads and writes for seconds to minutes, and looks at the deadline itself.
    let finished = tokio::task::spawn_blocking(move || {
        let limits = Limits { budget: &budget, deadline };
        work.finish(kind, &fetched, &place, &written, &destination, &limits)
    });
    finished.await.map_err(io::Error::other).map_err(Error::destination(&request.destination))??;
    tracing::info!(sha256 = receipt.sha256, bytes = receipt.bytes, files = receipt.files, "fetched {}", request.uri);
    Ok(receipt)
}

/// The files that there are; asked for again where that may help.
async fn list(source: &Source) -> Result<Vec<Remote>, Error> {
    let mut waits = download::waits();
    loop {
        let error = match source.list().await {
            Err(error) if error.is_transient() => error,
            other => return other,
        };
        let Some(wait) = waits.next() else { return Err(error) };
        tracing::warn!(wait_ms = wait.as_millis(), "{error}; trying again");
        tokio::time::sleep(wait).await;
    }
}

/// Two names may mean one file, as `a/b` and `a//b` do.
fn check_names(listed: &[Remote], place: &str) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for file in listed {
        let problem = match paths::confined(&file.path) {
            Ok(path) if seen.insert(path.clone()) => continue,
            Ok(_) => "is there twice",
            Err(problem) => problem,
        };
        let problem = format!("the path {:?} {problem}", file.path);
        return Err(Error::Archive { place: place.to_owned(), problem });
    }
    Ok(())
}

/// The source's digest: of the one file, or of the folder.
fn verify(fetched: &[Fetched], expected: Option<&str>, place: &str) -> Result<String, Error> {
    let found = match fetched {
        [file] if Kind::of(place).is_some() => file.sha256.clone(),
        files => digest::of_folder(files.iter().map(|file| (file.path.as_str(), file.sha256.as_str()))),
    };
    match expected {
        Some(expected) if expected != found => {
            Err(Error::Checksum { place: place.to_owned(), expected: expected.to_owned(), found })
        }
        _ => Ok(found),
    }
}

/// The folder beside the destination where everything is until it is whole.
#[derive(Debug)]
struct Work {
    folder: PathBuf,
    area: Area,
}

impl Work {
    /// With what a run for the same URI left; what others left is removed.
    fn prepare(destination: &Path, uri_sha256: &str) -> Result<Self, Error> {
        let mut folder = OsString::from(destination);
        folder.push(".partial");
        let folder = PathBuf::from(folder);
        let note = folder.join("uri");
        if fs::read_to_string(&note).ok().as_deref() != Some(uri_sha256) {
            remove(&folder)?;
            fs::create_dir_all(&folder).map_err(Error::destination(&folder))?;
            fs::write(&note, uri_sha256).map_err(Error::destination(&note))?;
        }
        // A run that was stopped while it put things into order left half of it.
        remove(&folder.join("ready"))?;
        let area = Area { files: folder.join("files"), tags: folder.join("tags") };
        Ok(Self { folder, area })
    }

    /// Wrong files are no start for the next run.
    fn discard(&self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!("{error}");
        }
    }

    /// Unpacks, puts into order and moves to the destination.
    fn finish(
        &self,
        kind: Option<Kind>,
        fetched: &[Fetched],
        place: &str,
        receipt: &Receipt,
        destination: &Path,
        limits: &Limits<'_>,
    ) -> Result<(), Error> {
        let ready = self.folder.join("ready");
        if let (Some(kind @ (Kind::Tar | Kind::TarGz)), [file]) = (kind, fetched) {
            let archive = self.area.files.join(&file.path);
            fs::create_dir(&ready).map_err(Error::destination(&ready))?;
            archive::unpack(&archive, kind, &ready, place, limits)?;
            fs::remove_file(&archive).map_err(Error::destination(archive))?;
        } else {
            fs::rename(&self.area.files, &ready).map_err(Error::destination(&ready))?;
        }
        let entry = layout::settle(&ready, place).inspect_err(|_| self.discard())?;
        receipt.write(&entry)?;
        replace(&entry, destination, &self.folder.join("replaced"))?;
        remove(&self.folder)
    }
}

/// Moves `entry` to `destination`; what is there goes away first.
fn replace(entry: &Path, destination: &Path, aside: &Path) -> Result<(), Error> {
    if destination.exists() {
        fs::rename(destination, aside).map_err(Error::destination(destination))?;
    }
    fs::rename(entry, destination).map_err(Error::destination(destination))
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::destination(folder)(error)),
        _ => Ok(()),
    }
}
