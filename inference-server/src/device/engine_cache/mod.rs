//! What GPUs took minutes to build, kept for the next start: TensorRT's engines, and which provider Auto chose.
//!
//! ```text
//! engines/KEY/           what a build left, with manifest.json; a name without a dot is whole
//! engines/.new-KEY-…     a build that has not ended
//! engines/.bad-KEY-…     an entry that did not hold what its manifest says
//! locks/KEY              locked while an entry is built or read; several pods may share the folder
//! choices/KEY.json
//! timing/KEY/            what TensorRT learnt about kernels, for the next build of any model
//! ```
//!
//! An entry appears by one rename, is checked against its manifest before each use, and is never changed. The library's own
//! names of engines tell neither the model's weights nor its version nor TensorRT's, so our [`key::Key`] does.

mod choices;
mod evict;
pub mod key;
mod manifest;
#[cfg(test)]
mod tests;
mod timing;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use self::{key::Key, manifest::Manifest};

/// How often a lock that another process holds is tried again.
const POLL: Duration = Duration::from_millis(200);
/// Prefix of builds that have not ended.
const NEW: &str = ".new-";
/// Prefix of entries that were found wrong.
const BAD: &str = ".bad-";

/// What the file system refused.
#[derive(Debug, thiserror::Error)]
#[error("the cache at {} can't be used: {what}: {source}", path.display())]
pub struct CacheError {
    path: PathBuf,
    what: &'static str,
    source: io::Error,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    max_bytes: u64,
}

/// What the cache has for a key.
#[derive(Debug)]
pub enum Lookup {
    /// An entry, checked.
    Found(Entry),
    /// None: build into this.
    Missing(Build),
}

/// An entry in use. While it is held, nobody removes it.
#[derive(Debug)]
pub struct Entry {
    folder: PathBuf,
    _lock: Option<File>,
}

/// A folder to build into. Dropped without [`Build::commit`], it is removed.
#[derive(Debug)]
pub struct Build {
    cache: Cache,
    key: Key,
    folder: PathBuf,
    /// None where another process held the lock for longer than we would wait, or the file system knows no locks.
    lock: Option<File>,
    is_committed: bool,
}

impl Cache {
    /// Makes the folders where they are missing.
    ///
    /// # Errors
    /// When the place can't be written.
    pub fn open(root: &Path, max_bytes: u64) -> Result<Self, CacheError> {
        let cache = Self { root: root.to_path_buf(), max_bytes };
        for folder in [cache.engines(), cache.root.join("locks"), cache.choices(), cache.root.join("timing")] {
            fs::create_dir_all(&folder).map_err(|source| cache.error("a folder can't be made", source))?;
        }
        Ok(cache)
    }

