//! What a task saves at a barrier and finds again at a restore.
//!
//! A snapshot is a list of parts, each named by operator and state; a part is a list of blocks, and a
//! block holds rows and says what they are made of ([`Schema`]). Keyed rows carry their key, so that
//! any parallelism can take its share. Rows are read by the names of their fields: one that was added
//! with `#[serde(default)]` gets its default, one that was removed is passed over, and any other
//! difference is an error that names operator, state, field and both types.

mod decode;
mod encode;
mod fault;
mod later;
mod shape;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::key::Key;
use crate::spare;
use afflux_wire::{Code, Status};

use decode::Decoder;
use encode::Encoder;
use fault::Fault;
pub use later::LaterRows;
pub(crate) use later::{ReadRows, Reader};
pub use shape::{Field, Form, NESTING_MAX, SHAPES_MAX, Schema, Shape};

/// Rows kept as samples of a block's schema at most.
const SAMPLES_MAX: usize = 64;
/// A row of more bytes is no sample.
const SAMPLE_BYTES_MAX: usize = 16 * 1024;
/// Version of the layout of rows that this build writes.
pub const LAYOUT: u32 = 2;
/// The same where later rows of a part replace earlier ones of their key, and keys are taken away.
pub const LAYOUT_CHANGES: u32 = 3;

/// How many values a part has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// One, that only its owner understands as a whole.
    #[default]
    Value,
    /// Rows, one after the other, over all blocks.
    Rows,
}

impl PartKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            PartKind::Value => "value",
            PartKind::Rows => "rows",
        }
    }
}

/// What a block holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// These bytes.
    Rows {
        /// What they are made of.
        schema: Arc<Schema>,
        /// The rows.
        #[serde(with = "as_bytes")]
        bytes: Bytes,
    },
    /// The same as the block of this id in the same part of a completed epoch of the same task and
    /// attempt, where [`job::Storage`](crate::job::Storage) finds it.
    Earlier {
        /// That epoch.
        epoch: u64,
        /// Bytes of the rows.
        bytes: u64,
    },
}

/// What the rows of a block do to those of blocks before it in the part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nothing: they have other keys.
    #[default]
    Rows,
    /// They replace those of the same key.
    Changed,
    /// They are keys alone, which are gone.
    Gone,
}

impl Role {
    pub(crate) fn is_rows(&self) -> bool {
        *self == Role::Rows
    }
}

/// Some rows of a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Names the block in its part, from epoch to epoch.
    pub id: u64,
    /// Rows in it.
    pub rows: u64,
    /// The key groups that its rows belong to, if they are of few: others need not read it.
    pub groups: Option<Range<u32>>,
    /// What its rows do to those of blocks before it.
    #[serde(default, skip_serializing_if = "Role::is_rows")]
    pub role: Role,
    /// The rows.
    pub content: Content,
}

impl Block {
    /// A block that has not changed since an epoch that is complete. Storage remembers the last few.
    pub fn earlier(epoch: u64, id: u64, rows: u64, bytes: u64, groups: Option<Range<u32>>) -> Self {
        Self { id, rows, groups, role: Role::Rows, content: Content::Earlier { epoch, bytes } }
    }

    /// Whether it may have a row of these key groups.
    fn is_in(&self, groups: Option<&Range<u32>>) -> bool {
        match (groups, &self.groups) {
            (Some(wanted), Some(held)) => held.end > wanted.start && wanted.end > held.start,
            _ => true,
        }
    }

