//! Death watch over nodes: being told that one life of an actor has ended.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use afflux_actor::{StopReason, clock};
use afflux_wire::{ActorId, Code, Stage, Status, codec};
use tokio::sync::oneshot;

use crate::link::Link;
use crate::mesh::{Mesh, Shared};

/// Numbers of DOWN.
pub(crate) mod reason {
    pub(crate) const FINISHED: u32 = 0;
    pub(crate) const ASKED: u32 = 1;
    pub(crate) const PANICKED: u32 = 2;
    pub(crate) const FAILED: u32 = 3;
    pub(crate) const RESTARTS: u32 = 4;
    pub(crate) const GONE: u32 = 5;
    pub(crate) const REFUSED: u32 = 6;
}

/// Why a watch was resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum DownReason {
    /// Its work was done.
    Finished,
    /// Somebody asked it to stop: its owner, itself, or its node when that left.
    Stopped(Status),
    /// It panicked, and its policy allowed no restart.
    Panicked(Status),
    /// It could not be started, gave up, or was restarted too often.
    Failed(Status),
    /// There was no such life of it when the watch began: it had ended, or another has its path.
    Gone(Status),
    /// The life of the node that it lived in is over: the node has left the registry, or is there in a
    /// later life.
    NodeLost(Status),
    /// The link to its node is lost, or never came about. It may live on: nobody here can tell.
    Unreachable(Status),
    /// Its node takes no more watches over this link ([`WATCHES_PER_LINK_MAX`](crate::WATCHES_PER_LINK_MAX)).
    Refused(Status),
}

impl DownReason {
    /// Whether that life of the actor is certainly over.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::Refused(_))
    }

    /// More of it, where there is more.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Finished => None,
            Self::Stopped(status)
            | Self::Panicked(status)
            | Self::Failed(status)
            | Self::Gone(status)
            | Self::NodeLost(status)
            | Self::Unreachable(status)
            | Self::Refused(status) => Some(status),
        }
    }

    fn of(reason: StopReason) -> Self {
        match reason {
            StopReason::Finished => Self::Finished,
            StopReason::Asked(status) => Self::Stopped(status),
            StopReason::Panicked(panic) => Self::Panicked(Status::internal(panic.message)),
            StopReason::Failed(status) => Self::Failed(status),
            other @ StopReason::RestartBudget { .. } => Self::Failed(Status::internal(other.to_string())),
            other @ StopReason::NodeLost { .. } => Self::NodeLost(Status::unavailable(other.to_string())),
        }
    }

    fn from_wire(number: u32, error: Option<Status>) -> Self {
        let status = error.unwrap_or_else(|| Status::new(Code::Unknown, "no reason was given"));
        match number {
            reason::FINISHED => Self::Finished,
            reason::ASKED => Self::Stopped(status),
            reason::PANICKED => Self::Panicked(status),
            reason::GONE => Self::Gone(status),
            reason::REFUSED => Self::Refused(status),
            _ => Self::Failed(status),
        }
    }

    fn to_wire(reason: StopReason) -> (u32, Option<Status>) {
        let number = match &reason {
            StopReason::Finished => reason::FINISHED,
            StopReason::Asked(_) => reason::ASKED,
            StopReason::Panicked(_) => reason::PANICKED,
            StopReason::RestartBudget { .. } => reason::RESTARTS,
            StopReason::Failed(_) | StopReason::NodeLost { .. } => reason::FAILED,
        };
        (number, Self::of(reason).status().cloned())
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Finished => "finished",
            Self::Stopped(_) => "asked to stop",
            Self::Panicked(_) => "panicked",
            Self::Failed(_) => "failed",
            Self::Gone(_) => "gone before",
            Self::NodeLost(_) => "its node is lost",
            Self::Unreachable(_) => "out of reach",
            Self::Refused(_) => "not watched",
        };
        match self.status() {
            Some(status) => write!(f, "{word}: {}", status.message),
            None => f.write_str(word),
        }
    }
}

/// The end of an actor, as it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Down {
    /// Which life of which actor.
    pub actor: ActorId,
    /// Why.
    pub reason: DownReason,
}

/// A future of the end of an actor, on this node or another. Dropping it ends the watch.
#[must_use = "a watch tells only whom awaits it"]
pub struct DownWatch {
    actor: ActorId,
    inner: Pin<Box<dyn Future<Output = DownReason> + Send>>,
}

impl Future for DownWatch {
    type Output = Down;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Down> {
        let reason = std::task::ready!(self.inner.as_mut().poll(cx));
        Poll::Ready(Down { actor: self.actor.clone(), reason })
    }
}

impl fmt::Debug for DownWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DownWatch({})", self.actor)
    }
}

