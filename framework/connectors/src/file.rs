//! Files by path, directory or glob; plain or compressed; and errors that say where one looked.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use afflux_stream::Result;
use afflux_wire::{Code, Status};
use flate2::bufread::MultiGzDecoder;

/// Bytes of a compressed file that are read at once.
const COMPRESSED_BUFFER_BYTES: usize = 256 * 1024;

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
            None => extensions.iter().any(|e| name.ends_with(e)),
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
        let wanted = pattern.map_or_else(|| extensions.join(" or "), |p| format!("`{p}`"));
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

/// A file being read, decompressed when its name ends in `.gz`, and how much of it was.
pub(crate) struct Opened {
    pub(crate) bytes: Box<dyn Read + Send>,
    /// Bytes taken from the file, compressed ones if it is compressed.
    pub(crate) taken: Arc<AtomicU64>,
}

/// Opens a file.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    let file = File::open(path).map_err(|e| refused("read", path, &e))?;
    let taken = Arc::new(AtomicU64::new(0));
    let file = Counted { file, taken: Arc::clone(&taken) };
    let bytes: Box<dyn Read + Send> = if is_gzip(path) {
        Box::new(MultiGzDecoder::new(BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, file)))
    } else {
        Box::new(file)
    };
    Ok(Opened { bytes, taken })
}

/// Whether the name says that the file is compressed.
pub(crate) fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"))
}

struct Counted {
    file: File,
    taken: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.taken.fetch_add(bytes as u64, Relaxed);
        Ok(bytes)
    }
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
        for name in ["b.csv", "a.csv.gz", "note.txt", ".hidden.csv", "c.csv.part"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("d.csv")).unwrap();
        let names = |path: &Path| -> Vec<String> {
            let found = find(path, &[".csv", ".csv.gz"]).unwrap();
            found.iter().map(|f| f.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(dir.path()), ["a.csv.gz", "b.csv"]);
        assert_eq!(names(&dir.path().join("*.csv*")), ["a.csv.gz", "b.csv", "c.csv.part"]);
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
        let status = find(dir.path(), &[".csv", ".csv.gz"]).unwrap_err();
        assert!(status.message.contains(".csv or .csv.gz"), "{status}");
    }
}
