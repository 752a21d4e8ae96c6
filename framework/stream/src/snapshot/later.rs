//! Rows of a snapshot that are still on disk: read while the snapshot is stored, a block or some at a time,
//! on whatever thread stores it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use super::Block;
use crate::Result;
use crate::block::{BLOCK_BYTES, Blocks};
use afflux_wire::Status;

/// The rows of one table as they were at the barrier.
pub(crate) trait ReadRows: Send {
    /// Adds rows of at least so many bytes, as long as there are any. `false`: there are no more.
    ///
    /// # Errors
    /// When the disk cannot be read.
    fn read(&mut self, blocks: &mut Blocks, bytes: usize) -> Result<bool>;
}

/// The last rows of a part, which nobody has read yet. They are read once, by
/// [`job::Storage`](crate::job::Storage) or by [`TaskSnapshot::gather`](super::TaskSnapshot::gather).
#[derive(Clone)]
pub struct LaterRows(Arc<Mutex<Option<Reader>>>);

impl LaterRows {
    /// What tables still have, behind rows of the same part that are in `blocks`.
    pub(crate) fn new(blocks: Blocks, tables: Vec<Box<dyn ReadRows>>) -> Self {
        let reader = Reader { tables: tables.into(), blocks, ended: false, counters: Vec::new() };
        Self(Arc::new(Mutex::new(Some(reader))))
    }

    /// Adds the bytes that will be read to these counters.
    pub(crate) fn count(&self, counters: [Arc<AtomicU64>; 2]) {
        if let Some(reader) = &mut *self.0.lock() {
            reader.counters.extend(counters);
        }
    }

    /// Whoever reads them.
    ///
    /// # Errors
    /// When somebody else has.
    pub(crate) fn take(&self) -> Result<Reader> {
        let reader = self.0.lock().take();
        reader.ok_or_else(|| {
            Status::internal("rows of a snapshot that are on disk are asked for a second time")
        })
    }
}

impl fmt::Debug for LaterRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rows on disk")
    }
}

impl PartialEq for LaterRows {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Serialize for LaterRows {
    /// Never: they would be lost without a word.
    fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("the snapshot has rows that are still on disk: gather it first"))
    }
}

/// Reads the last rows of a part.
pub(crate) struct Reader {
    tables: VecDeque<Box<dyn ReadRows>>,
    blocks: Blocks,
    ended: bool,
    counters: Vec<Arc<AtomicU64>>,
}

impl Reader {
    /// The next blocks, of at least so many bytes where there are as many: none at the end. May read the disk.
    ///
    /// # Errors
    /// When the disk cannot be read, or a row cannot be encoded.
    pub(crate) fn read(&mut self, bytes: u64) -> Result<Vec<Block>> {
        let (mut found, mut read) = (Vec::new(), 0);
        while read < bytes && !self.ended {
            match self.tables.front_mut() {
                Some(table) => {
                    if !table.read(&mut self.blocks, BLOCK_BYTES)? {
                        self.tables.pop_front();
                    }
                }
                None => self.ended = true,
            }
            let blocks = self.blocks.take(self.ended)?;
            read += blocks.iter().map(Block::len).sum::<u64>();
            found.extend(blocks);
        }
        for counter in &self.counters {
            counter.fetch_add(read, Relaxed);
        }
        Ok(found)
    }
}
