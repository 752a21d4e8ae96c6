//! Streaming calls: items with credits, many in a frame; and large bodies, which travel in parts.
//!
//! A [`Stream`] is one side's end of one call. Items that are sent are encoded straight into its packets; the data
//! connection's writer takes a packet of each stream in turn, as it becomes free. Items that come are blocks of
//! bytes, which whoever asks for an item decodes. Where both ends are in one process and one of them has no types,
//! two `Stream`s are tied to each other instead of to a link.

mod body;
mod half;
mod raw;
mod state;

pub(crate) use body::{Body, Budget};
pub use raw::RawStream;
pub(crate) use state::{Stream, Turned};
