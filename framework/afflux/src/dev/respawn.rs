//! When a node process that has died is started again.

use std::time::Duration;

use tokio::time::Instant;

/// The pause before a node is started again that has died once; it doubles with each death.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Who has lived for so long has died for the first time again.
const LIVED: Duration = Duration::from_secs(30);
/// Deaths in a row after which a node is left dead.
const DEATHS_MAX: u32 = 10;

/// The deaths of one node process.
#[derive(Debug)]
pub(crate) struct Respawn {
    deaths: u32,
    started: Instant,
    due: Option<Instant>,
    dead: bool,
}

impl Respawn {
    /// It has just been started.
    pub(crate) fn new(now: Instant) -> Self {
        Self { deaths: 0, started: now, due: None, dead: false }
    }

    /// It has died: the pause before it is to be started again, unless it has died too often.
    pub(crate) fn died(&mut self, now: Instant) -> Option<Duration> {
        if now.duration_since(self.started) >= LIVED {
            self.deaths = 0;
        }
        self.deaths += 1;
        self.dead = true;
        if self.deaths > DEATHS_MAX {
            self.due = None;
            return None;
        }
        let pause = PAUSE_FIRST.saturating_mul(1 << (self.deaths - 1).min(16)).min(PAUSE_MAX);
        self.due = Some(now + pause);
        Some(pause)
    }

    /// When it is to be started again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It was started again.
    pub(crate) fn started(&mut self, now: Instant) {
        (self.started, self.due, self.dead) = (now, None, false);
    }

    /// Whether its death was noticed and it was not started again.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_a_long_life_makes_up_for_deaths() {
        let mut now = Instant::now();
        let mut respawn = Respawn::new(now);
        let mut pauses = Vec::new();
        for _ in 0..3 {
            pauses.push(respawn.died(now).unwrap().as_millis());
            assert!(respawn.due().is_some());
            respawn.started(now);
            assert_eq!(respawn.due(), None);
        }
        assert_eq!(pauses, [200, 400, 800]);
        now += LIVED;
        assert_eq!(respawn.died(now).unwrap().as_millis(), 200);
    }

    #[test]
    fn who_dies_again_and_again_is_left_dead() {
        let now = Instant::now();
        let mut respawn = Respawn::new(now);
        let deaths = (0..).take_while(|_| respawn.died(now).is_some()).count();
        assert_eq!((deaths, respawn.due()), (DEATHS_MAX as usize, None));
    }
}
