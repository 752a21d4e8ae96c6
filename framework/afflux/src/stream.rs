//! What is computed: flows of records, their time, keys, windows, joins, patterns, and state.
//!
//! All of `afflux-stream`; the chapters of the book on pipelines say what to use when.

pub use afflux_stream::*;
