//! The repository on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::manifest::Manifest;
use crate::page::Page;
use crate::source::Source;

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 6] = ["target", ".git", "artifacts", "node_modules", "out", ".afflux"];

/// The repository.
///
/// ```
/// let house = afflux_tidy::House::open();
/// assert!(house.sources("framework/wire").iter().any(|s| s.path == "framework/wire/src/lib.rs"));
/// ```
#[derive(Debug)]
pub struct House {
    root: PathBuf,
    /// Every file, by its path below the root.
    files: Vec<String>,
}

impl House {
    /// The repository that this crate lies in.
    ///
    /// # Panics
    /// When a directory cannot be read.
    pub fn open() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = tracked(&root).unwrap_or_else(|| {
            let mut files = Vec::new();
            walk(&root, String::new(), &mut files);
            files
        });
        files.retain(|path| !path.split('/').any(|part| SKIPPED.contains(&part)));
        files.sort();
        Self { root, files }
    }

    /// The text of a file, `None` when it is no text or is gone (another process may be writing there).
    pub fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    /// Whether there is such a file or directory.
    pub fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Every file, by its path below the root.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Every Rust file below a directory.
    pub fn sources(&self, directory: &str) -> Vec<Source> {
        let below = format!("{directory}/");
        self.files()
            .filter(|path| path.starts_with(&below) && path.ends_with(".rs"))
            .filter_map(|path| Some(Source::new(path, &self.text(path)?)))
            .collect()
    }

    /// What users run: every Rust file of the framework, the services and the examples that is no test.
    pub fn product(&self) -> Vec<Source> {
        ["framework", "services", "examples"]
            .into_iter()
            .flat_map(|directory| self.sources(directory))
            .filter(|source| source.path.contains("/src/"))
            .collect()
    }

    /// Every `Cargo.toml` but the workspaces' own.
    ///
    /// # Panics
    /// When one cannot be read as TOML.
    pub fn manifests(&self) -> Vec<Manifest> {
        self.files()
            .filter(|path| path.ends_with("/Cargo.toml"))
            .filter_map(|path| Manifest::new(path, &self.text(path)?))
            .collect()
    }

    /// Every Markdown file.
    pub fn pages(&self) -> Vec<Page> {
        self.files()
            .filter(|path| path.ends_with(".md"))
            .filter_map(|path| Some(Page::new(path, &self.text(path)?)))
            .collect()
    }
}

/// What belongs to the repository, as git says: what a build or another program leaves there is not ours.
/// Nothing where git is missing or does not know the repository.
fn tracked(root: &Path) -> Option<Vec<String>> {
    let listed = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output().ok()?;
    let files: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .split('\0')
        .filter(|path| !path.is_empty() && root.join(path).is_file())
        .map(str::to_owned)
        .collect();
    (listed.status.success() && !files.is_empty()).then_some(files)
}

#[expect(clippy::expect_used, reason = "rules without their files must not pass")]
fn walk(root: &Path, below: String, files: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(&below)).expect("the repository can be read") {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !SKIPPED.contains(&name.as_str()) => walk(root, path, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}
