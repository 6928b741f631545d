//! The version of a library that this process has loaded, from the name of its file. A library that another library loads
//! has no other place to ask, short of calling into it.

use std::{fs, path::Path};

/// What follows `prefix` in the file's name, such as `10.9.0` of `libnvinfer.so.10.9.0`; with the file's length where the name
/// tells no more than the major version. None where it is not loaded.
pub fn version(prefix: &str) -> Option<String> {
    // The table of mappings has a line of at most a path for each segment of each library.
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = path(&maps, prefix)?;
    let version = Path::new(path).file_name()?.to_str()?.strip_prefix(prefix)?;
    if version.contains('.') {
        return Some(version.to_owned());
    }
    Some(format!("{version}+{}", fs::metadata(path).ok()?.len()))
}

/// The first mapped file whose name begins with the prefix. Pure.
fn path<'a>(maps: &'a str, prefix: &str) -> Option<&'a str> {
    maps.lines()
        .filter_map(|line| line.find('/').map(|start| line[start..].trim_end_matches(" (deleted)")))
        .find(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0c0000000-55d0c0001000 r--p 00000000 fe:01 42 /usr/local/bin/flotilla-server
7f0000000000-7f0000001000 r-xp 00001000 fe:01 43 /opt/tensorrt/lib/libnvinfer_plugin.so.10.9.0
7f0000001000-7f0000002000 r-xp 00001000 fe:01 44 /opt/tensor rt/libnvinfer.so.10.9.0
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0 [stack]
";

    #[test]
    fn a_mapping_is_found_by_its_file_s_name() {
        assert_eq!(path(MAPS, "libnvinfer.so."), Some("/opt/tensor rt/libnvinfer.so.10.9.0"));
        assert_eq!(path(MAPS, "libcudart.so."), None);
    }

    #[test]
    fn this_process_has_a_c_library_and_no_tensor_rt() {
        assert!(version("libc.so.").is_some_and(|version| version.starts_with("6+")));
        assert_eq!(version("libnvinfer.so."), None);
    }
}
