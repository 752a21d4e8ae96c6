//! Command lines: words and `--name value` pairs.

use std::collections::BTreeMap;
use std::str::FromStr;

/// A parsed command line.
///
/// ```
/// use afflux_peers::args::Args;
///
/// let mut args = Args::parse(["w2", "--records", "1_000"].map(String::from)).unwrap();
/// assert_eq!(args.word("a workload").unwrap(), "w2");
/// assert_eq!(args.number("records", 5u64).unwrap(), 1000);
/// assert_eq!(args.number("threads", 1usize).unwrap(), 1);
/// args.finish().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Args {
    words: Vec<String>,
    options: BTreeMap<String, String>,
}

impl Args {
    /// Parses the arguments of this process.
    ///
    /// # Errors
    /// If an option lacks its value.
    pub fn from_env() -> Result<Self, String> {
        Self::parse(std::env::args().skip(1))
    }

    /// Parses arguments, the program's name not among them.
    ///
    /// # Errors
    /// If an option lacks its value or is given twice.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut arguments = arguments.into_iter();
        let (mut words, mut options) = (Vec::new(), BTreeMap::new());
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix("--") else {
                words.push(argument);
                continue;
            };
            let value = arguments.next().ok_or_else(|| format!("option --{name} lacks its value"))?;
            if options.insert(name.to_owned(), value).is_some() {
                return Err(format!("option --{name} is given twice"));
            }
        }
        words.reverse();
        Ok(Self { words, options })
    }

    /// Takes the next word; `what` names it in the error.
    ///
    /// # Errors
    /// If there is none.
    pub fn word(&mut self, what: &str) -> Result<String, String> {
        self.words.pop().ok_or_else(|| format!("{what} is missing"))
    }

    /// Takes the value of an option.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.options.remove(name)
    }

    /// Takes the value of an option that must be one of `allowed`, the first of which is the default.
    ///
    /// # Errors
    /// If it is another.
    pub fn choice(&mut self, name: &str, allowed: &[&'static str]) -> Result<&'static str, String> {
        let Some(value) = self.text(name) else {
            return Ok(allowed[0]);
        };
        allowed
            .iter()
            .find(|choice| **choice == value)
            .copied()
            .ok_or_else(|| format!("--{name} is {value:?}, expected one of {}", allowed.join(", ")))
    }

    /// Takes a number, in which `_` may separate digits.
    ///
    /// # Errors
    /// If the value is not a number of that type.
    pub fn number<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String> {
        let Some(value) = self.text(name) else {
            return Ok(default);
        };
        value.replace('_', "").parse().map_err(|_| format!("--{name} is {value:?}, expected a number"))
    }

    /// Takes a number of at least one.
    ///
    /// # Errors
    /// If the value is zero or not a number.
    pub fn count(&mut self, name: &str, default: usize) -> Result<usize, String> {
        match self.number(name, default)? {
            0 => Err(format!("--{name} is 0, expected at least 1")),
            count => Ok(count),
        }
    }

    /// Ends parsing.
    ///
    /// # Errors
    /// If something was given that nobody took.
    pub fn finish(self) -> Result<(), String> {
        if let Some(word) = self.words.last() {
            return Err(format!("unexpected argument {word:?}"));
        }
        match self.options.keys().next() {
            Some(name) => Err(format!("unknown option --{name}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split(' ').map(String::from))
    }

    #[test]
    fn what_nobody_takes_is_an_error() {
        assert_eq!(parse("w1 --recods 5").unwrap().finish().unwrap_err(), "unexpected argument \"w1\"");
        let mut args = parse("w1 --recods 5").unwrap();
        assert_eq!(args.word("a workload").unwrap(), "w1");
        assert_eq!(args.finish().unwrap_err(), "unknown option --recods");
    }

    #[test]
    fn wrong_values_are_errors_that_name_the_option() {
        assert!(parse("--records").unwrap_err().contains("--records lacks"));
        assert!(parse("--a 1 --a 2").unwrap_err().contains("--a is given twice"));
        assert!(parse("--threads 0").unwrap().count("threads", 1).unwrap_err().contains("at least 1"));
        assert!(
            parse("--shape x")
                .unwrap()
                .choice("shape", &["record", "batch"])
                .unwrap_err()
                .contains("record, batch")
        );
    }
}
