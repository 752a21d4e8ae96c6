//! Memory of blocks that have been stored, kept for the next snapshots.
//!
//! Pages that are fresh from the system are cleared first: for a row of some bytes that costs about as much as
//! writing it. Buffers stay while a task of the process is there, and no more of them than
//! [`SPARE_BYTES_MAX`].

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::block::BLOCK_BYTES;

/// Bytes of a buffer: the row that crosses the line of a block mostly fits in.
const BUFFER_BYTES: usize = BLOCK_BYTES + BLOCK_BYTES / 8;
/// Bytes of memory that a process keeps for the next snapshots of its tasks at most.
pub(crate) const SPARE_BYTES_MAX: usize = 64 << 20;

/// Empty buffers. Whoever holds it keeps them.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<Vec<u8>>>);

static SHARED: Mutex<Weak<Spare>> = Mutex::new(Weak::new());

/// The buffers of this process, to be held by each task.
pub(crate) fn shared() -> Arc<Spare> {
    let mut shared = SHARED.lock();
    shared.upgrade().unwrap_or_else(|| {
        let spare = Arc::default();
        *shared = Arc::downgrade(&spare);
        spare
    })
}

/// An empty buffer with room for a block.
pub(crate) fn buffer() -> Vec<u8> {
    let spare = SHARED.lock().upgrade();
    let kept = spare.and_then(|spare| spare.0.lock().pop());
    kept.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
}

/// The bytes of a block; their memory is kept when nobody needs them any more.
pub(crate) fn block(bytes: Vec<u8>) -> Bytes {
    // One that has grown has memory for a large row, which may not come again.
    if (BUFFER_BYTES..2 * BUFFER_BYTES).contains(&bytes.capacity()) {
        Bytes::from_owner(Owned(bytes))
    } else {
        Bytes::from(bytes)
    }
}

struct Owned(Vec<u8>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(spare) = SHARED.lock().upgrade() {
            spare.keep(std::mem::take(&mut self.0));
        }
    }
}

impl Spare {
    fn keep(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.0.lock();
        if (buffers.len() + 1) * BUFFER_BYTES <= SPARE_BYTES_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_block_is_kept_for_the_next_up_to_a_bound() {
        let spare = Spare::default();
        let most = SPARE_BYTES_MAX / BUFFER_BYTES;
        for _ in 0..most + 10 {
            spare.keep(vec![7; 3]);
        }
        let buffers = spare.0.into_inner();
        assert_eq!(buffers.len(), most);
        assert!(buffers.iter().all(Vec::is_empty));
    }

    #[test]
    fn bytes_of_a_block_are_those_that_were_written_whatever_the_buffer_held_before() {
        let _held = shared();
        for round in 0..3_u8 {
            let mut buffer = buffer();
            assert!(buffer.is_empty() && buffer.capacity() >= BUFFER_BYTES);
            buffer.extend_from_slice(&[round; 9]);
            let bytes = block(buffer);
            let again = bytes.clone();
            drop(bytes);
            assert_eq!(again, &[round; 9][..]);
        }
        // As large as a row has made it: not kept.
        assert_eq!(block(vec![1; 3 * BUFFER_BYTES]).len(), 3 * BUFFER_BYTES);
    }
}
