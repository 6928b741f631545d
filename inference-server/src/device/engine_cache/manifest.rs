//! `manifest.json`: the facts of an entry's key, and the length and hash of each of its files.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::key::{Key, hex};

/// Its name.
pub(super) const FILE: &str = "manifest.json";
/// The most bytes of a manifest that are read.
const MAX_BYTES: u64 = 1 << 20;

/// The file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    key: BTreeMap<String, String>,
    files: BTreeMap<String, Content>,
}

/// What a file must hold.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    bytes: u64,
    sha256: String,
}

impl Manifest {
    /// Describes what is in the folder.
    pub(super) fn write(folder: &Path, key: &Key) -> io::Result<()> {
        let manifest = Self { version: 1, key: key.facts().clone(), files: contents(folder)? };
        fs::write(folder.join(FILE), serde_json::to_vec_pretty(&manifest)?)
    }

    /// Compares the folder with its manifest, and says what is wrong.
    pub(super) fn check(folder: &Path, key: &Key) -> Result<(), String> {
        let mut text = String::new();
        File::open(folder.join(FILE))
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
            .map_err(|error| format!("its manifest can't be read: {error}"))?;
        let manifest: Self =
            serde_json::from_str(&text).map_err(|error| format!("its manifest is not understood: {error}"))?;
        if manifest.version != 1 || manifest.key != *key.facts() {
            return Err("its manifest is of another key".to_owned());
        }
        let found = contents(folder).map_err(|error| format!("a file can't be read: {error}"))?;
        match manifest.files.iter().find(|(name, content)| found.get(*name) != Some(content)) {
            Some((name, _)) => Err(format!("{name} is missing or changed")),
            None => Ok(()),
        }
    }
}

/// Length and hash of every file but the manifest.
fn contents(folder: &Path) -> io::Result<BTreeMap<String, Content>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == FILE || !entry.file_type()?.is_file() {
            continue;
        }
        files.insert(name, content(&entry.path())?);
    }
    Ok(files)
}

fn content(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(Content { bytes, sha256: hex(&hash.finalize()) });
        }
        hash.update(&chunk[..count]);
        bytes += count as u64;
    }
}
