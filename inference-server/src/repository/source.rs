//! Where models lie: one folder that the settings name, or a folder of such folders in Triton's layout.

use std::{fs, io::Read as _, path::PathBuf};

use crate::{
    failure::{Failure, Reason},
    model::ModelFolder,
    settings::{MAX_MODELS, Settings, is_model_name},
};

/// The most bytes of a `config.pbtxt`; those of large models have a few thousand.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Where models lie.
pub(super) enum Source {
    /// One model.
    Single { name: String, path: PathBuf },
    /// A folder with a folder for each model.
    Repository(PathBuf),
}

/// A model's folder, and the text of its `config.pbtxt` where it has one.
pub(super) struct Found {
    pub(super) folder: ModelFolder,
    pub(super) config: Option<String>,
}

impl Source {
    pub(super) fn new(settings: &Settings) -> Self {
        match &settings.model {
            Some(model) => Self::Single { name: model.name.clone(), path: model.path.clone() },
            None => Self::Repository(settings.model_repository.clone().unwrap_or_default()),
        }
    }

    /// The models that there are now.
    pub(super) fn names(&self) -> Result<Vec<String>, Failure> {
        let folder = match self {
            Self::Single { name, .. } => return Ok(vec![name.clone()]),
            Self::Repository(folder) => folder,
        };
        let unreadable = |error: std::io::Error| {
            Failure::new(
                Reason::ModelNotFound,
                format!("the model repository {} can't be read: {error}", folder.display()),
                "name a folder that holds a folder for each model, readable for the server's user",
            )
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            // Kubernetes keeps a volume's content in hidden folders, and a link may lead to a folder.
            let Some(name) = entry.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned) else {
                continue;
            };
            if !entry.path().is_dir() {
                continue;
            }
            if is_model_name(&name) {
                names.push(name);
            } else {
                tracing::warn!(folder = name, "left out: a model's name has letters, digits, '-', '_' and '.' only");
            }
        }
        if names.len() > MAX_MODELS {
            return Err(Failure::new(
                Reason::ModelNotFound,
                format!(
                    "the model repository {} has {} models, and {MAX_MODELS} are the most",
                    folder.display(),
                    names.len()
                ),
                "divide the models among several servers",
            ));
        }
        names.sort();
        Ok(names)
    }

    /// Whether a model of this name has a folder.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Single { name: only, .. } => only == name,
            Self::Repository(folder) => is_model_name(name) && folder.join(name).is_dir(),
        }
    }

    /// A model's folder.
    pub(super) fn find(&self, name: &str) -> Result<Found, Failure> {
        let path = match self {
            Self::Single { path, .. } => path.clone(),
            Self::Repository(folder) => folder.join(name),
        };
        let file = path.join("config.pbtxt");
        let mut config = None;
        if file.is_file() {
            let mut text = String::new();
            let read = fs::File::open(&file).and_then(|file| file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text));
            let problem = match read {
                Ok(bytes) if bytes as u64 > MAX_CONFIG_BYTES => {
                    Some(format!("is larger than {MAX_CONFIG_BYTES} bytes"))
                }
                Ok(_) => None,
                Err(error) => Some(format!("can't be read: {error}")),
            };
            if let Some(problem) = problem {
                let fix = "write it as text, readable for the server's user";
                return Err(Failure::new(Reason::ModelLoadFailed, format!("{} {problem}", file.display()), fix));
            }
            config = Some(text);
        }
        Ok(Found { folder: ModelFolder::read(&path)?, config })
    }

    /// That there is nothing to serve.
    pub(super) fn is_empty(&self) -> Failure {
        let folder = match self {
            Self::Single { path, .. } | Self::Repository(path) => path,
        };
        Failure::new(
            Reason::ModelNotFound,
            format!("the model repository {} has no model", folder.display()),
            "put NAME/1/model.onnx into it, or start with --model-control-mode explicit",
        )
    }
}
