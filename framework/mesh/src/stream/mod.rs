//! Streaming calls: items with credits, many in a frame.

mod raw;

pub use raw::RawStream;
