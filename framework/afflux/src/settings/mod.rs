//! The settings of a process: `afflux.toml` < `AFFLUX_*` environment < flags.
//!
//! [`SCHEMA`] declares every setting once; an unknown name or a value of another type is an error that
//! says where it stands and what was meant. `check` prints each value with its [`Origin`].

mod declared;
mod file;
mod layers;
mod schema;
mod value;

pub use layers::{Layers, Origin};
pub use schema::{SCHEMA, Setting, Settings, find};
pub use value::{Kind, Value};
