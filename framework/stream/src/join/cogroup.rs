//! Co-groups: all records of a key in a window, of both sides, at once.

use std::marker::PhantomData;
use std::sync::Arc;

use super::Behind;
use super::frames::Frames;
use super::window::{Framed, WindowJoin};
use crate::Result;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::merge::Either;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::stream::Record;
use crate::time::Timestamp;
use crate::window::{LatePolicy, Window};

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P: LatePolicy> WindowJoin<L, R, F, G, P> {
    /// Hands over all records of a key in a window, of both sides, when the window has ended; at
    /// least one side has some. They stand in order of their times. The name identifies the step's
    /// state in checkpoints.
    ///
    /// ```
    /// use afflux_stream::{BoundedOutOfOrder, Flow, JobSettings, Late, Timestamp, Tumbling, minutes, secs, vec_source};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let time = |row: &(u32, i64)| Timestamp::from_millis(row.1);
    /// let bound = || BoundedOutOfOrder::by(secs(5));
    /// let asked = flow.source("asked", vec_source(vec![(7, 0)])).watermarks_by(bound(), time);
    /// let answered = flow.source("answered", vec_source(vec![(7, 40_000)])).watermarks_by(bound(), time);
    /// asked
    ///     .key_by(|row| row.0)
    ///     .join(answered.key_by(|row| row.0))
    ///     .window(Tumbling::of(minutes(1)))
    ///     .late(Late::Drop)
    ///     .co_group("unanswered", |key, window, asked, answered| {
    ///         (asked.len() > answered.len()).then(|| (*key, window.start))
    ///     })
    ///     .count("minutes-with-open-questions");
    /// flow.finish().unwrap();
    /// ```
    pub fn co_group<O: 'static, I: IntoIterator<Item = O>>(
        self,
        name: &str,
        group: impl Fn(&F::Key, Window, &[L], &[R]) -> I + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        let (frames, behind, group) = (self.frames, Behind::of::<P>(), Arc::new(group));
        let detail = format!("co-group, {}, {}", frames.name(), behind.name());
        let met = self.join.meet(name, Some("groups records of the same window"));
        met.refuse(name, self.wrong);
        met.operate::<P, _>(name, &detail, move || CoGroup {
            frames,
            behind,
            group: Arc::clone(&group),
            types: PhantomData,
        })
    }
}

struct CoGroup<K, L, R, O, J> {
    frames: Frames,
    behind: Behind,
    group: Arc<J>,
    types: PhantomData<fn(K, L, R) -> O>,
}

impl<K, L, R, O, I, J> KeyedOperator for CoGroup<K, L, R, O, J>
where
    K: Key,
    L: Record,
    R: Record,
    O: 'static,
    I: IntoIterator<Item = O>,
    J: Fn(&K, Window, &[L], &[R]) -> I + 'static,
{
    type Key = K;
    type Input = Either<L, R>;
    type Output = O;
    type State = Framed<L, R>;

    fn process(
        &mut self,
        state: &mut Self::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, K>,
        _: &mut Output<O>,
    ) -> Result<()> {
        let (time, fired) = (cx.time().unwrap_or_default().millis(), cx.watermark().millis());
        if self.frames.last_end(time) <= fired {
            self.behind.take(row, cx);
            return Ok(());
        }
        for window in self.frames.shared(time, time, fired) {
            cx.timer_at(window.end);
        }
        match row {
            Either::Left(row) => state.left.insert(time, row),
            Either::Right(row) => state.right.insert(time, row),
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Self::State,
        at: Timestamp,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let window = self.frames.ending(at.millis());
        let (from, to) = (window.start.millis(), window.last().millis());
        let (left, right) = (state.left.within(from, to), state.right.within(from, to));
        for row in (self.group)(cx.key(), window, state.left.slice(left), state.right.slice(right)) {
            out.emit_at(row, window.last());
        }
        state.purge(self.frames, at.millis());
        Ok(())
    }
}
