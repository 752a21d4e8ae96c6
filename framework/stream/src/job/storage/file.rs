//! A state file: blocks, one after the other, and behind them what they are.
//!
//! `AFXSTATE` and a version, the blocks, the index as MessagePack with names, the index's length and
//! CRC-32, `AFXSTATE` again. A block that has not changed stands in a file of an earlier epoch; the
//! index says where. See docs/specs/checkpoint.md.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::StateInfo;
use crate::snapshot::{Block, Content, Part, PartKind, Role, Schema, TaskSnapshot};

const MAGIC: &[u8; 8] = b"AFXSTATE";
/// Version of the layout of files that this build writes.
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 12;
/// Length and CRC-32 of the index, and the magic.
pub(super) const FOOT_BYTES: usize = 20;
/// A block of fewer bytes is written again rather than looked for in an earlier file.
const SHARED_BYTES_MIN: usize = 1024;
/// A block is written again when the file that holds it is of so many epochs before: its other blocks
/// are mostly of no use any more.
const REFERRED_EPOCHS_MAX: u64 = 16;

/// What stands at the end of a file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Index {
    pub(crate) epoch: u64,
    pub(crate) schemas: Vec<Arc<Schema>>,
    pub(crate) parts: Vec<PartEntry>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PartEntry {
    pub(crate) operator: String,
    pub(crate) state: String,
    pub(crate) subtask: u32,
    pub(crate) version: u32,
    pub(crate) kind: PartKind,
    /// Rows that are left when later ones have replaced earlier ones; none: those of all blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left: Option<u64>,
    pub(crate) blocks: Vec<BlockEntry>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BlockEntry {
    pub(crate) id: u64,
    pub(crate) rows: u64,
    pub(crate) groups: Option<Range<u32>>,
    #[serde(skip_serializing_if = "Role::is_rows")]
    pub(crate) role: Role,
    pub(crate) schema: u32,
    /// The file that holds it, below the job's directory; none: this one.
    pub(crate) file: Option<String>,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
}

/// A block by its part and id.
type Key = (String, String, u32, u64);

/// What tells the bytes of a block from others.
#[derive(Clone)]
pub(super) struct Sums {
    crc32: crc32fast::Hasher,
    /// 0: of too few bytes to be looked for.
    hash: u128,
}

impl Sums {
    /// Of one block: takes about a tenth of a millisecond for each megabyte.
    pub(super) fn of(block: &Block) -> Self {
        let mut sums = Self { crc32: crc32fast::Hasher::new(), hash: 0 };
        if let Content::Rows { bytes, .. } = &block.content {
            sums.crc32.update(bytes);
            if bytes.len() >= SHARED_BYTES_MIN {
                sums.hash = xxh3_128(bytes);
            }
        }
        sums
    }

    /// Of all blocks of a part.
    pub(super) fn of_all(part: &Part) -> Vec<Self> {
        part.blocks.iter().map(Self::of).collect()
    }
}

/// Where a block that was written is.
#[derive(Clone, Debug)]
struct Place {
    epoch: u64,
    file: Arc<str>,
    entry: BlockEntry,
    schema: Arc<Schema>,
    hash: u128,
}

/// Where the blocks of one epoch of one task are.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<Key, Place>);

impl Places {
    /// Those of the parts whose last rows are on disk.
    pub(super) fn of_later(&self, snapshot: &TaskSnapshot) -> Places {
        let parts = snapshot.parts.iter().filter(|part| part.later.is_some());
        Places(
            parts.flat_map(|part| self.part(part)).map(|(key, place)| (key.clone(), place.clone())).collect(),
        )
    }

    /// The blocks of a part, in their order.
    fn part(&self, part: &Part) -> impl Iterator<Item = (&Key, &Place)> {
        let of = |id| (part.operator.clone(), part.state.clone(), part.subtask, id);
        self.0.range(of(0)..=of(u64::MAX))
    }
}

/// A file to be written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) chunks: Vec<Bytes>,
    pub(super) bytes: u64,
    pub(super) crc32: u32,
    pub(super) refers: BTreeSet<String>,
    pub(super) states: Vec<StateInfo>,
    pub(super) places: Places,
}