/// Ends a watch that nobody awaits any more.
struct Watching<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.link.unwatch(self.id);
    }
}

impl Shared {
    async fn watch_remote(self: Arc<Self>, id: ActorId) -> DownReason {
        let until = clock::now() + self.config.connect_timeout;
        let link = loop {
            match self.link_of(&id) {
                Ok(link) => break link,
                Err(status) if status.code == Code::NotFound => return DownReason::NodeLost(status),
                Err(status) => {
                    let connecting = status.details.as_ref().is_some_and(|d| d.stage == Some(Stage::Connect));
                    let left = until.saturating_duration_since(clock::now());
                    if left.is_zero() || self.is_closed() {
                        return DownReason::Unreachable(status);
                    }
                    if !connecting && !self.peers.lock().knows(&id.node) {
                        return DownReason::NodeLost(status);
                    }
                    self.changed_since_now(left).await;
                }
            }
        };
        let (watch, down) = match link.watch(&id) {
            Ok(watch) => watch,
            Err(status) => return DownReason::Refused(status),
        };
        let _watching = Watching { link: &link, id: watch };
        match down.await {
            Ok((number, error)) => DownReason::from_wire(number, error),
            Err(_lost) => self.lost_with(&id, &link),
        }
    }

    /// What the loss of a link says of an actor behind it: the registry's last word decides.
    fn lost_with(&self, id: &ActorId, link: &Link) -> DownReason {
        let status = link.lost_status().cloned().unwrap_or_else(|| Status::unavailable("the link is lost"));
        let peers = self.peers.lock();
        let later = peers.link(&id.node).is_some_and(|link| link.incarnation > id.incarnation);
        if later || !peers.knows(&id.node) {
            DownReason::NodeLost(status)
        } else {
            DownReason::Unreachable(status)
        }
    }

    /// WATCH came.
    pub(crate) fn watch_received(self: &Arc<Self>, link: &Arc<Link>, id: u64, actor: &[u8]) {
        let found = codec::from_slice::<ActorId>(actor)
            .map_err(|status| Status::invalid(format!("WATCH.actor: {}", status.message)))
            .and_then(|actor| self.find_actor(&actor));
        let actor = match found {
            Ok(actor) => actor,
            Err(status) => return link.put_down(id, reason::GONE, Some(&status)),
        };
        let unwatched = match link.admit_watch(id) {
            Ok(unwatched) => unwatched,
            Err(status) => return link.put_down(id, reason::REFUSED, Some(&status)),
        };
        let link = Arc::clone(link);
        self.place.spawn_future(async move {
            tokio::select! {
                biased;
                // Also when the link is lost: it drops the other end.
                _ = unwatched => {}
                ended = actor.death.watch() => {
                    let (number, error) = DownReason::to_wire(ended);
                    link.put_down(id, number, error.as_ref());
                }
            }
        });
    }
}

impl Mesh {
    /// A future of the end of an actor; resolves at once when that life of it is over. The watch begins
    /// with this call, before anything awaits the future: over a link that is there its request is
    /// written now, otherwise as soon as the future is polled and there is one.
    ///
    /// The loss of the link to its node resolves it at once: [`DownReason::NodeLost`] when the registry
    /// already says that this life of the node is over, else [`DownReason::Unreachable`], which is no
    /// statement about the actor. A restart by its supervisor is no end.
    pub fn watch(&self, actor: &ActorId) -> DownWatch {
        let shared = Arc::clone(&self.shared);
        let id = actor.clone();
        let inner: Pin<Box<dyn Future<Output = DownReason> + Send>> = if id.node == *self.node() {
            match shared.find_actor(&id) {
                Ok(found) => {
                    let watch = found.death.watch();
                    Box::pin(async move { DownReason::of(watch.await) })
                }
                Err(status) => Box::pin(std::future::ready(DownReason::Gone(status))),
            }
        } else {
            let mut watching = Box::pin(shared.watch_remote(id));
            // Its first poll writes the request; whoever awaits it polls it again with a waker of their own.
            // Outside of a runtime there is no timer to wait for a link with.
            let here = tokio::runtime::Handle::try_current().is_ok();
            match here.then(|| watching.as_mut().poll(&mut Context::from_waker(Waker::noop()))) {
                Some(Poll::Ready(reason)) => Box::pin(std::future::ready(reason)),
                _ => watching,
            }
        };
        DownWatch { actor: actor.clone(), inner }
    }
}

/// What is sent of a watch's end.
pub(crate) type Told = (u32, Option<Status>);

/// Where it arrives.
pub(crate) type DownReceiver = oneshot::Receiver<Told>;
