//! A cluster as a script of operations, for tests.