    /// Looks an entry up. While another process builds it, waits for at most `patience`; after that the caller builds for
    /// itself. An entry that is not what it was is moved aside.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn find(&self, key: &Key, patience: Duration) -> Result<Lookup, CacheError> {
        let target = self.engines().join(key.digest());
        let deadline = Instant::now() + patience;
        let mut is_waiting = false;
        loop {
            let lock = self.lock_file(key)?;
            // A reader first: entries are read often and built once.
            let held = match lock.try_lock_shared() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(%error, "the cache's file system has no locks; two servers may build the same engine");
                    return match checked(&target, key) {
                        Some(folder) => Ok(Lookup::Found(Entry { folder, _lock: None })),
                        None => self.begin(key, None).map(Lookup::Missing),
                    };
                }
            };
            if held && let Some(folder) = checked(&target, key) {
                return Ok(Lookup::Found(Entry { folder, _lock: Some(lock) }));
            }
            drop(lock);
            let lock = self.lock_file(key)?;
            if lock.try_lock().is_ok() {
                if checked(&target, key).is_none() {
                    self.set_aside(&target)?;
                    return self.begin(key, Some(lock)).map(Lookup::Missing);
                }
            } else if Instant::now() >= deadline {
                tracing::warn!(
                    key = key.digest(),
                    "another server builds this engine for too long; building it here too"
                );
                return self.begin(key, None).map(Lookup::Missing);
            } else {
                if !is_waiting {
                    tracing::info!(key = key.digest(), "another server builds this engine; waiting for it");
                }
                is_waiting = true;
                thread::sleep(POLL.min(patience));
            }
        }
    }

    /// Moves an entry aside that looked right and could not be used, so that the next look-up builds it again.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn reject(&self, entry: Entry) -> Result<(), CacheError> {
        let Entry { folder, _lock: lock } = entry;
        drop(lock);
        self.set_aside(&folder)
    }

    fn engines(&self) -> PathBuf {
        self.root.join("engines")
    }

    fn choices(&self) -> PathBuf {
        self.root.join("choices")
    }

    fn lock_file(&self, key: &Key) -> Result<File, CacheError> {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(self.root.join("locks").join(key.digest()))
            .map_err(|source| self.error("a lock file can't be opened", source))
    }

    fn set_aside(&self, target: &Path) -> Result<(), CacheError> {
        if !target.exists() {
            return Ok(());
        }
        let aside = self.engines().join(unique(BAD, &target.file_name().unwrap_or_default().to_string_lossy()));
        match fs::rename(target, aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.error("a broken entry can't be moved aside", error))
            }
            _ => Ok(()),
        }
    }

    fn begin(&self, key: &Key, lock: Option<File>) -> Result<Build, CacheError> {
        let folder = self.engines().join(unique(NEW, key.digest()));
        fs::create_dir(&folder).map_err(|source| self.error("a folder can't be made", source))?;
        Ok(Build { cache: self.clone(), key: key.clone(), folder, lock, is_committed: false })
    }

    fn error(&self, what: &'static str, source: io::Error) -> CacheError {
        CacheError { path: self.root.clone(), what, source }
    }
}

impl Entry {
    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Build {
    /// Where to build.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder's content the entry, unless another server was faster, and removes what is too much.
    ///
    /// # Errors
    /// When the file system refuses; what was built can be used all the same.
    pub fn commit(mut self) -> Result<(), CacheError> {
        let target = self.cache.engines().join(self.key.digest());
        let error = |what, source| self.cache.error(what, source);
        Manifest::write(&self.folder, &self.key).map_err(|source| error("a manifest can't be written", source))?;
        match fs::rename(&self.folder, &target) {
            Ok(()) => {}
            Err(_) if target.is_dir() => {
                tracing::info!(key = self.key.digest(), "another server has built this engine meanwhile");
                return Ok(());
            }
            Err(source) => return Err(error("an entry can't be put in place", source)),
        }
        self.is_committed = true;
        self.lock = None;
        evict::evict(&self.cache, self.key.digest());
        Ok(())
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if !self.is_committed
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            tracing::debug!(folder = %self.folder.display(), %error, "an unfinished build can't be removed");
        }
    }
}

/// The entry's folder if it is there and whole. Its manifest's time becomes now: the oldest goes first.
fn checked(target: &Path, key: &Key) -> Option<PathBuf> {
    if !target.is_dir() {
        return None;
    }
    match Manifest::check(target, key) {
        Ok(()) => {
            let touched = File::open(target.join(manifest::FILE)).and_then(|file| file.set_modified(SystemTime::now()));
            if let Err(error) = touched {
                tracing::debug!(%error, "the entry's time of use can't be set");
            }
            Some(target.to_path_buf())
        }
        Err(problem) => {
            tracing::warn!(folder = %target.display(), problem, "a cached engine is not what it was; it is built again");
            None
        }
    }
}

/// A name that no other process and no earlier call has.
fn unique(prefix: &str, key: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{prefix}{key}-{}-{}", std::process::id(), now.as_nanos())
}
