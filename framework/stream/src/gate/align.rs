//! How far apart in event time the tasks of a source may be: what each has told, and who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::task::{Context, Waker};

use parking_lot::Mutex;

/// The place of one source's tasks in event time, for the tasks of one process.
pub(crate) struct AlignBoard {
    /// By subtask: the latest record of its slowest split. `i64::MIN`: it has read nothing yet;
    /// `i64::MAX`: it holds nobody back.
    places: Vec<AtomicI64>,
    /// By subtask: who waits for others to come after.
    waiting: Mutex<Vec<Option<Waker>>>,
}

impl AlignBoard {
    /// `here` says which of the tasks run in this process; the others hold nobody back.
    pub(crate) fn new(here: impl Iterator<Item = bool>) -> Arc<Self> {
        let places: Vec<AtomicI64> =
            here.map(|here| AtomicI64::new(if here { i64::MIN } else { i64::MAX })).collect();
        let waiting = Mutex::new(vec![None; places.len()]);
        Arc::new(Self { places, waiting })
    }

    /// The place of the slowest task.
    pub(crate) fn least(&self) -> i64 {
        self.places.iter().map(|place| place.load(Relaxed)).min().unwrap_or(i64::MAX)
    }

    /// Tells where a task is, and wakes those that waited for it.
    pub(crate) fn tell(&self, subtask: u32, place: i64) {
        let Some(mine) = self.places.get(subtask as usize) else { return };
        if mine.swap(place, Relaxed) == place {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_other_processes_hold_nobody_back() {
        let board = AlignBoard::new([true, false, true].into_iter());
        assert_eq!(board.least(), i64::MIN);
        board.tell(0, 50);
        board.tell(2, 70);
        assert_eq!(board.least(), 50);
        board.tell(0, i64::MAX);
        assert_eq!(board.least(), 70);
    }

    #[test]
    fn who_waits_is_woken_once_by_the_next_change() {
        let board = AlignBoard::new([true, true].into_iter());
        let (waker, count) = counting_waker();
        board.wait(0, &Context::from_waker(&waker));
        board.tell(1, 5);
        board.tell(1, 5);
        board.tell(1, 6);
        assert_eq!(count.0.load(Relaxed), 1);
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
