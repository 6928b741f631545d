//! What a model is: its files, and the tensors it takes and gives.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    failure::{Failure, Reason},
    tensor::DataType,
};

/// One input or output as the model declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub data_type: DataType,
    /// All its dimensions; none where the model leaves the size open.
    pub dims: Vec<Option<usize>>,
}

impl TensorSpec {
    /// The dimensions as the protocol writes them, -1 for an open one.
    pub fn wire_shape(&self) -> Vec<i64> {
        self.dims.iter().map(|dim| dim.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1)).collect()
    }
}

/// Everything that a request must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// The inputs in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// The outputs in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// The protocol's `platform`.
    pub platform: &'static str,
}

impl Signature {
    /// Whether requests can share an execution: the first dimension of every input and output is open.
    pub fn is_batched(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).all(|spec| spec.dims.first() == Some(&None))
    }
}

/// What kind of model the folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A graph for ONNX Runtime.
    Onnx,
    /// A device that only takes time.
    Timer,
}

/// The file of an ONNX model where nothing else is said.
const ONNX_FILE: &str = "model.onnx";
/// The file of a timer.
const TIMER_FILE: &str = "timer.json";

/// A model's folder and the versions in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    path: PathBuf,
    versions: BTreeMap<u64, PathBuf>,
}

/// Which versions of a model are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The newest ones, so many.
    Latest(usize),
    /// All of them.
    All,
    /// Those of these numbers.
    Specific(Vec<u64>),
}

/// One version of a model on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The name of its folder.
    pub version: u64,
    /// What it is.
    pub kind: Kind,
    /// `model.onnx`, `timer.json`, or what the model's configuration names.
    pub file: PathBuf,
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest(1)
    }
}

const MODEL_FOLDER_FIX: &str =
    "put model.onnx into a folder named by a number, and name that folder's parent as the model's path";

fn not_found(message: String) -> Failure {
    Failure::new(Reason::ModelNotFound, message, MODEL_FOLDER_FIX)
}

impl ModelFolder {
    /// Finds the versions in a model's folder.
    ///
    /// # Errors
    /// When the folder can't be read or holds no version.
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let entries = fs::read_dir(folder)
            .map_err(|error| not_found(format!("the model folder {} can't be read: {error}", folder.display())))?;
        let versions: BTreeMap<u64, PathBuf> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u64>().ok()?, entry.path())))
            .filter(|(_, path)| path.is_dir())
            .collect();
        if versions.is_empty() {
            return Err(not_found(format!("{} has no folder named by a number", folder.display())));
        }
        Ok(Self { path: folder.to_path_buf(), versions })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The versions to serve, oldest first, with their files; `file_name` is what the model's configuration names.
    ///
    /// # Errors
    /// When no version is left, or one has no model in it.
    pub fn select(&self, policy: &VersionPolicy, file_name: Option<&str>) -> Result<Vec<ModelFiles>, Failure> {
        let mut chosen: Vec<(u64, &Path)> = self
            .versions
            .iter()
            .filter(|(version, _)| match policy {
                VersionPolicy::Specific(wanted) => wanted.contains(version),
                VersionPolicy::Latest(_) | VersionPolicy::All => true,
            })
            .map(|(version, path)| (*version, path.as_path()))
            .collect();
        if let VersionPolicy::Latest(count) = policy {
            chosen.drain(..chosen.len().saturating_sub(*count));
        }
        if chosen.is_empty() {
            let message = format!("{} has none of the versions that version_policy names", self.path.display());
            return Err(not_found(message));
        }
        chosen.into_iter().map(|(version, folder)| files(version, folder, file_name)).collect()
    }
}

