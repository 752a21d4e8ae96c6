//! `dev`: a whole cluster on this machine, each node a process of the same binary.

mod child;
mod file;
mod launcher;
mod respawn;

pub use file::{DIRECTORY, DevFile, DevNode};
pub(crate) use launcher::launch;
