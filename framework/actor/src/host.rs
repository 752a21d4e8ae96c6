//! The actix actor that hosts one of ours.
//!
//! actix carries the life of an actor and its control: the request to stop arrives at actix's address
//! and is handled before anything else. Messages come through our own [`Mailbox`], because an actix
//! address is no bound: each clone has a place of its own and `do_send` ignores the limit.
//!
//! The state lives in one attached future, so that a handler borrows it across awaits and a panic
//! costs that state alone; see `turn.rs` for what it does while nothing fails. `ctx.wait` is never
//! used: it would keep control waiting.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{ActorContext, AsyncContext};
use afflux_wire::contract::{CallMeta, CancelToken, Cx, Mail, Panic};
use afflux_wire::{ActorPath, Executed, Stage, Status};
use futures_util::FutureExt;

use crate::actor::{Actor, ActorHandle, Spec};
use crate::address::Address;
use crate::clock;
use crate::mailbox::{Entry, Mailbox};
use crate::metrics::Gauged;
use crate::options::Options;
use crate::restart::{Budget, Decision};
use crate::turn::serve;
use crate::watch::{Death, StopReason};

/// What control needs of a mailbox, whatever its messages.
trait Control: Send + Sync {
    fn first_to_ask(&self) -> bool;
    fn request_stop(&self, reason: StopReason);
}

impl<M: Mail> Control for Mailbox<M> {
    fn first_to_ask(&self) -> bool {
        Mailbox::first_to_ask(self)
    }
    fn request_stop(&self, reason: StopReason) {
        Mailbox::request_stop(self, reason);
    }
}

/// The actix side of every actor of ours.
struct Host {
    control: Arc<dyn Control>,
}

impl actix::Actor for Host {
    type Context = actix::Context<Self>;
}

struct Stop(StopReason);

impl actix::Message for Stop {
    type Result = ();
}

impl actix::Handler<Stop> for Host {
    type Result = ();

    fn handle(&mut self, stop: Stop, _ctx: &mut Self::Context) {
        self.control.request_stop(stop.0);
    }
}

/// The control side of one actor.
#[derive(Clone)]
pub(crate) struct Stopper {
    host: actix::Recipient<Stop>,
    control: Arc<dyn Control>,
}

impl Stopper {
    pub(crate) fn stop(&self, reason: StopReason) {
        // Only the first request is sent: control cannot pile up either.
        if self.control.first_to_ask() {
            self.host.do_send(Stop(reason));
        }
    }
}

/// Starts an actor on the thread of `arbiter`.
pub(crate) fn spawn<A, F>(
    arbiter: &actix_rt::ArbiterHandle,
    spec: Spec,
    options: Options,
    factory: F,
) -> ActorHandle<A::Mail>
where
    A: Actor,
    F: FnMut() -> Result<A, Status> + Send + 'static,
{
    let kind = spec.metrics.kind(A::KIND);
    let mailbox = Arc::new(Mailbox::new(&options, kind));
    let gauged: Weak<dyn Gauged> = {
        let weak: Weak<Mailbox<A::Mail>> = Arc::downgrade(&mailbox);
        weak
    };
    spec.metrics.observe(A::KIND, gauged);
    let control: Arc<dyn Control> = Arc::<Mailbox<A::Mail>>::clone(&mailbox);
    let seat = Seat::new(Arc::clone(&mailbox), spec.path.clone());
    let death = seat.death.clone();
    let (path, caller) = (spec.path, spec.caller);
    let host = actix::Actor::start_in_arbiter(arbiter, {
        let (control, path) = (Arc::clone(&control), path.clone());
        move |ctx: &mut actix::Context<Host>| {
            let life = live(seat, factory, Cx::new(path, caller), Budget::new(options.restart));
            ctx.spawn(wrap_future::<_, Host>(life).map(|(), _, ctx| ctx.stop()));
            Host { control }
        }
    });
    ActorHandle {
        address: Address::new(mailbox),
        path,
        stopper: Stopper { host: host.recipient(), control },
        death,
    }
}

/// What of an actor outlives its states. However its future ends, also by being dropped with its
/// thread, every waiting message is answered and the end is announced.
pub(crate) struct Seat<M: Mail> {
    pub(crate) mailbox: Arc<Mailbox<M>>,
    /// Messages taken out of the mailbox and not started.
    pub(crate) batch: VecDeque<Entry<M>>,
    death: Death,
    path: ActorPath,
    ended: bool,
}

