//! The invariants of the house, checked.