    /// Bytes of its rows.
    pub fn len(&self) -> u64 {
        match &self.content {
            Content::Rows { bytes, .. } => bytes.len() as u64,
            Content::Earlier { bytes, .. } => *bytes,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one operator of one task saved under one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The operator's name: the state's identity.
    pub operator: String,
    /// The state's name in the operator.
    pub state: String,
    /// The subtask that saved it.
    pub subtask: u32,
    /// Version of the layout of its rows.
    pub version: u32,
    /// How many values it has.
    pub kind: PartKind,
    /// The epoch of the same task and attempt whose rows come first: the blocks here are what has changed
    /// since. [`job::Storage`](crate::job::Storage) finds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Rows that are left when later ones have replaced earlier ones; as many as blocks have unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Its rows.
    pub blocks: Vec<Block>,
    /// The rows behind those of all blocks, where they are still on disk.
    #[serde(default, skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub later: Option<LaterRows>,
}

impl Part {
    /// Its rows, for people; without those that are still on disk.
    pub fn rows(&self) -> u64 {
        self.left.unwrap_or_else(|| self.blocks.iter().map(|block| block.rows).sum())
    }

    /// Bytes of all blocks; without rows that are still on disk.
    pub fn len(&self) -> u64 {
        self.blocks.iter().map(Block::len).sum()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Writes rows into blocks of one part. All blocks of one writer share what they say about their rows.
///
/// ```
/// use afflux_stream::{BlockWriter, Restore, TaskSnapshot};
/// let mut writer = BlockWriter::new();
/// for key in 0..3_u64 {
///     writer.push(&(key, "value"))?;
/// }
/// let mut snapshot = TaskSnapshot::default();
/// snapshot.block("orders", "state", 0, writer.finish(0, None));
/// let mut keys = Vec::new();
/// Restore::new([snapshot]).rows("orders", "state", None, |_, (key, _): (u64, String)| keys.push(key))?;
/// assert_eq!(keys, [0, 1, 2]);
/// # Ok::<(), afflux_wire::Status>(())
/// ```
#[derive(Debug, Default)]
pub struct BlockWriter {
    encoder: Encoder,
    rows: u64,
    row: String,
    samples: Vec<serde_bytes::ByteBuf>,
    schema: Option<Arc<Schema>>,
}

impl BlockWriter {
    /// A writer for one part.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for this many bytes more in the block under way.
    pub fn reserve(&mut self, bytes: usize) {
        self.encoder.bytes.reserve(bytes);
    }

    /// Begins a block in this memory, which is empty.
    pub(crate) fn begin(&mut self, buffer: Vec<u8>) {
        if self.encoder.bytes.capacity() < buffer.capacity() && self.is_empty() {
            self.encoder.bytes = buffer;
        }
    }

    /// Adds a row to the block under way.
    ///
    /// # Errors
    /// When the row cannot be encoded: it is left out, and the block stays as it was.
    #[inline]
    pub fn push<V: Serialize + ?Sized>(&mut self, row: &V) -> Result<()> {
        let from = self.encoder.bytes.len();
        if let Err(fault) = self.encoder.push(row) {
            return Err(self.refuse(from, &fault));
        }
        self.rows += 1;
        if self.encoder.novel || self.row.is_empty() {
            self.sample(from);
        }
        Ok(())
    }

    /// Takes back what was written of a row.
    #[cold]
    fn refuse(&mut self, from: usize, fault: &Fault) -> Status {
        self.encoder.bytes.truncate(from);
        Status::internal(format!("a row of state cannot be encoded: {fault}"))
    }

    #[cold]
    fn sample(&mut self, from: usize) {
        self.encoder.novel = false;
        self.schema = None;
        let row = self.encoder.bytes.get(from..).unwrap_or_default();
        if self.row.is_empty() {
            let shapes = self.encoder.shapes();
            self.row = Decoder::new(row, &shapes).describe().unwrap_or_else(|_| "?".to_owned());
        }
        if self.samples.len() < SAMPLES_MAX && row.len() <= SAMPLE_BYTES_MAX {
            self.samples.push(serde_bytes::ByteBuf::from(row));
        }
    }

    /// Rows of the block under way.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of the block under way.
    #[inline]
    pub fn len(&self) -> usize {
        self.encoder.bytes.len()
    }

    /// Whether the block under way has no row.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Ends the block under way; the next begins.
    pub fn finish(&mut self, id: u64, groups: Option<Range<u32>>) -> Block {
        let (encoder, row, samples) = (&self.encoder, &self.row, &self.samples);
        let schema = self.schema.get_or_insert_with(|| {
            Arc::new(Schema { row: row.clone(), shapes: encoder.shapes(), samples: samples.clone() })
        });
        let schema = Arc::clone(schema);
        let bytes = spare::block(std::mem::take(&mut self.encoder.bytes));
        let rows = std::mem::take(&mut self.rows);
        Block { id, rows, groups, role: Role::Rows, content: Content::Rows { schema, bytes } }
    }
}

/// The bit that tells a round of confirmations from a checkpoint. Both are epochs: barriers flow, sinks
/// confirm what came before them, and sources hear of the completion. A round saves nothing.
pub const ROUND: u64 = 1 << 63;

/// Whether an epoch is a round of confirmations.
pub fn is_round(epoch: u64) -> bool {
    epoch & ROUND != 0
}

/// What a snapshot may leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Increment {
    /// Nothing; nor will the next.
    #[default]
    Never,
    /// Nothing, but the next may be what has changed since this one.
    First,
    /// What has not changed since this epoch of the same task.
    Since(u64),
}

/// What one task saved at one barrier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSnapshot {
    /// The epoch of the barrier.
    pub epoch: u64,
    /// What it may leave out, while it is written.
    #[serde(skip)]
    pub increment: Increment,
    /// What its operators saved.
    pub parts: Vec<Part>,
}

impl TaskSnapshot {
    /// Nothing yet, of an epoch.
    pub const fn new(epoch: u64) -> Self {
        Self { epoch, increment: Increment::Never, parts: Vec::new() }
    }

    /// Adds a value that only its owner understands as a whole. `rows` is for people.
    ///
    /// # Errors
    /// When the value cannot be encoded.
    pub fn put<V: Serialize + ?Sized>(
        &mut self,
        operator: &str,
        state: &str,
        subtask: u32,
        rows: u64,
        value: &V,
    ) -> Result<()> {
        let mut writer = BlockWriter::new();
        writer.push(value).map_err(|status| of_state(operator, state, status))?;
        let block = Block { rows, ..writer.finish(0, None) };
        self.part(operator, state, subtask, PartKind::Value).blocks.push(block);
        Ok(())
    }

    /// Adds rows as one block.
    ///
    /// # Errors
    /// When a row cannot be encoded.
    pub fn put_rows<V: Serialize>(
        &mut self,
        operator: &str,
        state: &str,
        subtask: u32,
        rows: impl IntoIterator<Item = V>,
    ) -> Result<()> {
        let mut writer = BlockWriter::new();
        for row in rows {
            writer.push(&row).map_err(|status| of_state(operator, state, status))?;
        }
        self.block(operator, state, subtask, writer.finish(0, None));
        Ok(())
    }

    /// Adds a block of rows to a part, which is made with its first.
    pub fn block(&mut self, operator: &str, state: &str, subtask: u32, block: Block) {
        self.part(operator, state, subtask, PartKind::Rows).blocks.push(block);
    }

    /// Says that a part of rows is what has changed since an epoch, and how many rows it has with those.
    pub fn follows(&mut self, (operator, state, subtask): (&str, &str, u32), since: u64, left: u64) {
        let part = self.part(operator, state, subtask, PartKind::Rows);
        (part.version, part.since, part.left) = (LAYOUT_CHANGES, Some(since), Some(left));
    }

    /// Says that the last rows of a part are still on disk.
    pub(crate) fn later(&mut self, (operator, state, subtask): (&str, &str, u32), rows: LaterRows) {
        self.part(operator, state, subtask, PartKind::Rows).later = Some(rows);
    }

    /// Reads the rows that are still on disk into memory: for whoever keeps a snapshot without a
    /// [`job::Storage`](crate::job::Storage), which reads them block by block. Blocks while it reads.
    ///
    /// # Errors
    /// When the disk cannot be read, or they have been read before.
    pub fn gather(&mut self) -> Result<()> {
        for part in &mut self.parts {
            let Some(later) = part.later.take() else { continue };
            part.blocks.extend(later.take()?.read(u64::MAX)?);
        }
        Ok(())
    }

    fn part(&mut self, operator: &str, state: &str, subtask: u32, kind: PartKind) -> &mut Part {
        let is = |p: &Part| p.operator == operator && p.state == state && p.subtask == subtask;
        // Blocks of a part mostly come one after the other.
        let known = self.parts.iter().rposition(is);
        let at = known.unwrap_or_else(|| {
            self.parts.push(Part {
                operator: operator.to_owned(),
                state: state.to_owned(),
                subtask,
                version: LAYOUT,
                kind,
                since: None,
                left: None,
                blocks: Vec::new(),
                later: None,
            });
            self.parts.len() - 1
        });
        &mut self.parts[at]
    }
}

fn of_state(operator: &str, state: &str, mut status: Status) -> Status {
    status.message = format!("{operator}/{state}: {}", status.message);
    status
}

/// All that the tasks of a job saved at one epoch: what a new attempt starts from.
#[derive(Clone, Debug, Default)]
pub struct Restore {
    parts: Vec<Part>,
}

impl Restore {
    /// The parts of all tasks.
    pub fn new(snapshots: impl IntoIterator<Item = TaskSnapshot>) -> Self {
        Self { parts: snapshots.into_iter().flat_map(|s| s.parts).collect() }
    }

    /// The parts of all tasks, one after the other.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn of<'a>(&'a self, operator: &'a str, state: &'a str) -> impl Iterator<Item = &'a Part> {
        self.parts.iter().filter(move |p| p.operator == operator && p.state == state)
    }

    /// What every task saved for one state of one operator, decoded, with the subtask.
    ///
    /// # Errors
    /// `DATA_LOSS` when the state has another type now: names operator, state, field and both types.
    pub fn get<V: DeserializeOwned>(&self, operator: &str, state: &str) -> Result<Vec<(u32, V)>> {
        let mut values = Vec::new();
        for part in self.of(operator, state) {
            is_of(part, PartKind::Value)?;
            for block in &part.blocks {
                each_row(block, |value| values.push((part.subtask, value))).map_err(|e| unread(part, &e))?;
            }
        }
        Ok(values)
    }

    /// Hands over each row that tasks saved for one state of one operator, with the subtask. Blocks
    /// that have no row of `groups` are passed over; of others all rows come.
    ///
    /// # Errors
    /// As [`Restore::get`].
    pub fn rows<V: DeserializeOwned>(
        &self,
        operator: &str,
        state: &str,
        groups: Option<&Range<u32>>,
        mut take: impl FnMut(u32, V),
    ) -> Result<()> {
        for part in self.of(operator, state) {
            is_of(part, PartKind::Rows)?;
            for block in part.blocks.iter().filter(|block| block.is_in(groups)) {
                all_rows(part, block, |row| take(part.subtask, row))?;
            }
        }
        Ok(())
    }

    /// Hands over each key that tasks saved for one state of one operator with its last value, where the
    /// checkpoint may be incremental. Keys whose hash `mine` refuses are passed over.
    ///
    /// # Errors
    /// As [`Restore::get`].
    pub(crate) fn latest<K: Key, V: DeserializeOwned>(
        &self,
        operator: &str,
        state: &str,
        groups: Option<&Range<u32>>,
        mine: impl Fn(u64) -> bool,
        mut take: impl FnMut(K, V),
    ) -> Result<()> {
        for part in self.of(operator, state) {
            if part.since.is_some() {
                return Err(unread(part, "it is what has changed since another one, without that"));
            }
            if part.version != LAYOUT_CHANGES {
                is_of(part, PartKind::Rows)?;
            }
            // Keys of what has changed since the whole one: the last word of each is taken, so it comes first.
            let mut said: HashTable<K> = HashTable::new();
            let rehash = |key: &K| key.key_hash();
            for block in part.blocks.iter().rev().filter(|block| block.is_in(groups)) {
                match block.role {
                    Role::Rows => all_rows(part, block, |(key, value): (K, V)| {
                        let hash = key.key_hash();
                        if mine(hash) && said.find(hash, |there| *there == key).is_none() {
                            take(key, value);
                        }
                    })?,
                    Role::Changed => all_rows(part, block, |(key, value): (K, V)| {
                        let hash = key.key_hash();
                        if mine(hash) && said.find(hash, |there| *there == key).is_none() {
                            said.insert_unique(hash, key.clone(), rehash);
                            take(key, value);
                        }
                    })?,
                    Role::Gone => all_rows(part, block, |key: K| {
                        let hash = key.key_hash();
                        if mine(hash) && said.find(hash, |there| *there == key).is_none() {
                            said.insert_unique(hash, key, rehash);
                        }
                    })?,
                }
            }
        }
        Ok(())
    }
}

/// Reads all rows of a block of a part.
fn all_rows<V: DeserializeOwned>(part: &Part, block: &Block, take: impl FnMut(V)) -> Result<()> {
    let rows = each_row(block, take).map_err(|e| unread(part, &e))?;
    if rows == block.rows { Ok(()) } else { Err(unread(part, &format!("{rows} rows of {}", block.rows))) }
}

/// Reads all values of a block; how many there were.
fn each_row<V: DeserializeOwned>(block: &Block, mut take: impl FnMut(V)) -> std::result::Result<u64, String> {
    let Content::Rows { schema, bytes } = &block.content else {
        return Err("a block that was never read".to_owned());
    };
    let mut decoder = Decoder::new(bytes, &schema.shapes);
    let mut rows = 0;
    while !decoder.is_done() {
        take(V::deserialize(&mut decoder).map_err(|fault| fault.to_string())?);
        rows += 1;
    }
    Ok(rows)
}

/// Whether a program that expects rows of `V` can read all that a schema has seen.
pub(crate) fn readable<V: DeserializeOwned>(schema: &Schema) -> std::result::Result<(), String> {
    for sample in &schema.samples {
        let mut decoder = Decoder::new(sample, &schema.shapes);
        V::deserialize(&mut decoder).map_err(|fault| fault.to_string())?;
    }
    Ok(())
}

/// Steps over all rows of a block, to see whether they can be read at all; how many there are.
///
/// # Errors
/// What is wrong with the bytes, and where.
pub(crate) fn walk(schema: &Schema, bytes: &[u8]) -> std::result::Result<u64, String> {
    let mut decoder = Decoder::new(bytes, &schema.shapes);
    let mut rows = 0;
    while !decoder.is_done() {
        decoder.skip().map_err(|fault| fault.to_string())?;
        rows += 1;
    }
    Ok(rows)
}

fn is_of(part: &Part, kind: PartKind) -> Result<()> {
    if part.version != LAYOUT {
        let told = format!("layout {} where this build reads {LAYOUT}", part.version);
        return Err(unread(part, &told));
    }
    if part.kind != kind {
        return Err(unread(part, &format!("{} where {} is expected", part.kind.as_str(), kind.as_str())));
    }
    Ok(())
}

fn unread(part: &Part, why: &str) -> Status {
    Status::new(
        Code::DataLoss,
        format!(
            "state `{}` of operator `{}` (saved by its task {}) cannot be read: {why}",
            part.state, part.operator, part.subtask
        ),
    )
}

/// `Bytes` as bytes, whatever the format calls them.
mod as_bytes {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        Ok(Bytes::from(serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec()))
    }
}
