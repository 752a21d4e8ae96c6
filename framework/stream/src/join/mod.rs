//! Joins: two keyed streams become one, record by record of one key.
//!
//! Every join begins with [`KeyedStream::join`] and says which records meet: any
//! ([`unbounded`](Join::unbounded)), those near in time ([`between`](Join::between)), those of one
//! window ([`window`](Join::window)), or each with the version of its moment
//! ([`as_of`](Join::as_of)). The last word names the step and says what becomes of records that
//! meet none: `inner`, `left`, `right` or `full`.

mod broadcast;
mod by_time;
mod cogroup;
mod frames;
mod interval;
mod near;
mod temporal;
mod unbounded;
mod window;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use afflux_wire::Status;

use crate::flow::Flow;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::merge::{Either, EitherKey};
use crate::operator::{KeyedOperator, OperatorCx, SideTag};
use crate::stream::Record;
use crate::window::{LatePolicy, LateRows};

pub use broadcast::{BroadcastOperator, Broadcasted};
pub(crate) use by_time::ByTime;
pub use frames::{Frames, JoinWindow};
pub use interval::{IntervalJoin, Offset};
pub use temporal::AsOfJoin;
pub use unbounded::UnboundedJoin;
pub use window::WindowJoin;

/// Two keyed streams of which it is not said yet which records meet.
#[must_use = "say which records meet: `.between(…)`, `.window(…)`, `.as_of()` or `.unbounded()`"]
pub struct Join<L: 'static, R: 'static, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> {
    left: KeyedStream<L, F>,
    right: KeyedStream<R, G>,
}

impl<L: Record, F: KeyOf<L>> KeyedStream<L, F> {
    /// Joins this stream with another by their keys. This one is the left side.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, minutes, vec_source};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let people = flow.source("people", vec_source(vec![(1_u32, "Ada".to_string())])).untimed();
    /// let orders = flow.source("orders", vec_source(vec![(7_u64, 1_u32)])).untimed();
    /// orders
    ///     .key_by(|order| order.1)
    ///     .join(people.key_by(|person| person.0))
    ///     .unbounded()
    ///     .ttl(minutes(30))
    ///     .inner("who-ordered", |order, person| (order.0, person.1.clone()))
    ///     .count("pairs");
    /// flow.finish().unwrap();
    /// ```
    pub fn join<R: Record, G: KeyOf<R, Key = F::Key>>(self, right: KeyedStream<R, G>) -> Join<L, R, F, G> {
        Join { left: self, right }
    }
}

/// What a join does with a record behind the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// Joins it with what is still there.
    Joined,
    /// Counts it and drops it.
    Dropped,
    /// Counts it and gives it to the side output.
    Aside,
}

impl Behind {
    const fn of<P: LatePolicy>() -> Self {
        if P::ASIDE { Behind::Aside } else { Behind::Dropped }
    }

    const fn name(self) -> &'static str {
        match self {
            Behind::Joined => "late joined",
            Behind::Dropped => "late dropped",
            Behind::Aside => "late aside",
        }
    }

    /// Does so with a late record.
    fn take<K: Key, L: Record, R: Record>(self, row: Either<L, R>, cx: &mut OperatorCx<'_, K>) {
        cx.count_late();
        if self == Behind::Aside {
            cx.side(&late_tag(), row);
        }
    }
}

/// Both sides in one task, and what is known of them while the pipeline is built.
struct Met<L: 'static, R: 'static, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> {
    both: KeyedStream<Either<L, R>, EitherKey<F, G>>,
    flow: Flow,
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> Join<L, R, F, G> {
    /// Brings both sides together. Where the join `needs` event time, a side without is refused.
    fn meet(self, name: &str, needs: Option<&str>) -> Met<L, R, F, G> {
        let (left, left_key) = self.left.parts();
        let (right, right_key) = self.right.parts();
        let flow = left.flow.clone();
        if let Some(what) = needs
            && !(left.timed && right.timed)
        {
            let side = |timed: bool, sources: &str| {
                format!("{sources} {}", if timed { "with event time" } else { "without event time" })
            };
            let (ours, theirs) = (flow.sources_of(left.chain), flow.sources_of(right.chain));
            flow.refuse(Status::invalid(format!(
                "pipeline {}: `{name}` {what}, and both sides need event time for that; left is {}, right is \
                 {}: say `.watermarks(…)` in place of `.untimed()`",
                flow.pipeline(),
                side(left.timed, &ours),
                side(right.timed, &theirs),
            )));
        }
        let left = KeyedStream::grouped(left, left_key);
        let right = KeyedStream::grouped(right, right_key);
        Met { both: left.connect(right), flow }
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> Met<L, R, F, G> {
    /// Refuses what is wrong with the join, if anything is.
    fn refuse(&self, name: &str, wrong: Option<String>) {
        if let Some(wrong) = wrong {
            let pipeline = self.flow.pipeline();
            self.flow.refuse(Status::invalid(format!("pipeline {pipeline}: `{name}` {wrong}")));
        }
    }

    /// The operator on both sides, with what the policy for late records gives.
    fn operate<P: LatePolicy, O>(
        self,
        name: &str,
        detail: &str,
        make: impl Fn() -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O::Output>
    where
        O: KeyedOperator<Key = F::Key, Input = Either<L, R>>,
    {
        let (results, sides) = self.both.operate_with_sides(name, detail, make);
        P::streams(results, LateRows(Box::new(move || sides.get(&late_tag()))))
    }
}

/// A record kept for those that may still meet it.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: DeserializeOwned"))]
pub(crate) struct Held<T> {
    pub(crate) row: T,
    /// Whether it has met one of the other side.
    pub(crate) met: bool,
}

/// Which sides' records come out alone when they have met none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alone {
    pub(crate) left: bool,
    pub(crate) right: bool,
}

impl Alone {
    const NONE: Alone = Alone { left: false, right: false };
    const LEFT: Alone = Alone { left: true, right: false };
    const RIGHT: Alone = Alone { left: false, right: true };
    const BOTH: Alone = Alone { left: true, right: true };

    const fn any(self) -> bool {
        self.left || self.right
    }

    const fn name(self) -> &'static str {
        match (self.left, self.right) {
            (false, false) => "inner",
            (true, false) => "left",
            (false, true) => "right",
            (true, true) => "full",
        }
    }
}

/// The side output of records that came too late to be joined.
pub(crate) const fn late_tag<L, R>() -> SideTag<Either<L, R>> {
    SideTag::new("late")
}
