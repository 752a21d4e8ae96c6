//! A stream without types: items are MessagePack, for gateways and the command line.

use std::time::Duration;

use afflux_wire::contract::Target;
use afflux_wire::{Code, Status};
use bytes::Bytes;

use crate::mesh::Mesh;

/// A call of any kind but one-way, opened by [`Mesh::open_raw`]. Dropping it before its end cancels the call.
///
/// One task may send while another reads; each direction has room for one waiting task.
#[derive(Debug)]
pub struct RawStream {
    failure: Status,
}

impl RawStream {
    /// The next item, as the MessagePack of one value; nothing after the last one. An error is the last thing
    /// that comes.
    pub async fn next(&self) -> Option<Result<Bytes, Status>> {
        Some(Err(self.failure.clone()))
    }

    /// Sends one item, the MessagePack of one value; waits for credit.
    ///
    /// # Errors
    /// The end of the call: the other side failed it, or takes no more items.
    pub async fn send(&self, _item: &[u8]) -> Result<(), Status> {
        Err(self.failure.clone())
    }

    /// No further item will be sent. Without it, dropping the stream cancels the call.
    pub fn finish(&self) {}

    /// The call's result, once it has ended: the MessagePack of the value that the method returns, which is nil
    /// where it streams. Items that were not read are dropped.
    ///
    /// # Errors
    /// Whatever the call failed with.
    pub async fn result(&self) -> Result<Bytes, Status> {
        Err(self.failure.clone())
    }
}

impl Mesh {
    /// Opens a call without types, local or remote: `params` is the MessagePack of the parameters' map. It is
    /// open once the other side has taken it, which `deadline` bounds; then nothing does but its end.
    ///
    /// Methods of every kind but one-way can be opened: a unary one has no items and a result.
    ///
    /// # Errors
    /// As any call: nobody offers the service, it has no such method, its mailbox is full, the handler failed.
    pub async fn open_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        deadline: Duration,
    ) -> Result<RawStream, Status> {
        let _ = (params, deadline);
        let text = format!("{}/{method}: this build opens no streams yet", target.service);
        Err(Status::new(Code::Unimplemented, text))
    }
}
