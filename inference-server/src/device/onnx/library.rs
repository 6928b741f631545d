//! ONNX Runtime's library, loaded once in a process from the path that the user gives.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider as _},
};

use super::{
    plan::{Plan, Provider},
    session,
};
use crate::failure::{Failure, Reason};

/// The environment variable that names the library, for messages.
const VARIABLE: &str = "FLOTILLA_ORT_LIBRARY";

const FIX: &str = "set FLOTILLA_ORT_LIBRARY to the absolute path of libonnxruntime.so (version 1.23 or newer), \
                   for example the one in the Python package onnxruntime";

/// The library allows one environment in a process, and it must outlive all sessions.
static LOADED: Mutex<Option<Library>> = Mutex::new(None);

/// The loaded library.
#[derive(Clone)]
pub struct Library {
    environment: Environment,
    version: String,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Library {
    /// Loads the library, the first time. A missing file is found here, because the library's own loader would only say that
    /// loading failed.
    ///
    /// # Errors
    /// When there is no such file, or it is no ONNX Runtime of a version that will do.
    pub fn load(path: Option<&Path>) -> Result<Self, Failure> {
        let not_found = |message: String| Failure::new(Reason::LibraryNotFound, message, FIX);
        let path: PathBuf = match path {
            None => return Err(not_found(format!("{VARIABLE} is not set"))),
            Some(path) if !path.is_absolute() => {
                return Err(not_found(format!("{VARIABLE}={} is not an absolute path", path.display())));
            }
            Some(path) => path.to_path_buf(),
        };
        if !path.is_file() {
            return Err(not_found(format!("{VARIABLE}={} is no file", path.display())));
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*loaded {
            return Ok(library.clone());
        }
        let environment = ort::init_from(&path)
            .map_err(|error| not_found(error.to_string()))?
            .with_telemetry(false)
            .build()
            .map_err(|error| not_found(format!("ONNX Runtime from {} does not start: {error}", path.display())))?;
        let library = Self { environment, version: version(ort::info()) };
        Ok(loaded.insert(library).clone())
    }

    /// The process's one environment.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Its version, such as `1.31.1`, or as much of its build's description as names it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it was built with the provider. That says nothing of a GPU or of the provider's own libraries.
    pub fn has(&self, provider: Provider) -> bool {
        match provider {
            Provider::Cpu => true,
            Provider::Cuda => ep::CUDA::is_available().unwrap_or(false),
            Provider::TensorRt => ep::TensorRT::is_available().unwrap_or(false),
        }
    }

    /// Registers the plan's providers without a model, which loads what they need.
    ///
    /// # Errors
    /// When one of them can't be used here.
    pub fn register(&self, plan: &Plan) -> Result<(), Failure> {
        session::register(self, plan).map(drop)
    }
}

/// The version in the library's description of its build, which names the branch and the commit.
fn version(build: &str) -> String {
    let field = |name: &str| {
        build.split([',', ' ']).find_map(|part| part.trim().strip_prefix(name)).filter(|value| !value.is_empty())
    };
    match (field("git-branch=rel-"), field("git-commit-id=")) {
        (Some(branch), Some(commit)) => format!("{branch}+{commit}"),
        (Some(branch), None) => branch.to_owned(),
        (None, Some(commit)) => format!("commit-{commit}"),
        (None, None) => build.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_have_two_versions() {
        for (build, expected) in [
            ("ORT Build Info: git-branch=rel-1.19.0, git-commit-id=26250ae, build type=Release", "1.19.0+26250ae"),
            ("ORT Build Info: git-branch=HEAD, git-commit-id=26250ae, build type=Release", "commit-26250ae"),
            ("something else", "something else"),
        ] {
            assert_eq!(version(build), expected);
        }
    }

    #[test]
    fn a_path_that_can_not_be_is_told_with_the_variable() {
        for path in [None, Some(Path::new("relative.so")), Some(Path::new("/nowhere/libonnxruntime.so"))] {
            let failure = Library::load(path).unwrap_err();
            assert_eq!(failure.reason, Reason::LibraryNotFound);
            assert!(failure.message.starts_with(VARIABLE), "{failure}");
        }
    }
}
