//! What Auto decided, one small file a key.

use std::{fs, io};

use serde::{Serialize, de::DeserializeOwned};

use super::{Cache, CacheError, key::Key, unique};

/// The most decisions that are kept.
const MAX_CHOICES: usize = 256;
/// The most bytes of one.
const MAX_BYTES: u64 = 64 << 10;

impl Cache {
    /// What was remembered under this key; nothing where the file is not what it should be.
    pub fn recall<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        let path = self.choices().join(format!("{}.json", key.digest()));
        let metadata = fs::metadata(&path).ok()?;
        let parsed = if metadata.len() > MAX_BYTES {
            Err("it is too long".to_owned())
        } else {
            fs::read(&path)
                .map_err(|error| error.to_string())
                .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()))
        };
        parsed
            .inspect_err(|error| tracing::warn!(path = %path.display(), error, "a remembered decision can't be read; it is made again"))
            .ok()
    }

    /// Remembers.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remember(&self, key: &Key, choice: &impl Serialize) -> Result<(), CacheError> {
        let error = |source: io::Error| self.error("a decision can't be written", source);
        let text = serde_json::to_vec_pretty(choice).map_err(|source| error(source.into()))?;
        let temporary = self.choices().join(unique(".new-", key.digest()));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, self.choices().join(format!("{}.json", key.digest()))))
            .map_err(error)?;
        self.forget_oldest();
        Ok(())
    }

    /// Forgets a decision that did not work out.
    pub fn forget(&self, key: &Key) {
        drop(fs::remove_file(self.choices().join(format!("{}.json", key.digest()))));
    }

    fn forget_oldest(&self) {
        let Ok(entries) = fs::read_dir(self.choices()) else { return };
        let mut files: Vec<_> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        let superfluous = files.len().saturating_sub(MAX_CHOICES);
        for (_, path) in &files[..superfluous] {
            drop(fs::remove_file(path));
        }
    }
}
