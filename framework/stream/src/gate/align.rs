//! How far apart in event time the tasks of a source may be: what each has told, and who waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long the place of other processes holds tasks here without being told again: longer than a
/// coordinator takes to be followed by another.
pub(crate) const OTHERS_HOLD: Duration = Duration::from_secs(10);

/// The place of one source's tasks in event time, for the tasks of one process.
pub(crate) struct AlignBoard {
    /// By subtask: the latest record of its slowest split. `i64::MIN`: it has read nothing yet;
    /// `i64::MAX`: it holds nobody back.
    places: Vec<AtomicI64>,
    /// The tasks in other processes.
    others: Mutex<Others>,
    /// By subtask: who waits for others to come after.
    waiting: Mutex<Vec<Option<Waker>>>,
}

/// What is known of the tasks in other processes.
struct Others {
    /// The place of the slowest of them.
    least: i64,
    /// When that was told, at first when this board was made.
    heard: Instant,
}

impl AlignBoard {
    /// `here` says which of the tasks run in this process. The others hold these back as one that has
    /// read nothing yet does, until [`AlignBoard::hear`] says more or [`OTHERS_HOLD`] is over.
    pub(crate) fn new(here: impl Iterator<Item = bool>, now: Instant) -> Arc<Self> {
        let here: Vec<bool> = here.collect();
        let alone = here.iter().all(|here| *here);
        let place = |here: &bool| AtomicI64::new(if *here { i64::MIN } else { i64::MAX });
        Arc::new(Self {
            places: here.iter().map(place).collect(),
            others: Mutex::new(Others { least: if alone { i64::MAX } else { i64::MIN }, heard: now }),
            waiting: Mutex::new(vec![None; here.len()]),
        })
    }

    /// The place of the slowest task of this process: what other processes are told.
    pub(crate) fn least_here(&self) -> i64 {
        self.places.iter().map(|place| place.load(Relaxed)).min().unwrap_or(i64::MAX)
    }

    /// The place of the slowest task, and when to look again although nobody tells anything: then what
    /// was heard of other processes is too old.
    pub(crate) fn least(&self, now: Instant) -> (i64, Option<Instant>) {
        let here = self.least_here();
        let others = self.others.lock();
        let until = others.heard + OTHERS_HOLD;
        if others.least >= here || now >= until { (here, None) } else { (others.least, Some(until)) }
    }

    /// Tells where a task is, and wakes those that waited for it.
    pub(crate) fn tell(&self, subtask: u32, place: i64) {
        let Some(mine) = self.places.get(subtask as usize) else { return };
        if mine.swap(place, Relaxed) != place {
            self.wake();
        }
    }

    /// Takes in where the slowest task of all other processes is, and wakes those that waited for it.
    pub(crate) fn hear(&self, least: i64, now: Instant) {
        let mut others = self.others.lock();
        let before = std::mem::replace(&mut *others, Others { least, heard: now }).least;
        drop(others);
        if before != least {
            self.wake();
        }
    }

    fn wake(&self) {
        // The lock orders this against a task that registers and then looks again.
        let woken: Vec<Waker> = self.waiting.lock().iter_mut().filter_map(Option::take).collect();
        woken.into_iter().for_each(Waker::wake);
    }

    /// Wakes this task at the next change; look at [`AlignBoard::least`] once more afterwards.
    pub(crate) fn wait(&self, subtask: u32, task: &Context<'_>) {
        if let Some(place) = self.waiting.lock().get_mut(subtask as usize) {
            *place = Some(task.waker().clone());
        }
    }
}

/// The boards of one process, by source.
#[derive(Clone, Default)]
pub(crate) struct AlignBoards(Arc<Mutex<BTreeMap<String, Arc<AlignBoard>>>>);

impl AlignBoards {
    /// A source's board, which the first of its tasks makes; see [`AlignBoard::new`].
    pub(crate) fn board(
        &self,
        source: &str,
        here: impl Iterator<Item = bool>,
        now: Instant,
    ) -> Arc<AlignBoard> {
        let mut boards = self.0.lock();
        let board = boards.entry(source.to_owned()).or_insert_with(|| AlignBoard::new(here, now));
        Arc::clone(board)
    }

    /// Takes in the places of other processes and returns those of this one, both by source.
    pub(crate) fn exchange(&self, others: &[(String, i64)], now: Instant) -> Vec<(String, i64)> {
        let boards = self.0.lock();
        for (source, least) in others {
            if let Some(board) = boards.get(source) {
                board.hear(*least, now);
            }
        }
        boards.iter().map(|(source, board)| (source.clone(), board.least_here())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_here_are_compared_by_what_they_told() {
        let now = Instant::now();
        let board = AlignBoard::new([true, true].into_iter(), now);
        assert_eq!(board.least(now), (i64::MIN, None));
        board.tell(0, 50);
        board.tell(1, 70);
        assert_eq!(board.least(now), (50, None));
        board.tell(0, i64::MAX);
        assert_eq!((board.least(now), board.least_here()), ((70, None), 70));
    }

    #[test]
    fn other_processes_hold_until_they_come_after_or_are_not_heard_of_any_more() {
        let now = Instant::now();
        let board = AlignBoard::new([true, false].into_iter(), now);
        board.tell(0, 50);
        assert_eq!(board.least(now), (i64::MIN, Some(now + OTHERS_HOLD)), "nothing is known of the other");
        let then = now + Duration::from_secs(1);
        board.hear(20, then);
        assert_eq!((board.least(then), board.least_here()), ((20, Some(then + OTHERS_HOLD)), 50));
        board.hear(60, then);
        assert_eq!(board.least(then), (50, None), "what is ahead holds nobody");
        board.hear(20, then);
        assert_eq!(board.least(then + OTHERS_HOLD), (50, None), "what is too old holds nobody");
    }

    #[test]
    fn who_waits_is_woken_once_by_the_next_change() {
        let now = Instant::now();
        let board = AlignBoard::new([true, true, false].into_iter(), now);
        let (waker, count) = counting_waker();
        board.wait(0, &Context::from_waker(&waker));
        board.tell(1, 5);
        board.tell(1, 5);
        board.tell(1, 6);
        assert_eq!(count.0.load(Relaxed), 1);
        board.wait(0, &Context::from_waker(&waker));
        board.hear(7, now);
        board.hear(8, now);
        assert_eq!(count.0.load(Relaxed), 2);
    }

    struct Count(AtomicI64);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    fn counting_waker() -> (Waker, Arc<Count>) {
        let count = Arc::new(Count(AtomicI64::new(0)));
        (Waker::from(Arc::clone(&count)), count)
    }
}
