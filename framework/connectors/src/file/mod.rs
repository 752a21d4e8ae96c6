//! Files by path, directory, pattern or list; plain or compressed; and errors that say where one looked.

mod output;
mod read;
mod zstd;

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use afflux_stream::{Result, Split};
use afflux_wire::{Code, Status};

pub(crate) use self::output::{Output, sync_directory};
pub(crate) use self::read::{open, unreadable};

/// How the bytes of a file are packed, which the end of its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// As they are.
    Plain,
    /// `.gz`: gzip members, RFC 1952.
    Gzip,
    /// `.zst`: Zstandard frames, RFC 8878.
    Zstd,
}

impl Packing {
    pub(crate) fn of(path: &Path) -> Self {
        match path.extension() {
            Some(e) if e.eq_ignore_ascii_case("gz") => Packing::Gzip,
            Some(e) if e.eq_ignore_ascii_case("zst") => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// The splits behind some paths: each file once, in the order of the paths and of their names.
pub(crate) fn splits(paths: &[PathBuf], extensions: &[&str]) -> Result<Vec<Split>> {
    if paths.is_empty() {
        return Err(Status::invalid("the list of paths is empty; name a file, a directory or a pattern"));
    }
    let mut splits: Vec<Split> = Vec::new();
    for path in paths {
        for file in find(path, extensions)? {
            let id = name_of(&file.path)?;
            if splits.iter().all(|s| s.id != id) {
                splits.push(Split { id, payload: Vec::new(), size: Some(file.bytes) });
            }
        }
    }
    Ok(splits)
}

/// A path as the name of a split.
fn name_of(path: &Path) -> Result<String> {
    let name = path.to_str().map(str::to_owned);
    name.ok_or_else(|| Status::invalid(format!("the path {} is not UTF-8; rename it", shown(path))))
}

/// Whether a name ends in one of these, or in one of these and `.gz` or `.zst`.
pub(crate) fn has_extension(name: &str, extensions: &[&str]) -> bool {
    let bare = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
    extensions.iter().any(|e| bare.ends_with(e))
}

/// `out/x.csv` for the only task, `out/x-0-of-4.csv` for the first of four; `.csv.gz` stays together.
pub(crate) fn path_of_task(path: &Path, subtask: u32, parallelism: u32) -> PathBuf {
    if parallelism <= 1 {
        return path.to_owned();
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let packed = if Packing::of(path) == Packing::Plain { name.len() } else { name.rfind('.').unwrap_or(0) };
    let bare = name.get(..packed).unwrap_or(&name);
    let dot = bare.rfind('.').filter(|at| *at > 0).unwrap_or(packed);
    let (stem, extensions) = name.split_at(dot);
    path.with_file_name(format!("{stem}-{subtask}-of-{parallelism}{extensions}"))
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The files behind a path: itself, those of a directory that end in one of `extensions`, or those
/// whose names match a `*` in the last part. In the order of their names.
pub(crate) fn find(path: &Path, extensions: &[&str]) -> Result<Vec<Found>> {
    let pattern = path.file_name().and_then(OsStr::to_str).filter(|name| name.contains('*'));
    let (directory, pattern) = match pattern {
        Some(pattern) => (path.parent().unwrap_or(Path::new("")), Some(pattern)),
        None => {
            let meta = path.metadata().map_err(|e| refused("read", path, &e))?;
            if !meta.is_dir() {
                return Ok(vec![Found { path: path.to_owned(), bytes: meta.len() }]);
            }
            (path, None)
        }
    };
    let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut found = Vec::new();
    for entry in listed.read_dir().map_err(|e| refused("list", listed, &e))? {
        let entry = entry.map_err(|e| refused("list", listed, &e))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let wanted = match pattern {
            Some(pattern) => matches(pattern, name),
            None => has_extension(name, extensions),
        };
        let path = directory.join(name);
        if wanted && !name.starts_with('.') {
            let meta = path.metadata().map_err(|e| refused("read", &path, &e))?;
            if meta.is_file() {
                found.push(Found { path, bytes: meta.len() });
            }
        }
    }
    if found.is_empty() {
        let wanted = pattern.map_or_else(
            || format!("{} (also with .gz or .zst)", extensions.join(" or ")),
            |p| format!("`{p}`"),
        );
        return Err(Status::not_found(format!(
            "no file of {} matches {wanted}{}; name a file, a directory or a pattern such as `data/*.csv`",
            shown(listed),
            working_directory(),
        )));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether a name matches a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    rest.is_empty()
}

/// A path as messages write it.
pub(crate) fn shown(path: &Path) -> impl Display {
    format!("`{}`", path.display())
}

/// ` (working directory …)`, or nothing where it is not known.
fn working_directory() -> String {
    match Path::new(".").canonicalize() {
        Ok(directory) => format!(" (working directory {})", directory.display()),
        Err(_) => String::new(),
    }
}

/// The error for a file that cannot be read, written, listed or made.
pub(crate) fn refused(act: &str, path: &Path, error: &io::Error) -> Status {
    let (code, what, cure) = match error.kind() {
        ErrorKind::NotFound => (
            Code::NotFound,
            "no such file or directory".to_owned(),
            "; give its path from the working directory, or the absolute path",
        ),
        ErrorKind::PermissionDenied => {
            (Code::PermissionDenied, "permission denied".to_owned(), "; change its owner or mode")
        }
        ErrorKind::StorageFull => (Code::ResourceExhausted, "the disk is full".to_owned(), ""),
        ErrorKind::IsADirectory => {
            (Code::InvalidArgument, "it is a directory".to_owned(), "; name a file in it")
        }
        _ => (Code::Unavailable, error.to_string(), ""),
    };
    let place = if path.is_relative() { working_directory() } else { String::new() };
    Status::new(code, format!("cannot {act} {}{place}: {what}{cure}", shown(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("*", "a.csv", true),
            ("*.csv", "a.csv", true),
            ("*.csv", "a.csv.gz", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("flights-*.csv*", "flights-2013.csv.gz", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_directory_and_a_pattern_give_files_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.csv", "a.csv.gz", "a.csv.zst", "note.txt", ".hidden.csv", "c.csv.part"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("d.csv")).unwrap();
        let names = |path: &Path| -> Vec<String> {
            let found = find(path, &[".csv"]).unwrap();
            found.iter().map(|f| f.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(dir.path()), ["a.csv.gz", "a.csv.zst", "b.csv"]);
        assert_eq!(names(&dir.path().join("*.csv*")), ["a.csv.gz", "a.csv.zst", "b.csv", "c.csv.part"]);
        assert_eq!(names(&dir.path().join("note.txt")), ["note.txt"]);
    }

    #[test]
    fn a_missing_file_is_named_with_the_working_directory_and_the_cure() {
        let status = find(Path::new("no/such.csv"), &[".csv"]).unwrap_err();
        assert_eq!(status.code, Code::NotFound);
        let here = Path::new(".").canonicalize().unwrap();
        for part in ["`no/such.csv`", here.to_str().unwrap(), "give its path"] {
            assert!(status.message.contains(part), "{part} is missing in {status}");
        }
        let dir = tempfile::tempdir().unwrap();
        let status = find(&dir.path().join("*.csv"), &[]).unwrap_err();
        assert!(status.message.contains("matches `*.csv`"), "{status}");
        let status = find(dir.path(), &[".json", ".csv"]).unwrap_err();
        assert!(status.message.contains(".json or .csv (also with .gz"), "{status}");
    }

    #[test]
    fn tasks_that_write_beside_each_other_have_files_of_their_own() {
        let path = |path: &str, n| path_of_task(Path::new(path), 1, n).to_str().unwrap().to_owned();
        assert_eq!(path("out/x.csv", 1), "out/x.csv");
        assert_eq!(path("out/x.csv", 4), "out/x-1-of-4.csv");
        assert_eq!(path("out/x.y.csv.gz", 4), "out/x.y-1-of-4.csv.gz");
        assert_eq!(path("x.gz", 2), "x-1-of-2.gz");
        assert_eq!(path("x", 2), "x-1-of-2");
    }

    #[test]
    fn a_list_gives_each_file_once() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.csv", "b.csv"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let paths = [dir.path().join("b.csv"), dir.path().to_owned()];
        let splits = splits(&paths, &[".csv"]).unwrap();
        let names: Vec<_> = splits.iter().map(|s| s.id.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["b.csv", "a.csv"]);
        assert!(super::splits(&[], &[".csv"]).unwrap_err().message.contains("empty"));
    }
}
