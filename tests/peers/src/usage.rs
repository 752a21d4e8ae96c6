//! What a process has used: processor time and memory.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use std::time::Instant;

/// User and system time of this process since it started, all threads, in seconds.
///
/// # Errors
/// If the system refuses to tell.
pub fn cpu_s() -> Result<f64, String> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(|error| format!("getrusage: {error}"))?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Peak resident memory of this process in MB (10^6 bytes).
///
/// From `VmHWM`, since the maximum that getrusage reports survives `exec` and may be the parent's.
///
/// # Errors
/// If `/proc/self/status` cannot be read.
pub fn peak_rss_mb() -> Result<f64, String> {
    status_mb("VmHWM:")
}

/// Resident memory of this process now, in MB (10^6 bytes).
///
/// # Errors
/// If `/proc/self/status` cannot be read.
pub fn rss_mb() -> Result<f64, String> {
    status_mb("VmRSS:")
}

fn status_mb(field: &str) -> Result<f64, String> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| format!("/proc/self/status: {error}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<f64>().ok())
        .map(|kib| kib * 1024.0 / 1e6)
        .ok_or_else(|| format!("/proc/self/status has no {field} in kB"))
}

/// A point in wall time and processor time, from which a run is measured.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    wall: Instant,
    cpu_s: f64,
}

impl Mark {
    /// Now.
    ///
    /// # Errors
    /// As [`cpu_s`].
    pub fn now() -> Result<Self, String> {
        Ok(Self { wall: Instant::now(), cpu_s: cpu_s()? })
    }

    /// Wall and processor seconds of this process since the mark.
    ///
    /// # Errors
    /// As [`cpu_s`].
    pub fn spent(&self) -> Result<(f64, f64), String> {
        Ok((self.wall.elapsed().as_secs_f64(), cpu_s()? - self.cpu_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_as_processor_time_and_memory_as_peak() {
        let mark = Mark::now().unwrap();
        let mut block = vec![1u8; 64 << 20];
        while mark.spent().unwrap().1 < 0.02 {
            block.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
        }
        assert!(std::hint::black_box(block)[5] & 1 == 1);
        assert!(peak_rss_mb().unwrap() > 64.0);
    }
}
