//! Which layer a value came from; the later layer wins.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::file;
use super::schema::{SCHEMA, Setting, Settings, find};
use super::value::{Kind, Value};
use crate::error::{Error, Result, nearest};

/// The settings file that is read when none is named.
pub(crate) const FILE_DEFAULT: &str = "afflux.toml";

/// Names of the settings file in the environment.
pub(crate) const FILE_VARIABLE: &str = "AFFLUX_CONFIG";

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default.
    Default,
    /// In a settings file.
    File(PathBuf, usize),
    /// In this environment variable.
    Environment(String),
    /// In this flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Settings being put together, layer over layer.
///
/// ```
/// use afflux::settings::Layers;
///
/// let mut layers = Layers::default();
/// layers.environment([("AFFLUX_NODE_SLOTS".to_owned(), "2".to_owned())])?;
/// layers.flag("--slots", "node.slots", "3")?;
/// assert_eq!(layers.settings().node_slots, 3);
/// # Ok::<(), afflux::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Layers {
    /// The layers of a process: the settings file, then the environment.
    ///
    /// `file` is the one that the user named; without it `AFFLUX_CONFIG`, else `afflux.toml` where it exists.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown name, or a value of another type.
    pub fn of_process(file: Option<&Path>) -> Result<Self> {
        let mut layers = Self::default();
        let named = file
            .map(Path::to_path_buf)
            .or_else(|| std::env::var_os(FILE_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from));
        match named {
            Some(path) => layers.file(&path)?,
            None if Path::new(FILE_DEFAULT).exists() => layers.file(Path::new(FILE_DEFAULT))?,
            None => {}
        }
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with("AFFLUX_"))?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        layers.environment(variables)?;
        Ok(layers)
    }

    /// Adds a settings file.
    ///
    /// # Errors
    /// As [`Layers::of_process`].
    pub fn file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::usage(format!("cannot read the settings file {}: {error}", path.display()))
        })?;
        for entry in file::parse(path, &text)? {
            let value = match (&entry.setting.kind, entry.value) {
                (Kind::Path, Value::Text(text)) => Value::Text(beside(path, text)),
                (_, value) => value,
            };
            self.put(entry.setting, value, Origin::File(path.to_path_buf(), entry.line));
        }
        Ok(())
    }

    /// Adds environment variables; those that do not begin with `AFFLUX_` are left alone.
    ///
    /// # Errors
    /// An unknown name, or a value of another type.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        for (variable, text) in variables {
            if !variable.starts_with("AFFLUX_") || variable == FILE_VARIABLE || is_service_link(&variable) {
                continue;
            }
            let Some(setting) = SCHEMA.iter().find(|setting| setting.variable() == variable) else {
                let known: Vec<String> = SCHEMA.iter().map(Setting::variable).collect();
                let error = Error::usage(format!("environment: unknown setting `{variable}`"));
                return Err(match nearest(&variable, known.iter().map(String::as_str)) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint("`check` lists every setting; AFFLUX_NODE_LISTEN sets node.listen"),
                });
            };
            let value = setting
                .kind
                .parse(&text)
                .map_err(|why| Error::usage(format!("environment: {variable}: {why}")))?;
            self.put(setting, value, Origin::Environment(variable));
        }
        Ok(())
    }

    /// Adds a value given by a flag of its own.
    ///
    /// # Errors
    /// A value of another type.
    pub fn flag(&mut self, flag: &str, name: &str, text: &str) -> Result<()> {
        let Some(setting) = find(name) else {
            return Err(file::unknown(flag, name));
        };
        let value = setting.kind.parse(text).map_err(|why| Error::usage(format!("{flag}: {name}: {why}")))?;
        self.put(setting, value, Origin::Flag(flag.to_owned()));
        Ok(())
    }

    /// Adds `KEY=VALUE` of `--set`.
    ///
    /// # Errors
    /// No `=`, an unknown name, or a value of another type.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        match assignment.split_once('=') {
            Some((name, text)) => self.flag("--set", name.trim(), text.trim()),
            None => Err(Error::usage(format!("--set {assignment}: expected KEY=VALUE"))
                .hint("for example `--set source.on_error=skip`")),
        }
    }

    fn put(&mut self, setting: &'static Setting, value: Value, origin: Origin) {
        self.values.insert(setting.name, (value, origin));
    }

    /// The value of a setting and where it came from.
    pub fn get(&self, setting: &'static Setting) -> (Value, Origin) {
        match self.values.get(setting.name) {
            Some((value, origin)) => (value.clone(), origin.clone()),
            None => {
                let default = setting.kind.parse(setting.default);
                (default.unwrap_or_else(|_| Value::Text(setting.default.to_owned())), Origin::Default)
            }
        }
    }

    /// The typed settings.
    pub fn settings(&self) -> Settings {
        Settings::from_values(|setting| self.get(setting).0)
    }

    /// Every setting with its value and origin; secrets are hidden.
    pub fn rows(&self) -> Vec<(&'static Setting, String, Origin)> {
        SCHEMA
            .iter()
            .map(|setting| {
                let (value, origin) = self.get(setting);
                let text = value.to_string();
                let shown = if setting.secret && !text.is_empty() { "***".to_owned() } else { text };
                (setting, shown, origin)
            })
            .collect()
    }

    /// The same rows as JSON.
    pub fn json(&self) -> serde_json::Value {
        self.rows()
            .into_iter()
            .map(|(setting, shown, origin)| {
                let value = match setting.kind {
                    Kind::Integer { .. } | Kind::List => serde_json::Value::from(self.get(setting).0),
                    _ => shown.into(),
                };
                serde_json::json!({
                    "name": setting.name,
                    "value": value,
                    "origin": origin.to_string(),
                    "default": setting.default,
                    "unit": setting.unit,
                    "variable": setting.variable(),
                    "doc": setting.doc.trim(),
                })
            })
            .collect()
    }
}

