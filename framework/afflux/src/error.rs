//! Why a process ends with another exit code than 0.

use std::fmt;

use afflux_wire::{Code, Status};

/// What every fallible function around [`App`](crate::App) returns.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// Whoever typed the command or wrote the settings: exit code 2.
    Usage,
    /// Whoever runs the system: exit code 1.
    Failed,
}

/// A failure with its text, its cure and the exit code it leads to.
///
/// Any `std::error::Error` becomes one by `?`; like every such type it is therefore no
/// `std::error::Error` itself.
///
/// ```
/// use afflux::Error;
///
/// let error = Error::usage("unknown pipeline `hourly`").hint("did you mean `hourly-delays`?");
/// assert_eq!(error.exit_code(), 2);
/// assert_eq!(error.to_string(), "unknown pipeline `hourly`\n  help: did you mean `hourly-delays`?");
/// ```
pub struct Error {
    blame: Blame,
    message: String,
    hint: Option<String>,
    status: Option<Box<Status>>,
}

impl Error {
    /// A wrong command line or wrong settings: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { blame: Blame::Usage, message: message.into(), hint: None, status: None }
    }

    /// Any other failure: exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { blame: Blame::Failed, message: message.into(), hint: None, status: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `what: ` before the message.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Puts more behind the message.
    #[must_use]
    pub fn also(mut self, more: impl fmt::Display) -> Self {
        self.message = format!("{}{more}", self.message);
        self
    }

    /// The exit code of a process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self.blame {
            Blame::Usage => 2,
            Blame::Failed => 1,
        }
    }

    /// The message without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The status behind it, when a call failed.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_deref()
    }

    /// The failure as it crosses a mailbox or a wire.
    pub fn into_status(self) -> Status {
        let code = match self.blame {
            Blame::Usage => Code::InvalidArgument,
            Blame::Failed => Code::FailedPrecondition,
        };
        match self.status {
            Some(status) => *status,
            None => Status::new(code, self.to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

// `fn main() -> Result` prints the Debug form: it is the text for people.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors repeat their cause in their own text.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        let any: Box<dyn std::any::Any> = Box::new(error);
        let status = any.downcast::<Status>().ok();
        Self { blame: Blame::Failed, message, hint: None, status }
    }
}

/// The nearest of `known` to `name`, if any is near enough to be meant.
#[cfg(feature = "node")]
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| {
            // What begins alike is meant more often than what shares a few letters.
            let prefix = if candidate.starts_with(name) && name.len() >= 2 { 0.3 } else { 0.0 };
            (strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()) + prefix, candidate)
        })
        .filter(|(score, _)| *score >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `did you mean X?`, or the list of everything there is.
#[cfg(feature = "node")]
pub(crate) fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<&str> = known.into_iter().collect();
            if all.is_empty() {
                "there is none here".to_owned()
            } else {
                format!("there is: {}", all.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_becomes_one_with_its_causes() {
        let error: Error = std::io::Error::other("disk on fire").into();
        assert_eq!((error.exit_code(), error.message()), (1, "disk on fire"));
    }

    #[test]
    fn a_status_is_kept_behind_the_text() {
        let error: Error = Status::not_found("no such job").into();
        assert_eq!(error.status().map(|s| s.code), Some(Code::NotFound));
        assert_eq!(error.into_status().code, Code::NotFound);
    }

    #[cfg(feature = "node")]
    #[test]
    fn a_misspelt_name_finds_its_neighbour_and_a_foreign_one_gets_the_list() {
        let known = ["hourly-delays", "daily"];
        assert_eq!(suggest("hourly-delay", known), "did you mean `hourly-delays`?");
        assert_eq!(suggest("hourly", known), "did you mean `hourly-delays`?");
        assert_eq!(suggest("xyz", known), "there is: hourly-delays, daily");
        assert_eq!(suggest("xyz", [] as [&str; 0]), "there is none here");
    }
}
