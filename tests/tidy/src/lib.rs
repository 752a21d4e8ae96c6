//! The invariants of the house, checked: what the rules in `tests/` look at.
//!
//! Reading order: [`House`] (the repository), [`Source`] (one Rust file, its comments, texts and tests set
//! apart), [`Manifest`] (one `Cargo.toml`), [`Page`] (one Markdown file), [`Findings`] (what a rule reports).
//!
//! Not here: what the compiler or clippy checks already.

mod findings;
mod house;
mod manifest;
mod page;
mod source;

pub use findings::Findings;
pub use house::House;
pub use manifest::{Dependency, Kind, Manifest};
pub use page::Page;
pub use source::Source;