/// Lays out what a task saved. `last` is what it wrote before; `earlier` finds a completed epoch.
pub(super) fn lay_out<'p>(
    snapshot: &TaskSnapshot,
    name: &str,
    last: Option<&Places>,
    earlier: impl Fn(u64) -> Option<&'p Places>,
) -> Result<Written, String> {
    let mut layout = Layout::new(snapshot.epoch, name);
    for part in &snapshot.parts {
        layout.part(part, Sums::of_all(part), last, &earlier)?;
    }
    layout.finish(snapshot)
}

/// A file that is being laid out.
pub(super) struct Layout {
    epoch: u64,
    name: Arc<str>,
    out: Out,
    index: Index,
    refers: BTreeSet<String>,
    places: Places,
}

impl Layout {
    pub(super) fn new(epoch: u64, name: &str) -> Self {
        let mut out = Out { chunks: Vec::new(), bytes: 0, hasher: crc32fast::Hasher::new() };
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&VERSION.to_be_bytes());
        out.push(Bytes::from(head), None);
        let index = Index { epoch, ..Index::default() };
        Self { epoch, name: Arc::from(name), out, index, refers: BTreeSet::new(), places: Places::default() }
    }

    /// Adds a part with the blocks that it has, and the sums of each.
    pub(super) fn part<'p>(
        &mut self,
        part: &Part,
        sums: Vec<Sums>,
        last: Option<&Places>,
        earlier: &impl Fn(u64) -> Option<&'p Places>,
    ) -> Result<(), String> {
        self.index.parts.push(PartEntry {
            operator: part.operator.clone(),
            state: part.state.clone(),
            subtask: part.subtask,
            version: part.version,
            kind: part.kind,
            left: part.left,
            blocks: Vec::with_capacity(part.blocks.len()),
        });
        let at = self.index.parts.len() - 1;
        let mut blocks: Vec<(Cow<'_, Block>, Sums)> =
            part.blocks.iter().map(Cow::Borrowed).zip(sums).collect();
        if let Some(since) = part.since {
            let mut next = None;
            for (key, place) in earlier(since).into_iter().flat_map(|places| places.part(part)) {
                next = Some(key.3 + 1);
                self.put(at, key.clone(), place.clone());
            }
            let Some(next) = next else {
                return Err(format!(
                    "state {}/{} is said to follow that of epoch {since}, which is not known",
                    part.operator, part.state
                ));
            };
            // What has gone goes first: a key that has come again since then is among the rows.
            blocks.retain(|(block, _)| block.rows > 0);
            blocks.sort_by_key(|(block, _)| block.role != Role::Gone);
            for (id, (block, _)) in (next..).zip(&mut blocks) {
                let block = block.to_mut();
                block.id = id;
                if block.role == Role::Rows {
                    block.role = Role::Changed;
                }
            }
        }
        for (block, sums) in &blocks {
            let key = key_of(part, block.id);
            let known = match &block.content {
                Content::Earlier { epoch, .. } => {
                    let known = earlier(*epoch).and_then(|places| places.0.get(&key));
                    Some(known.ok_or_else(|| {
                        format!(
                            "block {} of state {}/{} is said to be as in epoch {epoch}, which is not known \
                             to hold it",
                            block.id, part.operator, part.state
                        )
                    })?)
                }
                Content::Rows { .. } => last.and_then(|places| places.0.get(&key)),
            };
            self.block(at, key, (block, sums), known);
        }
        Ok(())
    }

    /// Adds a block that was read later to the part of this number. `known` is where the block of its id was
    /// last written.
    pub(super) fn later(
        &mut self,
        at: usize,
        part: &Part,
        (block, sums): &(Block, Sums),
        known: Option<&Places>,
    ) {
        let key = key_of(part, block.id);
        let known = known.and_then(|places| places.0.get(&key));
        self.block(at, key, (block, sums), known);
    }

    /// Adds a block: as it is known, or written here.
    fn block(&mut self, at: usize, key: Key, (block, sums): (&Block, &Sums), known: Option<&Place>) {
        let mut place = match (&block.content, known) {
            (Content::Earlier { .. }, Some(known)) => known.clone(),
            // Not known: refused before.
            (Content::Earlier { .. }, None) => return,
            (Content::Rows { schema, bytes }, known) => {
                let hash = sums.hash;
                let known = known.filter(|known| {
                    hash != 0
                        && known.hash == hash
                        && known.entry.bytes == bytes.len() as u64
                        && known.epoch.saturating_add(REFERRED_EPOCHS_MAX) > self.epoch
                        && known.schema.extends(schema)
                });
                match known {
                    Some(known) => known.clone(),
                    None => {
                        let entry = BlockEntry {
                            offset: self.out.bytes,
                            bytes: bytes.len() as u64,
                            crc32: sums.crc32.clone().finalize(),
                            ..BlockEntry::default()
                        };
                        self.out.push(bytes.clone(), Some(&sums.crc32));
                        let (file, schema) = (Arc::clone(&self.name), Arc::clone(schema));
                        Place { epoch: self.epoch, file, entry, schema, hash }
                    }
                }
            }
        };
        place.entry.id = block.id;
        place.entry.rows = block.rows;
        place.entry.groups = block.groups.clone();
        place.entry.role = block.role;
        self.put(at, key, place);
    }

    fn put(&mut self, at: usize, key: Key, mut place: Place) {
        let elsewhere = *place.file != *self.name;
        if elsewhere {
            self.refers.insert(place.file.to_string());
        }
        place.entry.schema = self.index.number(&place.schema);
        place.entry.file = elsewhere.then(|| place.file.to_string());
        if let Some(part) = self.index.parts.get_mut(at) {
            part.blocks.push(place.entry.clone());
        }
        self.places.0.insert(key, place);
    }

    /// What is laid out and not yet taken, in its order.
    pub(super) fn chunks(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.out.chunks)
    }

    /// Ends the file with its index. The chunks are what was not taken before.
    pub(super) fn finish(mut self, snapshot: &TaskSnapshot) -> Result<Written, String> {
        let states = self.index.parts.iter().zip(&snapshot.parts).map(|(entry, part)| {
            let here = || entry.blocks.iter().map(|block| block.rows).sum();
            StateInfo {
                operator: entry.operator.clone(),
                state: entry.state.clone(),
                kind: entry.kind,
                rows: if part.later.is_some() { here() } else { part.rows() },
                bytes: entry.blocks.iter().map(|block| block.bytes).sum(),
            }
        });
        let states = states.collect();
        let index =
            rmp_serde::to_vec_named(&self.index).map_err(|e| format!("the index cannot be encoded: {e}"))?;
        let mut foot = (index.len() as u64).to_be_bytes().to_vec();
        foot.extend_from_slice(&crc32fast::hash(&index).to_be_bytes());
        foot.extend_from_slice(MAGIC);
        self.out.push(Bytes::from(index), None);
        self.out.push(Bytes::from(foot), None);
        let crc32 = self.out.hasher.finalize();
        let (refers, places) = (self.refers, self.places);
        Ok(Written { chunks: self.out.chunks, bytes: self.out.bytes, crc32, refers, states, places })
    }
}

