//! Channels over a link: what their two ends write.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use afflux_wire::{
    Attach, Code, Mark, Status, put_attach, put_credit, put_data_header, put_detach, put_mark,
};
use bytes::Bytes;

use super::{FRAME_OVERHEAD_BYTES, Link};
use crate::channel::{ChannelKey, SendState};

impl Link {
    /// Opens a channel towards the peer.
    pub(crate) fn attach(self: &Arc<Self>, sender: &Arc<SendState>) -> Result<(), Status> {
        let id = {
            let mut state = self.control.lock();
            let id = state.next_id;
            state.next_id += 2;
            id
        };
        sender.attached(self, id);
        self.senders.lock().insert(id, Arc::clone(sender));
        let key = &sender.key;
        let attach = Attach {
            channel: id,
            attempt: key.attempt.0,
            fingerprint: sender.fingerprint,
            job: &key.job,
            edge: key.edge,
            from: key.from,
            to: key.to,
        };
        let mut result = Ok(());
        self.push_control_on_data(|buf| result = put_attach(buf, &attach));
        if result.is_err() {
            self.forget_sender(id);
        } else if let Some(status) = self.lost_status.get() {
            // Lost in between: the loss did not see this sender.
            sender.link_lost(status);
        }
        result.map_err(Status::from)
    }

    pub(crate) fn check_payload(&self, bytes: usize, key: &ChannelKey) -> Result<(), Status> {
        let max = self.limits.frame_bytes_ceiling() as usize;
        if bytes + FRAME_OVERHEAD_BYTES > max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "channel {key}: a batch of {bytes} bytes does not fit into a frame of node {}, \
                     whose frame_bytes_max is {max}: make batches or records smaller, or raise it there",
                    self.peer
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn put_data(&self, channel: u64, seq: u64, count: u32, payload: Bytes) {
        let bytes = payload.len();
        self.data.push(payload, |buf| {
            // Cannot fail: the sender has checked the length against the peer's limit.
            if let Err(error) = put_data_header(buf, channel, seq, count, bytes) {
                tracing::error!(%error, "a batch was checked and is too large");
            }
        });
    }

    pub(crate) fn put_mark(&self, channel: u64, seq: u64, mark: Mark) {
        self.data.push(Bytes::new(), |buf| put_mark(buf, channel, seq, mark));
    }

    /// Callers may hold the lock of a channel, which losing the link takes: no check of the backlog.
    pub(crate) fn put_detach(&self, channel: u64) {
        self.push_control_on_data(|buf| put_detach(buf, channel));
    }

    pub(crate) fn put_credit(&self, id: u64, bytes: u64) {
        self.append(|buf| put_credit(buf, id, bytes));
    }

    pub(crate) fn sender(&self, channel: u64) -> Option<Arc<SendState>> {
        self.senders.lock().get(&channel).cloned()
    }

    /// Whether any channel uses it, in either direction.
    pub(crate) fn has_channels(&self) -> bool {
        self.receivers.load(Ordering::Acquire) > 0 || !self.senders.lock().is_empty()
    }

    pub(crate) fn forget_sender(&self, channel: u64) {
        self.senders.lock().remove(&channel);
    }
}
