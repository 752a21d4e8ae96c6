//! The settings of a job from the texts of its request.

use std::collections::BTreeMap;

use afflux_stream::job::RestartStrategy;
use afflux_stream::{JobSettings, OnError, OnPoison, StateBackend};
use afflux_wire::Status;

use crate::node::guarantee_named;

/// Keys that a job's request may set.
const KEYS: [&str; 20] = [
    "pipeline.parallelism",
    "pipeline.linger_ms",
    "pipeline.chaining",
    "pipeline.guarantee",
    "source.on_error",
    "checkpoint.interval_ms",
    "checkpoint.incremental",
    "pipeline.rescale",
    "restart.strategy",
    "restart.backoff_initial_ms",
    "restart.backoff_max_ms",
    "restart.backoff_multiplier",
    "restart.failures_max",
    "restart.window_ms",
    "replay",
    "state.backend",
    "pipeline.on_poison",
    "pipeline.poison_failures",
    "pipeline.poison_records_max",
    "pipeline.poison_show",
];

/// Reads texts over `defaults`.
///
/// # Errors
/// `INVALID_ARGUMENT` with key, value and expectation; an unknown key suggests the nearest.
pub(super) fn job_settings(
    defaults: JobSettings,
    texts: &BTreeMap<String, String>,
) -> Result<JobSettings, Status> {
    let mut settings = defaults;
    for (key, value) in texts {
        let wrong =
            |expected: &str| Status::invalid(format!("setting {key} is `{value}`, expected {expected}"));
        match key.as_str() {
            "pipeline.parallelism" | "parallelism" => {
                settings.parallelism = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=1024).contains(n))
                    .ok_or_else(|| wrong("a number from 1 to 1024"))?;
            }
            "pipeline.linger_ms" | "linger_ms" => {
                settings.linger_ms =
                    value.parse().map_err(|_| wrong("a number of milliseconds, such as 10"))?;
            }
            "pipeline.chaining" | "chaining" => {
                settings.chaining = match value.as_str() {
                    "on" => true,
                    "off" => false,
                    _ => return Err(wrong("`on` or `off`")),
                };
            }
            "pipeline.guarantee" => {
                settings.guarantee = match value.as_str() {
                    "any" => None,
                    word => Some(
                        guarantee_named(word)
                            .ok_or_else(|| wrong("`any`, `at_least_once` or `exactly_once`"))?,
                    ),
                };
            }
            "checkpoint.interval_ms" => {
                settings.checkpoint_interval_ms =
                    value.parse().map_err(|_| wrong("a number of milliseconds, such as 10000, or 0"))?;
            }
            "checkpoint.incremental" => {
                settings.checkpoint_incremental = match value.as_str() {
                    "on" => true,
                    "off" => false,
                    _ => return Err(wrong("`on` or `off`")),
                };
            }
            "pipeline.rescale" => {
                settings.rescale_auto = match value.as_str() {
                    "auto" => true,
                    "manual" => false,
                    _ => return Err(wrong("`auto` or `manual`")),
                };
            }
            "restart.strategy" => {
                settings.restart.strategy = match value.as_str() {
                    "auto" => RestartStrategy::Auto,
                    "exponential" => RestartStrategy::Exponential,
                    "none" => RestartStrategy::Never,
                    _ => return Err(wrong("`auto`, `exponential` or `none`")),
                };
            }
            "restart.backoff_initial_ms"
            | "restart.backoff_max_ms"
            | "restart.backoff_multiplier"
            | "restart.failures_max"
            | "restart.window_ms" => {
                let number = value.parse().map_err(|_| wrong("a whole number, such as 100"))?;
                let restart = &mut settings.restart;
                match key.as_str() {
                    "restart.backoff_initial_ms" => restart.backoff_initial_ms = number,
                    "restart.backoff_max_ms" => restart.backoff_max_ms = number,
                    "restart.backoff_multiplier" => restart.backoff_multiplier = number,
                    "restart.failures_max" => restart.failures_max = number,
                    _ => restart.window_ms = number,
                }
            }
            "pipeline.on_poison" => {
                settings.poison.policy = match value.as_str() {
                    "fail" => OnPoison::Fail,
                    "set_aside" => OnPoison::SetAside,
                    _ => return Err(wrong("`fail` or `set_aside`")),
                };
            }
            "pipeline.poison_failures" => {
                settings.poison.failures = value
                    .parse()
                    .ok()
                    .filter(|n| (2..=1_000).contains(n))
                    .ok_or_else(|| wrong("a number from 2 to 1000"))?;
            }
            "pipeline.poison_records_max" => {
                settings.poison.records_max = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=1_000).contains(n))
                    .ok_or_else(|| wrong("a number from 1 to 1000"))?;
            }
            "pipeline.poison_show" => {
                settings.poison.show = match value.as_str() {
                    "on" => true,
                    "off" => false,
                    _ => return Err(wrong("`on` or `off`")),
                };
            }
            "source.on_error" => {
                settings.on_error = match value.as_str() {
                    "fail" => OnError::Fail,
                    "skip" => OnError::Skip,
                    _ => return Err(wrong("`fail` or `skip`")),
                };
            }
            "state.backend" => {
                settings.state_backend = match value.as_str() {
                    "memory" => StateBackend::Memory,
                    "disk" => StateBackend::Disk,
                    _ => return Err(wrong("`memory` or `disk`")),
                };
            }
            "replay" => {
                let rate = value.trim_end_matches('x').parse::<f64>().ok();
                settings.replay = Some(
                    rate.filter(|r| r.is_finite() && *r > 0.0)
                        .ok_or_else(|| wrong("a multiple of real time, such as 20000x"))?,
                );
            }
            _ => {
                let nearest = KEYS
                    .iter()
                    .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
                return Err(Status::invalid(format!(
                    "unknown job setting `{key}`; did you mean `{}`?",
                    nearest.unwrap_or(&"")
                )));
            }
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Result<JobSettings, Status> {
        job_settings(JobSettings::default(), &BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn a_setting_is_read_or_refused_with_what_was_expected() {
        assert_eq!(read("source.on_error", "skip").unwrap().on_error, OnError::Skip);
        assert!(!read("pipeline.chaining", "off").unwrap().chaining);
        assert_eq!(read("restart.failures_max", "3").unwrap().restart.failures_max, 3);
        assert_eq!(read("restart.strategy", "none").unwrap().restart.strategy, RestartStrategy::Never);
        assert!(read("restart.strategy", "never").unwrap_err().message.contains("`none`"));
        assert!(read("pipeline.chaining", "no").unwrap_err().message.contains("`off`"));
        assert_eq!(read("state.backend", "disk").unwrap().state_backend, StateBackend::Disk);
        assert!(read("state.backend", "tape").unwrap_err().message.contains("`disk`"));
        assert_eq!(read("replay", "20000x").unwrap().replay, Some(20000.0));
        assert_eq!(read("pipeline.on_poison", "set_aside").unwrap().poison.policy, OnPoison::SetAside);
        assert!(read("pipeline.poison_failures", "1").unwrap_err().message.contains("from 2 to 1000"));
        assert!(read("replay", "fast").unwrap_err().message.contains("20000x"));
        assert!(read("source.on_eror", "skip").unwrap_err().message.contains("`source.on_error`"));
    }
}