/// Kubernetes puts variables of this shape into every container beside a service called `afflux`.
fn is_service_link(variable: &str) -> bool {
    let Some(rest) = variable.strip_prefix("AFFLUX_") else { return false };
    rest.contains("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || rest == "PORT"
        || rest.ends_with("_PORT")
        || rest.starts_with("PORT_")
        || rest.contains("_PORT_")
}

/// A path that a settings file names, as seen from the working directory.
fn beside(file: &Path, path: String) -> String {
    match file.parent() {
        Some(directory) if !path.is_empty() => directory.join(path).to_string_lossy().into_owned(),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> [(String, String); 1] {
        [(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("afflux.toml");
        std::fs::write(&path, "cluster = \"file\"\nlog.level = \"debug\"\nnode.slots = 1\n").unwrap();
        let mut layers = Layers::default();
        layers.file(&path).unwrap();
        layers.environment(variable("AFFLUX_CLUSTER", "environment")).unwrap();
        layers.environment(variable("AFFLUX_NODE_SLOTS", "2")).unwrap();
        layers.flag("--slots", "node.slots", "3").unwrap();
        let settings = layers.settings();
        assert_eq!((settings.cluster.as_str(), settings.log_level.as_str()), ("environment", "debug"));
        assert_eq!(settings.node_slots, 3);
        let origin = |name: &str| layers.get(find(name).unwrap()).1.to_string();
        assert_eq!(origin("cluster"), "AFFLUX_CLUSTER");
        assert_eq!(origin("log.level"), format!("{}:2", path.display()));
        assert_eq!(origin("node.slots"), "--slots");
        assert_eq!(origin("node.listen"), "default");
    }

    #[test]
    fn an_unknown_variable_is_an_error_with_the_nearest_one() {
        let error = Layers::default().environment(variable("AFFLUX_NODE_LISTN", "x")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment: unknown setting `AFFLUX_NODE_LISTN`\n  help: did you mean `AFFLUX_NODE_LISTEN`?"
        );
    }

    #[test]
    fn variables_that_kubernetes_makes_for_a_service_are_left_alone() {
        let mut layers = Layers::default();
        for name in [
            "AFFLUX_SERVICE_HOST",
            "AFFLUX_SERVICE_PORT_HTTP",
            "AFFLUX_PORT",
            "AFFLUX_PORT_7000_TCP_ADDR",
            "AFFLUX_SEED_PORT_7000_TCP",
        ] {
            layers.environment(variable(name, "tcp://10.0.0.1:7000")).unwrap();
        }
        assert_eq!(layers.settings(), Settings::default());
        for setting in SCHEMA {
            assert!(!is_service_link(&setting.variable()), "{} can never be set", setting.name);
        }
    }

    #[test]
    fn set_takes_key_and_value_and_refuses_the_rest() {
        let mut layers = Layers::default();
        layers.set("source.on_error=skip").unwrap();
        assert_eq!(layers.settings().source_on_error, "skip");
        assert!(layers.set("source.on_error").unwrap_err().to_string().contains("expected KEY=VALUE"));
        assert!(
            layers
                .set("source.onerror=skip")
                .unwrap_err()
                .to_string()
                .contains("did you mean `source.on_error`?")
        );
        assert!(
            layers
                .set("source.on_error=ignore")
                .unwrap_err()
                .to_string()
                .contains("expected one of fail, skip")
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        let mut layers = Layers::default();
        layers.flag("--token", "token", "hunter2").unwrap();
        assert!(!layers.json().to_string().contains("hunter2"));
        assert!(layers.rows().iter().any(|(s, shown, _)| s.name == "token" && shown == "***"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Layers::default().file(Path::new("nowhere/afflux.toml")).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot read the settings file nowhere/afflux.toml"),
            "{error}"
        );
    }
}