fn files(version: u64, folder: &Path, file_name: Option<&str>) -> Result<ModelFiles, Failure> {
    let candidates = match file_name {
        Some(name) => vec![(name, if name == TIMER_FILE { Kind::Timer } else { Kind::Onnx })],
        None => vec![(ONNX_FILE, Kind::Onnx), (TIMER_FILE, Kind::Timer)],
    };
    candidates
        .iter()
        .map(|(name, kind)| (folder.join(name), *kind))
        .find(|(file, _)| file.is_file())
        .map(|(file, kind)| ModelFiles { version, kind, file })
        .ok_or_else(|| {
            let names: Vec<&str> = candidates.iter().map(|(name, _)| *name).collect();
            not_found(format!("{} does not hold {}", folder.display(), names.join(" or ")))
        })
}

impl ModelFiles {
    /// The hash of the model's file; of a model with data in files beside it, of all of them in the order of their names.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn sha256(&self) -> io::Result<String> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        files.retain(|path| path.is_file());
        files.sort();
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 1 << 20];
        for path in files {
            let mut file = fs::File::open(path)?;
            loop {
                let count = file.read(&mut chunk)?;
                if count == 0 {
                    break;
                }
                hash.update(&chunk[..count]);
            }
        }
        let mut text = String::with_capacity(64);
        for byte in hash.finalize() {
            write!(text, "{byte:02x}").map_err(io::Error::other)?;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(versions: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for version in versions {
            fs::create_dir(folder.path().join(version)).unwrap();
            fs::write(folder.path().join(version).join("timer.json"), "{}").unwrap();
        }
        folder
    }

    #[test]
    fn the_policy_says_which_versions_are_served() {
        let folder = folder(&["2", "10", "notes", "3"]);
        fs::write(folder.path().join("99"), "no folder").unwrap();
        let found = ModelFolder::read(folder.path()).unwrap();
        for (policy, expected) in [
            (VersionPolicy::default(), vec![10]),
            (VersionPolicy::Latest(2), vec![3, 10]),
            (VersionPolicy::Latest(9), vec![2, 3, 10]),
            (VersionPolicy::All, vec![2, 3, 10]),
            (VersionPolicy::Specific(vec![3, 2, 7]), vec![2, 3]),
        ] {
            let versions: Vec<u64> =
                found.select(&policy, None).unwrap().into_iter().map(|files| files.version).collect();
            assert_eq!(versions, expected, "{policy:?}");
        }
        let none = found.select(&VersionPolicy::Specific(vec![7]), None).unwrap_err();
        assert!(none.message.contains("none of the versions"), "{none}");
    }

    #[test]
    fn the_file_is_the_named_one_or_what_a_model_s_file_is_called() {
        let folder = folder(&["1"]);
        let found = ModelFolder::read(folder.path()).unwrap();
        let files = &found.select(&VersionPolicy::default(), None).unwrap()[0];
        assert_eq!((files.version, files.kind), (1, Kind::Timer));
        assert_eq!(files.sha256().unwrap(), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        fs::write(folder.path().join("1/tower.onnx"), "").unwrap();
        let named = &found.select(&VersionPolicy::default(), Some("tower.onnx")).unwrap()[0];
        assert_eq!((named.kind, named.file.ends_with("1/tower.onnx")), (Kind::Onnx, true));
        let missing = found.select(&VersionPolicy::default(), Some("none.onnx")).unwrap_err();
        assert!(missing.message.contains("does not hold none.onnx"), "{missing}");
    }

    #[test]
    fn a_folder_without_a_model_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = ModelFolder::read(&folder.path().join("nowhere")).unwrap_err();
        assert_eq!(missing.reason, Reason::ModelNotFound);
        assert!(ModelFolder::read(folder.path()).unwrap_err().message.contains("no folder named by a number"));
        fs::create_dir(folder.path().join("1")).unwrap();
        let found = ModelFolder::read(folder.path()).unwrap();
        let empty = found.select(&VersionPolicy::default(), None).unwrap_err();
        assert!(empty.message.contains("does not hold model.onnx or timer.json"), "{empty}");
    }
}
