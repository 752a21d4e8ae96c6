//! Suites that run over every backing: memory and TCP, one process and several.

pub mod shop;
