//! What was fetched, as a model entry: a folder that holds VERSION/model.onnx. A folder or archive may be one, may hold one
//! folder that is, or may hold the model's files without a version, which is then 1.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::Error;

/// What a version's folder has to hold one of.
const MODELS: [&str; 2] = ["model.onnx", "timer.json"];
/// What belongs beside the versions and not into one.
const BESIDE: &str = "config.pbtxt";

/// The model entry in `folder`, made of what is there. `place` names it in messages.
///
/// # Errors
/// [`Error::NoModel`] with what is there instead.
pub fn settle(folder: &Path, place: &str) -> Result<PathBuf, Error> {
    let entries = read(folder)?;
    let has_model = |version: &Path| MODELS.iter().any(|name| version.join(name).is_file());
    if entries.iter().any(|entry| is_version(entry) && has_model(entry)) {
        return Ok(folder.to_owned());
    }
    if let Some(graph) = graph(&entries, folder) {
        wrap(folder, &entries, &graph)?;
        return Ok(folder.to_owned());
    }
    match entries.as_slice() {
        [only] if only.is_dir() => settle(only, place),
        _ => {
            let names: Vec<_> = entries.iter().filter_map(|entry| entry.file_name()?.to_str()).take(8).collect();
            let problem = format!("its root has neither VERSION/model.onnx nor one .onnx file, but {names:?}");
            Err(Error::NoModel { place: place.to_owned(), problem })
        }
    }
}

fn read(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut entries = list().map_err(Error::destination(folder))?;
    entries.sort();
    Ok(entries)
}

fn is_version(entry: &Path) -> bool {
    let name = entry.file_name().and_then(|name| name.to_str());
    entry.is_dir() && name.is_some_and(|name| name.parse::<u64>().is_ok())
}

/// The one model that lies in the folder itself.
fn graph(entries: &[PathBuf], folder: &Path) -> Option<PathBuf> {
    let named = MODELS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let mut graphs =
        entries.iter().filter(|entry| entry.is_file() && entry.extension().is_some_and(|end| end == "onnx"));
    named.or_else(|| graphs.next().filter(|_| graphs.next().is_none()).cloned())
}

/// Moves everything into the folder 1; the graph gets the name that is looked for.
fn wrap(folder: &Path, entries: &[PathBuf], graph: &Path) -> Result<(), Error> {
    let version = folder.join(".1");
    fs::create_dir(&version).map_err(Error::destination(&version))?;
    for entry in entries {
        let Some(name) = entry.file_name().filter(|name| *name != BESIDE) else { continue };
        let is_timer = name == "timer.json";
        let target = if entry == graph && !is_timer { version.join("model.onnx") } else { version.join(name) };
        fs::rename(entry, &target).map_err(Error::destination(entry))?;
    }
    let place = folder.join("1");
    fs::rename(&version, &place).map_err(Error::destination(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entry's place and files for these files, or the message.
    fn settled(files: &[&str]) -> Result<(String, Vec<String>), String> {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let entry = settle(root.path(), "s3://b/k").map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        let mut folders = vec![entry.clone()];
        while let Some(folder) = folders.pop() {
            for path in read(&folder).unwrap() {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&entry).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        Ok((entry.strip_prefix(root.path()).unwrap().display().to_string(), found))
    }

    #[test]
    fn whatever_holds_a_model_becomes_an_entry() {
        for (files, place, expected) in [
            (&["1/model.onnx", "config.pbtxt"][..], "", &["1/model.onnx", "config.pbtxt"][..]),
            (&["clip/3/model.onnx"], "clip", &["3/model.onnx"]),
            (&["a/b/1/timer.json"], "a/b", &["1/timer.json"]),
            (&["model.onnx"], "", &["1/model.onnx"]),
            (
                &["model.onnx", "model.onnx_data", "config.pbtxt"],
                "",
                &["1/model.onnx", "1/model.onnx_data", "config.pbtxt"],
            ),
            (&["clip.onnx", "weights/0", "1.txt"], "", &["1/1.txt", "1/model.onnx", "1/weights/0"]),
            (&["model.onnx", "1/weights"], "", &["1/1/weights", "1/model.onnx"]),
            (&["timer.json"], "", &["1/timer.json"]),
        ] {
            let expected = expected.iter().map(|file| (*file).to_owned()).collect();
            assert_eq!(settled(files), Ok((place.to_owned(), expected)), "{files:?}");
        }
    }

    #[test]
    fn what_holds_none_says_what_it_holds() {
        for files in
            [&["README.md"][..], &["a.onnx", "b.onnx"], &["1/weights.bin", "x"], &["v1/model.onnx", "v2/model.onnx"]]
        {
            let message = settled(files).unwrap_err();
            assert!(message.contains("neither") && message.contains(files[0].split('/').next().unwrap()), "{message}");
        }
    }
}
