//! Topics over a real Kafka: `tests/servers/kafka.sh start DIR` prints what `AFFLUX_TEST_KAFKA` has to be. The
//! tests of a broker that dies start one of their own.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

mod common;
mod exactly;
mod read;
mod write;
