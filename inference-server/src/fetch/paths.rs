//! Which names may become files: those that stay below the folder that they are put into, whoever chose them.

use std::path::PathBuf;

/// The longest path of one file.
const MAX_BYTES: usize = 512;
/// The deepest folder.
const MAX_DEPTH: usize = 16;

/// The path as a relative one of plain names, or what is wrong with it. Empty for the folder itself.
///
/// # Errors
/// A sentence's end about the path: that it is absolute, leads out, or holds what no file's name should.
pub fn confined(path: &str) -> Result<PathBuf, &'static str> {
    if path.len() > MAX_BYTES {
        return Err("is longer than 512 bytes");
    }
    if path.starts_with('/') {
        return Err("is absolute");
    }
    // The digest of a folder is made of lines, and a backslash is a separator elsewhere.
    if path.chars().any(|character| character.is_control() || character == '\\') {
        return Err("holds a control character or a backslash");
    }
    let mut confined = PathBuf::new();
    for (depth, part) in path.split('/').filter(|part| !part.is_empty() && *part != ".").enumerate() {
        if part == ".." {
            return Err("leads out of its folder by '..'");
        }
        if depth == MAX_DEPTH {
            return Err("is more than 16 folders deep");
        }
        confined.push(part);
    }
    Ok(confined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn plain_paths_pass_and_others_say_why_not() {
        assert_eq!(confined("./1//model.onnx"), Ok(PathBuf::from("1/model.onnx")));
        assert_eq!(confined("./"), Ok(PathBuf::new()));
        assert_eq!(confined("1/..data"), Ok(PathBuf::from("1/..data")));
        for (path, problem) in [
            ("/etc/passwd", "absolute"),
            ("1/../../x", ".."),
            ("..", ".."),
            ("a\\..\\b", "backslash"),
            ("a\nb", "control"),
            ("a\0", "control"),
        ] {
            assert!(confined(path).is_err_and(|said| said.contains(problem)), "{path:?}");
        }
        assert!(confined(&"a/".repeat(17)).is_err() && confined(&"a".repeat(513)).is_err());
    }

    proptest! {
        /// Whatever is accepted stays inside.
        #[test]
        fn nothing_accepted_leads_out(path in "[./a\\\\\n]{0,24}") {
            if let Ok(accepted) = confined(&path) {
                let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
                prop_assert!(Path::new(&accepted).components().all(plain), "{path:?} became {accepted:?}");
            }
        }
    }
}
