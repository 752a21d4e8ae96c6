//! What a worker refuses: coordinators that were followed by another, attempts that are over.

use std::collections::BTreeMap;

use afflux_wire::{Code, Status};

/// Jobs whose last stopped attempt is remembered.
const OVER_JOBS_MAX: usize = 4_096;

/// What a worker has seen of coordinators and attempts.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// The greatest token that a coordinator has shown.
    token: u64,
    /// The last attempt that was stopped, by job.
    over: BTreeMap<String, u64>,
}

impl Fences {
    /// Lets a coordinator in; 0 is the node itself.
    ///
    /// # Errors
    /// `ABORTED`: another leads.
    pub(super) fn admit(&mut self, token: u64) -> Result<(), Status> {
        if token != 0 && token < self.token {
            return Err(Status::new(
                Code::Aborted,
                format!("the coordinator with token {token} was followed by that with token {}", self.token),
            ));
        }
        self.token = token.max(self.token);
        Ok(())
    }

    /// Lets an attempt begin; `runs` is the one that runs.
    ///
    /// # Errors
    /// `ABORTED`: it, or a later one, has run here.
    pub(super) fn begin(&self, job: &str, attempt: u64, runs: Option<u64>) -> Result<(), Status> {
        match runs.max(self.over.get(job).copied()) {
            Some(last) if last >= attempt => Err(Status::new(
                Code::Aborted,
                format!("attempt {attempt} of job {job} is fenced: attempt {last} has run here"),
            )),
            _ => Ok(()),
        }
    }

    /// An attempt was stopped: a deployment of it that comes late is refused.
    pub(super) fn stopped(&mut self, job: &str, attempt: u64) {
        let last = self.over.entry(job.to_owned()).or_default();
        *last = attempt.max(*last);
        if self.over.len() > OVER_JOBS_MAX {
            self.over.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_refuses_what_is_over_and_who_is_followed() {
        let mut fences = Fences::default();
        fences.admit(7).unwrap();
        fences.admit(9).unwrap();
        assert_eq!(fences.admit(7).unwrap_err().code, Code::Aborted);
        fences.admit(0).unwrap();
        assert_eq!(fences.admit(8).unwrap_err().code, Code::Aborted, "the node itself changes nothing");
        fences.begin("p-1", 1, None).unwrap();
        assert_eq!(fences.begin("p-1", 1, Some(1)).unwrap_err().code, Code::Aborted);
        fences.begin("p-1", 2, Some(1)).unwrap();
        fences.stopped("p-1", 3);
        fences.stopped("p-1", 2);
        assert_eq!(fences.begin("p-1", 3, None).unwrap_err().code, Code::Aborted, "a late deployment");
        fences.begin("p-1", 4, None).unwrap();
        fences.begin("p-2", 1, None).unwrap();
    }

    #[test]
    fn so_many_jobs_are_remembered_and_no_more() {
        let mut fences = Fences::default();
        for job in 0..=OVER_JOBS_MAX {
            fences.stopped(&format!("{job:05}"), 1);
        }
        assert_eq!(fences.over.len(), OVER_JOBS_MAX);
    }
}
