//! Watches that go over a link, in both directions.

use afflux_wire::{
    ActorId, CancelReason, Code, Executed, Stage, Status, codec, put_cancel, put_down, put_watch,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Link;
use crate::down::{DownReceiver, Told};
use crate::hash::IdMap;

/// Actors of one node that the other node of a link watches at a time, in each direction.
pub const WATCHES_PER_LINK_MAX: usize = 4_096;

/// Both directions.
#[derive(Default)]
pub(crate) struct Watches(Mutex<State>);

#[derive(Default)]
struct State {
    /// Watches of this side.
    own: IdMap<u64, oneshot::Sender<Told>>,
    /// Watches of the peer: dropping one ends the task behind it.
    theirs: IdMap<u64, oneshot::Sender<()>>,
    closed: bool,
}

fn too_many(of: &str) -> Status {
    Status::new(
        Code::ResourceExhausted,
        format!(
            "{WATCHES_PER_LINK_MAX} actors of node {of} are watched over this link, which is \
             WATCHES_PER_LINK_MAX: watch fewer, such as one parent for many"
        ),
    )
    .executed(Executed::No)
    .stage(Stage::Connect)
}

impl Link {
    /// Sends WATCH. The receiver fails when the link is lost.
    pub(crate) fn watch(&self, actor: &ActorId) -> Result<(u64, DownReceiver), Status> {
        let bytes = codec::to_named(actor)?;
        let (sender, receiver) = oneshot::channel();
        let mut state = self.control.lock();
        if state.closed {
            // As lost as it will be in a moment: the sender is gone.
            return Ok((0, receiver));
        }
        let id = state.next_id;
        {
            let mut watches = self.watches.0.lock();
            if watches.own.len() >= WATCHES_PER_LINK_MAX {
                return Err(too_many(self.peer.as_str()));
            }
            watches.own.insert(id, sender);
        }
        state.append(|buf| put_watch(buf, id, &bytes)).map_err(Status::from)?;
        state.next_id += 2;
        let writer = state.writer.take();
        drop(state);
        Self::wake(writer);
        Ok((id, receiver))
    }

    /// Nobody awaits a watch of this side any more.
    pub(crate) fn unwatch(&self, id: u64) {
        if self.watches.0.lock().own.remove(&id).is_some() {
            self.append(|buf| put_cancel(buf, id, CancelReason::Dropped));
        }
    }

    /// DOWN came. One for a watch that was dropped meanwhile is nobody's.
    pub(crate) fn down_received(&self, id: u64, reason: u32, error: Option<Status>) {
        if let Some(watch) = self.watches.0.lock().own.remove(&id) {
            let _ = watch.send((reason, error));
        }
    }

    /// Admits a watch of the peer; what comes back fails when it is over.
    pub(crate) fn admit_watch(&self, id: u64) -> Result<oneshot::Receiver<()>, Status> {
        let (sender, receiver) = oneshot::channel();
        let mut watches = self.watches.0.lock();
        if watches.theirs.len() >= WATCHES_PER_LINK_MAX {
            return Err(too_many(self.node.as_str()));
        }
        if !watches.closed {
            watches.theirs.insert(id, sender);
        }
        Ok(receiver)
    }

    /// CANCEL came for what may be a watch.
    pub(crate) fn unwatched(&self, id: u64) {
        self.watches.0.lock().theirs.remove(&id);
    }

    /// Tells the peer that what it watched has ended.
    pub(crate) fn put_down(&self, id: u64, reason: u32, error: Option<&Status>) {
        self.watches.0.lock().theirs.remove(&id);
        self.append(|buf| {
            if let Err(error) = put_down(buf, id, reason, error) {
                // The reason was too large to be told: the end is told all the same.
                tracing::debug!(%error, "the reason of an end was left out");
                let _ = put_down(buf, id, reason, None);
            }
        });
    }

    /// The link is lost: so are all watches.
    pub(super) fn end_watches(&self) {
        let (own, theirs) = {
            let mut watches = self.watches.0.lock();
            watches.closed = true;
            (std::mem::take(&mut watches.own), std::mem::take(&mut watches.theirs))
        };
        drop((own, theirs));
    }
}
