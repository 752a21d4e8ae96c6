//! The verdict on a file.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a file first differs from what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A line is another, or is missing on one side.
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1 on.
        number: usize,
        /// What is expected; none behind the last line.
        expected: Option<String>,
        /// What stands there; none behind the last line.
        found: Option<String>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text =
            |line: &Option<String>| line.as_ref().map_or("nothing".to_owned(), |line| format!("`{line}`"));
        match self {
            Difference::Unreadable { path, why } => write!(f, "{}: {why}", path.display()),
            Difference::Line { path, number, expected, found } => {
                write!(f, "{}: line {number} is {}, expected {}", path.display(), text(found), text(expected))
            }
        }
    }
}

impl std::error::Error for Difference {}

/// Compares a file with what is expected of it, line for line.
///
/// # Errors
/// The first line that differs.
pub fn compare<S: AsRef<str>>(path: &Path, expected: &[S]) -> Result<(), Difference> {
    let text = fs::read_to_string(path)
        .map_err(|error| Difference::Unreadable { path: path.to_owned(), why: error.to_string() })?;
    let mut lines = text.lines();
    let mut expected = expected.iter().map(AsRef::as_ref);
    for number in 1.. {
        let (found, expected) = (lines.next(), expected.next());
        if found != expected {
            let (found, expected) = (found.map(str::to_owned), expected.map(str::to_owned));
            return Err(Difference::Line { path: path.to_owned(), number, expected, found });
        }
        if found.is_none() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, expected: &[&str]) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bars.csv");
        fs::write(&path, text).unwrap();
        compare(&path, expected).map_err(|difference| {
            let text = difference.to_string();
            text.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
        })
    }

    #[test]
    fn the_first_line_that_differs_is_told_with_both_sides() {
        assert_eq!(verdict("a\nb\n", &["a", "b"]), Ok(()));
        assert_eq!(verdict("a\nx\ny\n", &["a", "b", "c"]), Err("line 2 is `x`, expected `b`".into()));
        assert_eq!(verdict("a\n", &["a", "b"]), Err("line 2 is nothing, expected `b`".into()));
        assert_eq!(verdict("a\nb\n", &["a"]), Err("line 2 is `b`, expected nothing".into()));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let missing = compare(Path::new("no/such.csv"), &["a"]).unwrap_err().to_string();
        assert!(missing.starts_with("no/such.csv: "), "{missing}");
    }
}