impl<M: Mail> Seat<M> {
    fn new(mailbox: Arc<Mailbox<M>>, path: ActorPath) -> Self {
        mailbox.kind().starts.inc();
        mailbox.kind().actors.inc();
        Self { mailbox, batch: VecDeque::new(), death: Death::new(), path, ended: false }
    }

    fn end(&mut self, reason: StopReason) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let mut waiting = std::mem::take(&mut self.batch);
        waiting.append(&mut self.mailbox.close());
        let kind = self.mailbox.kind();
        let status = Status::unavailable(format!("the actor {} has stopped ({reason})", self.path))
            .executed(Executed::No)
            .stage(Stage::Queued);
        kind.rejected_closed.inc_by(waiting.len() as u64);
        for entry in waiting {
            entry.mail.reject(status.clone());
        }
        kind.actors.dec();
        kind.stopped(&reason);
        match &reason {
            StopReason::Finished | StopReason::Asked(_) => {
                tracing::debug!(kind = kind.name, path = %self.path, %reason, "actor ended");
            }
            _ => tracing::error!(kind = kind.name, path = %self.path, %reason, "actor ended"),
        }
        self.death.announce(reason);
    }
}

impl<M: Mail> Drop for Seat<M> {
    fn drop(&mut self) {
        self.end(StopReason::Failed(Status::unavailable("the thread of the actor has stopped")));
    }
}

/// The life of an actor: one state after another, until the policy says that it is over.
async fn live<A, F>(mut seat: Seat<A::Mail>, mut factory: F, mut cx: Cx, mut budget: Budget)
where
    A: Actor,
    F: FnMut() -> Result<A, Status>,
{
    let reason = loop {
        let made = catch_unwind(AssertUnwindSafe(&mut factory));
        let reason = match made {
            Ok(Ok(state)) => run(&mut seat, state, &mut cx).await,
            Ok(Err(status)) => StopReason::Failed(status),
            Err(payload) => StopReason::Panicked(Panic::from_payload(&*payload)),
        };
        cx.enter(CallMeta::default(), CancelToken::never());
        cx.take_stop();
        let kind = seat.mailbox.kind();
        if matches!(reason, StopReason::Panicked(_)) {
            kind.panics.inc();
        }
        // Asked meanwhile: no fresh state for a moment's life.
        if let Some(asked) = seat.mailbox.stop_reason() {
            break asked;
        }
        match budget.decide(reason.clone(), clock::now()) {
            Decision::End(reason) => break reason,
            Decision::Restart(pause) => {
                kind.restarts.inc();
                tracing::warn!(
                    kind = kind.name, path = %seat.path, %reason, pause_ms = pause.as_millis() as u64,
                    "actor restarts with a fresh state"
                );
                if !pause.is_zero()
                    && let Some(asked) = pause_or_stop(&seat.mailbox, pause).await
                {
                    break asked;
                }
            }
        }
    };
    seat.end(reason);
}

/// Waits before a restart; a request to stop cuts it short.
async fn pause_or_stop<M: Mail>(mailbox: &Mailbox<M>, pause: Duration) -> Option<StopReason> {
    let mut sleep = pin!(tokio::time::sleep(pause));
    poll_fn(|task| match mailbox.stop_requested(task) {
        Some(reason) => Poll::Ready(Some(reason)),
        None => sleep.as_mut().poll(task).map(|()| None),
    })
    .await
}

/// The life of one state.
async fn run<A: Actor>(seat: &mut Seat<A::Mail>, mut state: A, cx: &mut Cx) -> StopReason {
    let reason = match AssertUnwindSafe(state.started(cx)).catch_unwind().await {
        Ok(Ok(())) => serve(seat, &mut state, cx).await,
        Ok(Err(status)) => StopReason::Failed(status),
        Err(payload) => StopReason::Panicked(Panic::from_payload(&*payload)),
    };
    let panicked = matches!(reason, StopReason::Panicked(_));
    let last = catch_unwind(AssertUnwindSafe(move || {
        if !panicked {
            state.stopped(&reason);
        }
        drop(state);
        reason
    }));
    last.unwrap_or_else(|payload| StopReason::Panicked(Panic::from_payload(&*payload)))
}