fn key_of(part: &Part, id: u64) -> Key {
    (part.operator.clone(), part.state.clone(), part.subtask, id)
}

struct Out {
    chunks: Vec<Bytes>,
    bytes: u64,
    hasher: crc32fast::Hasher,
}

impl Out {
    /// Adds a chunk; where its CRC-32 is known it is not read again.
    fn push(&mut self, chunk: Bytes, crc32: Option<&crc32fast::Hasher>) {
        self.bytes += chunk.len() as u64;
        match crc32 {
            Some(crc32) => self.hasher.combine(crc32),
            None => self.hasher.update(&chunk),
        }
        self.chunks.push(chunk);
    }
}

impl Index {
    /// The number of a schema: that of one that says as much, if there is one.
    fn number(&mut self, schema: &Arc<Schema>) -> u32 {
        for (at, known) in self.schemas.iter_mut().enumerate().rev() {
            if Arc::ptr_eq(known, schema) || known.extends(schema) {
                return at as u32;
            }
            if schema.extends(known) {
                *known = Arc::clone(schema);
                return at as u32;
            }
        }
        self.schemas.push(Arc::clone(schema));
        self.schemas.len() as u32 - 1
    }

    /// Reads the length and CRC-32 of the index in a file's last bytes.
    pub(super) fn foot(foot: &[u8]) -> Result<(usize, u32), String> {
        let (length, rest) = foot.split_first_chunk::<8>().ok_or("it is shorter than a state file can be")?;
        let (crc32, magic) = rest.split_first_chunk::<4>().ok_or("it is shorter than a state file can be")?;
        if magic != MAGIC {
            return Err("it does not end as a state file does".to_owned());
        }
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|e| e.to_string())?;
        Ok((length, u32::from_be_bytes(*crc32)))
    }

    /// Reads the index.
    pub(super) fn read(bytes: &[u8], crc32: u32) -> Result<Self, String> {
        if crc32fast::hash(bytes) != crc32 {
            return Err("its index does not have the CRC-32 that stands behind it".to_owned());
        }
        rmp_serde::from_slice(bytes).map_err(|e| format!("its index cannot be read: {e}"))
    }

    /// Reads the index of a whole file.
    pub(super) fn of(file: &[u8]) -> Result<Self, String> {
        let version = file.strip_prefix(MAGIC.as_slice()).and_then(|rest| rest.first_chunk::<4>());
        match version.map(|v| u32::from_be_bytes(*v)) {
            Some(VERSION) => {}
            Some(other) => return Err(format!("it is of version {other}, and this build reads {VERSION}")),
            None => return Err("it does not begin as a state file does".to_owned()),
        }
        let body = file.len().checked_sub(FOOT_BYTES).ok_or("it is shorter than a state file can be")?;
        let (length, crc32) = Self::foot(file.get(body..).unwrap_or_default())?;
        let from = body.checked_sub(length).filter(|from| *from >= HEAD_BYTES);
        let from = from.ok_or("its index is longer than the file")?;
        Self::read(file.get(from..body).unwrap_or_default(), crc32)
    }

    /// The blocks that stand in other files, by file.
    pub(super) fn elsewhere(&self) -> BTreeMap<&str, Vec<&BlockEntry>> {
        let mut files: BTreeMap<&str, Vec<&BlockEntry>> = BTreeMap::new();
        for block in self.parts.iter().flat_map(|part| &part.blocks) {
            if let Some(file) = &block.file {
                files.entry(file).or_default().push(block);
            }
        }
        files
    }

    /// The parts, each block's bytes given by `bytes`.
    pub(super) fn parts(
        &self,
        mut bytes: impl FnMut(&BlockEntry) -> Result<Bytes, String>,
    ) -> Result<Vec<Part>, String> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for entry in &self.parts {
            let mut blocks = Vec::with_capacity(entry.blocks.len());
            for block in &entry.blocks {
                let schema = self.schemas.get(block.schema as usize).cloned();
                let schema = schema.ok_or("a block has a schema that is not there")?;
                let bytes = bytes(block)?;
                if bytes.len() as u64 != block.bytes || crc32fast::hash(&bytes) != block.crc32 {
                    return Err(format!(
                        "block {} of state {}/{} does not have its CRC-32",
                        block.id, entry.operator, entry.state
                    ));
                }
                let content = Content::Rows { schema, bytes };
                let (groups, role) = (block.groups.clone(), block.role);
                blocks.push(Block { id: block.id, rows: block.rows, groups, role, content });
            }
            parts.push(Part {
                operator: entry.operator.clone(),
                state: entry.state.clone(),
                subtask: entry.subtask,
                version: entry.version,
                kind: entry.kind,
                since: None,
                left: entry.left,
                blocks,
                later: None,
            });
        }
        Ok(parts)
    }
}

impl BlockEntry {
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes)
    }
}
