//! Who runs a job.
