//! The benchmarks: streams, calls and local messages, as JSON.
