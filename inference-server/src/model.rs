//! What a model is: its files, and the tensors it takes and gives.

use std::{
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// A model found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The name of its folder, a number.
    pub version: String,
    /// What it is.
    pub kind: Kind,
    /// `model.onnx` or `timer.json`.
    pub file: PathBuf,
}

const MODEL_FOLDER_FIX: &str =
    "put model.onnx into a folder named by a number, and name that folder's parent as the model's path";

impl ModelFiles {
    /// Finds the newest version in the model's folder.
    ///
    /// # Errors
    /// When the folder can't be read or holds no version with a model in it.
    pub fn find(folder: &Path) -> Result<Self, Failure> {
        let not_found = |message: String| Failure::new(Reason::ModelNotFound, message, MODEL_FOLDER_FIX);
        let entries = fs::read_dir(folder)
            .map_err(|error| not_found(format!("the model folder {} can't be read: {error}", folder.display())))?;
        let newest = entries
            .filter_map(Result::ok)
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u64>().ok()?, entry.path())))
            .max()
            .ok_or_else(|| not_found(format!("{} has no folder named by a number", folder.display())))?;
        let version = newest.1.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for (name, kind) in [("model.onnx", Kind::Onnx), ("timer.json", Kind::Timer)] {
            let file = newest.1.join(name);
            if file.is_file() {
                return Ok(Self { version, kind, file });
            }
        }
        Err(not_found(format!("{} holds neither model.onnx nor timer.json", newest.1.display())))
    }

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

    #[test]
    fn the_newest_version_is_served() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["2", "10", "notes"] {
            fs::create_dir(folder.path().join(version)).unwrap();
            fs::write(folder.path().join(version).join("timer.json"), "{}").unwrap();
        }
        let found = ModelFiles::find(folder.path()).unwrap();
        assert_eq!((found.version.as_str(), found.kind), ("10", Kind::Timer));
        assert_eq!(found.sha256().unwrap(), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }

    #[test]
    fn a_folder_without_a_model_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = ModelFiles::find(&folder.path().join("nowhere")).unwrap_err();
        assert_eq!(missing.reason, Reason::ModelNotFound);
        assert!(ModelFiles::find(folder.path()).unwrap_err().message.contains("no folder named by a number"));
        fs::create_dir(folder.path().join("1")).unwrap();
        assert!(ModelFiles::find(folder.path()).unwrap_err().message.contains("neither model.onnx nor timer.json"));
    }
}
