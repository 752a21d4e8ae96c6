//! Operators that users write: a struct whose `#[state]` fields hold the state of the current key.

use crate::Result;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::operator::{KeyedOperator, OperatorCx, Output, SideOutputs};
use crate::state::{State, StateField};
use crate::stream::{Record, Stream};
use crate::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What `derive(Operator)` says of a struct: its types, and which of its fields are state.
pub trait OperatorSpec: Send + Sync + 'static {
    /// What comes in.
    type Input: 'static;
    /// What goes out.
    type Output: 'static;
    /// What records are grouped by.
    type Key: Key;
    /// The state fields together.
    type States: State;
    /// Names of the state fields, in the order of [`States`](Self::States).
    const STATES: &'static [&'static str];
    /// The same operator with empty state, for a task.
    fn fresh(&self) -> Self;
    /// Exchanges the state fields with these: the state of another key.
    fn exchange(&mut self, states: &mut Self::States);
}

/// The work of an operator whose struct has `derive(Operator)`.
///
/// While a method runs, the `#[state]` fields hold the state of the current key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` says what it is, but not what it does",
    label = "write `impl Process for {Self}` with a method `process`",
    note = "`derive(Operator)` declares input, output, key and state; `Process` is the work on one record"
)]
pub trait Process: OperatorSpec {
    /// Takes one record.
    ///
    /// # Errors
    /// Fails the pipeline, with the operator's name in front.
    fn process(
        &mut self,
        row: Self::Input,
        cx: &mut OperatorCx<'_, Self::Key>,
        out: &mut Output<Self::Output>,
    ) -> Result<()>;

    /// The watermark has reached a moment asked for with [`OperatorCx::timer_at`].
    ///
    /// # Errors
    /// As [`process`](Self::process).
    fn on_timer(
        &mut self,
        _at: Timestamp,
        _cx: &mut OperatorCx<'_, Self::Key>,
        _out: &mut Output<Self::Output>,
    ) -> Result<()> {
        Ok(())
    }

    /// The clock has reached a moment asked for with [`OperatorCx::clock_timer_at`], or the input
    /// has ended before.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    fn on_clock(
        &mut self,
        _at: Timestamp,
        _cx: &mut OperatorCx<'_, Self::Key>,
        _out: &mut Output<Self::Output>,
    ) -> Result<()> {
        Ok(())
    }
}

/// Runs a [`Process`] as a [`KeyedOperator`]: the state of the key is swapped into the fields, and
/// out again. `Harness::of(Processing::of(operator))` tests one.
pub struct Processing<P>(P);

impl<P: Process> Processing<P> {
    /// The operator, ready to run.
    pub const fn of(operator: P) -> Self {
        Self(operator)
    }

    fn with(&mut self, states: &mut P::States, work: impl FnOnce(&mut P) -> Result<()>) -> Result<()> {
        self.0.exchange(states);
        let done = work(&mut self.0);
        self.0.exchange(states);
        done
    }
}

impl<P: Process> KeyedOperator for Processing<P> {
    type Key = P::Key;
    type Input = P::Input;
    type Output = P::Output;
    type State = P::States;

    #[inline]
    fn process(
        &mut self,
        states: &mut P::States,
        row: P::Input,
        cx: &mut OperatorCx<'_, P::Key>,
        out: &mut Output<P::Output>,
    ) -> Result<()> {
        self.with(states, |operator| operator.process(row, cx, out))
    }
    fn on_timer(
        &mut self,
        states: &mut P::States,
        at: Timestamp,
        cx: &mut OperatorCx<'_, P::Key>,
        out: &mut Output<P::Output>,
    ) -> Result<()> {
        self.with(states, |operator| operator.on_timer(at, cx, out))
    }
    fn on_clock(
        &mut self,
        states: &mut P::States,
        at: Timestamp,
        cx: &mut OperatorCx<'_, P::Key>,
        out: &mut Output<P::Output>,
    ) -> Result<()> {
        self.with(states, |operator| operator.on_clock(at, cx, out))
    }
}

impl<T: Record, F: KeyOf<T>> KeyedStream<T, F> {
    /// Runs an operator that has `derive(Operator)` on each key. The name identifies its state in
    /// checkpoints.
    pub fn process<P>(self, name: &str, operator: P) -> Stream<P::Output>
    where
        P: Process<Key = F::Key, Input = T>,
    {
        self.process_with_sides(name, operator).0
    }

    /// The same, with the side outputs of the operator, each to be taken by its tag.
    pub fn process_with_sides<P>(self, name: &str, operator: P) -> (Stream<P::Output>, SideOutputs)
    where
        P: Process<Key = F::Key, Input = T>,
    {
        self.operate_with_sides(name, "process", move || Processing(operator.fresh()))
    }
}

/// A state field with its time to live in milliseconds; 0: it lives for ever. `derive(Operator)`
/// puts the fields of a struct into these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent, bound(serialize = "S: Serialize", deserialize = "S: DeserializeOwned"))]
pub struct Lasting<S, const TTL_MS: i64>(pub S);

impl<S: StateField, const TTL_MS: i64> State for Lasting<S, TTL_MS> {
    const EXPIRES: bool = TTL_MS > 0;
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn expire(&mut self, now: i64) {
        self.0.prepare(now, TTL_MS);
    }
    fn expires_at(&self) -> Option<i64> {
        if TTL_MS > 0 { self.0.ends_at() } else { None }
    }
}

macro_rules! states {
    ($($name:ident . $index:tt),+) => {
        impl<$($name: State),+> State for ($($name,)+) {
            const EXPIRES: bool = false $(|| $name::EXPIRES)+;
            fn is_empty(&self) -> bool {
                true $(&& self.$index.is_empty())+
            }
            fn expire(&mut self, now: i64) {
                $(self.$index.expire(now);)+
            }
            fn expires_at(&self) -> Option<i64> {
                [$(self.$index.expires_at()),+].into_iter().flatten().min()
            }
        }
    };
}
states!(A.0);
states!(A.0, B.1);
states!(A.0, B.1, C.2);
states!(A.0, B.1, C.2, D.3);
states!(A.0, B.1, C.2, D.3, E.4);
states!(A.0, B.1, C.2, D.3, E.4, F.5);
states!(A.0, B.1, C.2, D.3, E.4, F.5, G.6);
states!(A.0, B.1, C.2, D.3, E.4, F.5, G.6, H.7);
