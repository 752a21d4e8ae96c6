//! Windows that give more than one result.

use std::marker::PhantomData;

use super::{Firing, Global, Panes, ProcessingTime, Session, Sliding, Trigger, Tumbling};
use crate::stage::window::Assign;
use crate::windowed::WindowKind;

/// Windows `W` with a trigger, an allowed lateness, or both; `M` says whether results tell which of
/// their window's results they are.
#[derive(Clone, Copy, Debug)]
pub struct Triggered<W, M = Plain> {
    pub(crate) window: W,
    pub(crate) trigger: Trigger,
    /// Milliseconds.
    pub(crate) lateness: i64,
    pub(crate) mark: PhantomData<M>,
}

/// Windows that a trigger can be put on.
#[diagnostic::on_unimplemented(
    message = "`{Self}` takes no trigger",
    note = "triggers go on `Tumbling`, `Sliding`, `Session`, `Global`, and windows of the clock"
)]
pub trait Triggers: Sized {
    /// The windows below.
    type Base: Rules + WindowKind;
    /// Whether results tell which of their window's results they are.
    type Mark: Marks;
    #[doc(hidden)]
    fn triggered(self) -> Triggered<Self::Base, Self::Mark>;
}

impl<W: Rules + WindowKind, M: Marks> Triggers for Triggered<W, M> {
    type Base = W;
    type Mark = M;
    fn triggered(self) -> Self {
        self
    }
}

macro_rules! triggers {
    ($($kind:ty),*) => {$(
        impl Triggers for $kind {
            type Base = Self;
            type Mark = Plain;
            fn triggered(self) -> Triggered<Self, Plain> {
                Triggered { window: self, trigger: Trigger::event_time(), lateness: 0, mark: PhantomData }
            }
        }
    )*};
}
triggers!(Tumbling, Sliding, Session, Global, ProcessingTime<Tumbling>, ProcessingTime<Sliding>);

/// Windows of event time: records can be late for them.
#[diagnostic::on_unimplemented(
    message = "nothing is late in `{Self}`",
    note = "only windows of event time have an allowed lateness: `Tumbling`, `Sliding`, `Session`"
)]
pub trait EventTime {}
impl EventTime for Tumbling {}
impl EventTime for Sliding {}
impl EventTime for Session {}

/// Where the records of a kind of windows belong.
#[doc(hidden)]
pub trait Rules {
    fn describe(&self) -> WindowDescription;
}

/// What the engine knows of a kind of windows.
#[doc(hidden)]
pub struct WindowDescription {
    pub(crate) assign: Assign,
    pub(crate) by_clock: bool,
    pub(crate) detail: String,
    pub(crate) wrong: Option<String>,
}

impl Rules for Tumbling {
    fn describe(&self) -> WindowDescription {
        let assign = Assign::Fixed(Panes::new(self.size_ms(), self.size_ms()));
        let detail = format!("tumbling {} ms", self.size_ms());
        WindowDescription { assign, by_clock: false, detail, wrong: None }
    }
}

impl Rules for Sliding {
    fn describe(&self) -> WindowDescription {
        let detail = format!("sliding {} ms every {} ms", self.size_ms, self.slide_ms);
        let assign = Assign::Fixed(self.panes());
        WindowDescription { assign, by_clock: false, detail, wrong: self.wrong() }
    }
}

impl Rules for Session {
    fn describe(&self) -> WindowDescription {
        let detail = format!("sessions, gap {} ms", self.gap_ms);
        WindowDescription { assign: Assign::Session(self.gap_ms), by_clock: false, detail, wrong: None }
    }
}

impl Rules for Global {
    fn describe(&self) -> WindowDescription {
        let detail = "over all of time".to_owned();
        WindowDescription { assign: Assign::Global, by_clock: false, detail, wrong: None }
    }
}

impl<W: Rules> Rules for ProcessingTime<W> {
    fn describe(&self) -> WindowDescription {
        let below = self.0.describe();
        WindowDescription { by_clock: true, detail: format!("{} of the clock", below.detail), ..below }
    }
}

/// Results are what the aggregate gives.
#[derive(Clone, Copy, Debug)]
pub struct Plain;
/// Results are pairs of a [`Firing`] and what the aggregate gives.
#[derive(Clone, Copy, Debug)]
pub struct Marked;

/// Whether results tell which of their window's results they are: [`Plain`] or [`Marked`].
pub trait Marks {
    /// A result.
    type Output<O: 'static>: 'static;
    #[doc(hidden)]
    fn mark<O: 'static>(firing: Firing, output: O) -> Self::Output<O>;
}

impl Marks for Plain {
    type Output<O: 'static> = O;
    fn mark<O: 'static>(_: Firing, output: O) -> O {
        output
    }
}

impl Marks for Marked {
    type Output<O: 'static> = (Firing, O);
    fn mark<O: 'static>(firing: Firing, output: O) -> (Firing, O) {
        (firing, output)
    }
}
