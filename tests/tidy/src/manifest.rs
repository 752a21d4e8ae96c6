//! One crate's `Cargo.toml`.

use toml::{Table, Value};

/// Which table a dependency stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[dependencies]`.
    Normal,
    /// `[dev-dependencies]`.
    Dev,
    /// `[build-dependencies]`.
    Build,
}

/// One line of a dependency table.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// The crate's name.
    pub name: String,
    /// Which table it stands in.
    pub kind: Kind,
    /// Whether its version is the workspace's.
    pub from_workspace: bool,
    /// The line, counted from 1.
    pub line: usize,
}

/// A crate's `Cargo.toml`.
///
/// ```
/// use afflux_tidy::{Kind, Manifest};
/// let text = "[package]\nname = \"a\"\nedition.workspace = true\n[dev-dependencies]\nb = \"1\"\n";
/// let manifest = Manifest::new("a/Cargo.toml", text).unwrap();
/// assert!(manifest.inherits("edition") && !manifest.inherits("version"));
/// assert_eq!((manifest.dependencies[0].kind, manifest.dependencies[0].line), (Kind::Dev, 5));
/// ```
#[derive(Debug)]
pub struct Manifest {
    /// Its path below the root.
    pub path: String,
    /// The crate's name.
    pub name: String,
    /// Everything it depends on.
    pub dependencies: Vec<Dependency>,
    table: Table,
}

impl Manifest {
    /// Reads it; `None` when it describes no crate.
    ///
    /// # Panics
    /// When it is no TOML.
    #[expect(clippy::panic, reason = "a manifest that cannot be read is a finding of every rule")]
    pub fn new(path: &str, text: &str) -> Option<Self> {
        let table: Table = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let name = table.get("package")?.get("name")?.as_str()?.to_owned();
        let mut dependencies = Vec::new();
        for (kind, section) in [
            (Kind::Normal, "dependencies"),
            (Kind::Dev, "dev-dependencies"),
            (Kind::Build, "build-dependencies"),
        ] {
            for (key, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
                dependencies.push(Dependency {
                    name: value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned(),
                    kind,
                    from_workspace: value.get("workspace").and_then(Value::as_bool) == Some(true),
                    line: line_of(text, section, key),
                });
            }
        }
        Some(Self { path: path.to_owned(), name, dependencies, table })
    }

    /// Whether the crate belongs to the product's workspace, not to one of its own.
    pub fn is_member(&self) -> bool {
        !self.table.contains_key("workspace")
    }

    /// Whether the lints are the workspace's.
    pub fn inherits_lints(&self) -> bool {
        self.table.get("lints").and_then(|l| l.get("workspace")).and_then(Value::as_bool) == Some(true)
    }

    /// Whether a field of `[package]` is the workspace's.
    pub fn inherits(&self, field: &str) -> bool {
        let field = self.table.get("package").and_then(|p| p.get(field));
        field.and_then(|f| f.get("workspace")).and_then(Value::as_bool) == Some(true)
    }

    /// The crate's directory, below the root.
    pub fn directory(&self) -> &str {
        self.path.trim_end_matches("/Cargo.toml")
    }
}

/// The line of a key in a section; 1 when it cannot be found.
fn line_of(text: &str, section: &str, key: &str) -> usize {
    let heading = format!("[{section}]");
    let lines = text.lines().enumerate().skip_while(|(_, line)| line.trim() != heading).skip(1);
    lines
        .take_while(|(_, line)| !line.starts_with('['))
        .find(|(_, line)| line.split(['.', ' ', '=']).next() == Some(key))
        .map_or(1, |(index, _)| index + 1)
}
