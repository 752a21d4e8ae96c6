//! What a rule found.

use std::fmt::Display;

/// The places where a rule is broken, and what to do about it.
///
/// ```should_panic
/// let mut findings = afflux_tidy::Findings::new("a file holds one noun", "split it");
/// findings.add("framework/wire/src/id.rs", 7, "two nouns");
/// findings.finish();
/// ```
#[derive(Debug)]
pub struct Findings {
    rule: &'static str,
    cure: &'static str,
    lines: Vec<String>,
}

impl Findings {
    /// No place yet. `rule` is a sentence that is to be true; `cure` says what to do where it is not.
    pub const fn new(rule: &'static str, cure: &'static str) -> Self {
        Self { rule, cure, lines: Vec::new() }
    }

    /// Adds a place, its line counted from 1.
    pub fn add(&mut self, path: impl Display, line: usize, what: impl Display) {
        self.lines.push(format!("{path}:{line}: {what}"));
    }

    /// How many places there are.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// Ends the rule.
    ///
    /// # Panics
    /// When there is a place, naming all of them with the cure.
    #[expect(clippy::panic, reason = "a rule that is broken fails its test")]
    pub fn finish(self) {
        if !self.lines.is_empty() {
            panic!("broken: {}\n  {}\ncure: {}", self.rule, self.lines.join("\n  "), self.cure);
        }
    }
}
