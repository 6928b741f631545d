//! TensorRT's timing cache: how fast each kernel is on this GPU, for all models. A build works on a copy of its own, because
//! the library writes in place and knows nothing of a second server. Losing it costs time and nothing else.

use std::{fs, io, path::Path};

use super::{Build, key::Key, unique};

/// How TensorRT's provider names the file.
const SUFFIX: &str = ".timing";

impl Build {
    /// Brings what was learnt before into the folder of the build.
    pub fn take_timing(&self, key: &Key) {
        if let Err(error) = copy(&self.cache.root.join("timing").join(key.digest()), &self.folder) {
            tracing::debug!(%error, "no timing cache to begin with");
        }
    }

    /// Keeps what this build has learnt for the next one.
    pub fn give_timing(&self, key: &Key) {
        if let Err(error) = copy(&self.folder, &self.cache.root.join("timing").join(key.digest())) {
            tracing::warn!(%error, "the timing cache is not kept");
        }
    }
}

/// Copies the timing caches, each put in place by a rename.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(SUFFIX) && entry.file_type()?.is_file() {
            fs::create_dir_all(to)?;
            let temporary = to.join(unique(".new-", &name));
            fs::copy(entry.path(), &temporary)?;
            fs::rename(temporary, to.join(name))?;
        }
    }
    Ok(())
}
