//! Every program of the book (`docs/book`) as a documentation test, which is compiled and not run.
//!
//! A chapter shows what matters. What it leaves out stands in `contexts/CHAPTER.N.rs` for its program N, with
//! a line `//> here` where the program comes. A program without a context is whole.
//! Those over Kafka need the feature `kafka`.

include!(concat!(env!("OUT_DIR"), "/programs.rs"));
