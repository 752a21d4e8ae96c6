//! The timers of all keys of one operator in one task: the next ones in memory, all others on disk.
//!
//! A timer's place is its moment and its key's canonical encoding, as bytes that sort by time. Places below
//! the horizon are in memory, those from it on in a tree; never in both. When too many are in memory
//! the later half goes to the tree, and when none is left in memory the next ones are taken out of it.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::store::{Store, Wait};
use super::tree::{self, Rows, Shared, Tree};
use crate::Result;
use crate::block::Blocks;
use crate::key::{Key, KeyBytes};
use crate::snapshot::{ReadRows, TaskSnapshot};
use afflux_wire::{Code, Status};
use xxhash_rust::xxh3::xxh3_64;

/// Timers in memory before the later half goes to disk.
const NEAR_TIMERS_MAX: usize = 8 * 1024;
/// This part of them is taken from disk at once.
const LOADED_PART: usize = 8;
/// Timers remembered to be on disk, so that the same request again is not written again: a life that is prolonged
/// with each record asks for the same moment mostly.
const RECENT_TIMERS: usize = 1024;
/// Bytes of a place that are its moment.
const MOMENT_BYTES: usize = 8;

/// What is on disk, as it was at the barrier.
struct TimerRows<K> {
    rows: Rows,
    name: &'static str,
    /// Its files stay meanwhile.
    _tree: Arc<Shared>,
    _key: PhantomData<fn() -> K>,
}

impl<K: Key> ReadRows for TimerRows<K> {
    fn read(&mut self, blocks: &mut Blocks, mut bytes: usize) -> Result<bool> {
        while bytes > 0 {
            let Some(item) = self.rows.next() else { return Ok(false) };
            let (place, key) = tree::row(item)?;
            let written = blocks.push(&(decode::<K>(&key, self.name)?, moment_of(&place)));
            bytes = bytes.saturating_sub(written.max(1));
        }
        Ok(true)
    }
}

/// See the [module](self).
pub(crate) struct DiskTimers<K> {
    name: &'static str,
    store: Arc<Store>,
    near: BTreeMap<Vec<u8>, K>,
    near_max: usize,
    /// The first place that is in the tree; none: none is.
    horizon: Option<Vec<u8>>,
    /// Made when the first timer has to leave memory.
    tree: Option<Tree>,
    /// Places that are certainly in the tree, each where its hash puts it.
    recent: Box<[Vec<u8>]>,
    /// The rows of a snapshot that has begun.
    cut: Option<Blocks>,
    /// What went wrong where nobody could be told.
    failed: Option<Status>,
    wait: Option<Wait>,
    place: KeyBytes,
    bytes: Vec<u8>,
}

/// The place of a timer.
fn place_of<'a, K: Key>(at: i64, key: &K, out: &'a mut KeyBytes) -> &'a [u8] {
    out.clear();
    // The sign turned round: negative moments come first.
    out.put(&(at as u64 ^ (1 << 63)).to_be_bytes());
    key.encode_key(out);
    out.as_slice()
}

/// The moment of a place.
fn moment_of(place: &[u8]) -> i64 {
    let moment = place.first_chunk::<MOMENT_BYTES>().copied().unwrap_or_default();
    (u64::from_be_bytes(moment) ^ (1 << 63)) as i64
}

/// Where a place is remembered.
fn recent_of<'a>(recent: &'a mut [Vec<u8>], place: &[u8]) -> Option<&'a mut Vec<u8>> {
    recent.get_mut(xxh3_64(place) as usize % RECENT_TIMERS)
}

fn forget(recent: &mut [Vec<u8>], place: &[u8]) {
    if let Some(recent) = recent_of(recent, place)
        && *recent == place
    {
        recent.clear();
    }
}

impl<K: Key> DiskTimers<K> {
    pub(crate) fn new(name: &'static str, store: &Arc<Store>) -> Self {
        Self::with_near_max(name, store, NEAR_TIMERS_MAX)
    }

    /// With so many timers in memory at most, for tests.
    pub(crate) fn with_near_max(name: &'static str, store: &Arc<Store>, near_max: usize) -> Self {
        Self {
            name,
            store: Arc::clone(store),
            near: BTreeMap::new(),
            near_max,
            horizon: None,
            tree: None,
            recent: Box::default(),
            cut: None,
            failed: None,
            wait: None,
            place: KeyBytes::default(),
            bytes: Vec::new(),
        }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Ready when more timers may be set.
    pub(crate) fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<()>> {
        self.check()?;
        let Some(tree) = &self.tree else { return Poll::Ready(Ok(())) };
        ready!(self.store.poll_room(&mut self.wait, task))?;
        tree.poll_ready(task)
    }

    fn check(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    pub(crate) fn set(&mut self, at: i64, key: &K) {
        let place = place_of(at, key, &mut self.place);
        if let (Some(horizon), Some(tree)) = (&self.horizon, &self.tree)
            && place >= horizon.as_slice()
        {
            let recent = recent_of(&mut self.recent, place);
            if recent.as_ref().is_none_or(|recent| *recent != place) {
                let written = put(tree, place, key, &mut self.bytes, self.name);
                self.failed = self.failed.take().or(written.err());
                if let Some(recent) = recent {
                    recent.clear();
                    recent.extend_from_slice(place);
                }
            }
            return;
        }
        if !self.near.contains_key(place) {
            self.near.insert(place.to_vec(), key.clone());
            if self.near.len() > self.near_max {
                let spilled = self.spill();
                self.failed = self.failed.take().or(spilled.err());
            }
        }
    }

    /// Moves the later half to the tree.
    fn spill(&mut self) -> Result<()> {
        let tree = match &mut self.tree {
            Some(tree) => tree,
            none => {
                self.recent = vec![Vec::new(); RECENT_TIMERS].into();
                none.insert(Tree::new(&self.store, self.name))
            }
        };
        let Some(first) = self.near.keys().nth(self.near_max / 2).cloned() else { return Ok(()) };
        for (place, key) in self.near.split_off(&first) {
            put(tree, &place, &key, &mut self.bytes, self.name)?;
        }
        self.horizon = Some(first);
        Ok(())
    }

    pub(crate) fn remove(&mut self, at: i64, key: &K) {
        let place = place_of(at, key, &mut self.place);
        match (&self.horizon, &self.tree) {
            (Some(horizon), Some(tree)) if place >= horizon.as_slice() => {
                forget(&mut self.recent, place);
                self.failed = self.failed.take().or(tree.shared().remove(place).err());
            }
            _ => drop(self.near.remove(place)),
        }
    }

    /// Takes the next timers out of the tree when there is none in memory and one may be due.
    fn load(&mut self, until: i64) -> Result<()> {
        self.check()?;
        let (true, Some(tree), Some(horizon)) = (self.near.is_empty(), &self.tree, &self.horizon) else {
            return Ok(());
        };
        if moment_of(horizon) > until {
            return Ok(());
        }
        let mut last = None;
        for item in tree.shared().rows_from(horizon)? {
            let (place, key) = tree::row(item)?;
            self.near.insert(place.to_vec(), decode(&key, self.name)?);
            forget(&mut self.recent, &place);
            tree.shared().remove(&place)?;
            if self.near.len() >= self.near_max / LOADED_PART {
                last = Some(place.to_vec());
                break;
            }
        }
        self.horizon = last.map(|mut place| {
            place.push(0);
            place
        });
        Ok(())
    }

    pub(crate) fn first(&mut self) -> Result<Option<i64>> {
        self.load(i64::MAX)?;
        Ok(self.near.first_key_value().map(|(place, _)| moment_of(place)))
    }

    pub(crate) fn pop(&mut self, until: i64) -> Result<Option<(i64, K)>> {
        self.load(until)?;
        Ok(match self.near.first_entry() {
            Some(first) if moment_of(first.key()) <= until => {
                let (place, key) = first.remove_entry();
                Some((moment_of(&place), key))
            }
            _ => None,
        })
    }

    pub(crate) fn upcoming(&mut self, until: i64, timers_max: usize) -> Result<Vec<K>> {
        self.load(until)?;
        let due = self.near.iter().take(timers_max).take_while(|(place, _)| moment_of(place) <= until);
        Ok(due.map(|(_, key)| key.clone()).collect())
    }

    /// What is in memory is written at once: it is little. The tree is read later, as it is now.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.check()?;
        if self.cut.is_some() {
            return Err(Status::internal("a barrier came while the timers of the one before were written"));
        }
        let mut blocks = Blocks::default();
        for (place, key) in &self.near {
            blocks.push(&(key, moment_of(place)));
        }
        if let (Some(tree), Some(horizon)) = (&self.tree, &self.horizon) {
            let (rows, name) = (tree.shared().rows_from(horizon)?, self.name);
            let tree = Arc::clone(tree.shared());
            blocks.read_later(Box::new(TimerRows::<K> { rows, name, _tree: tree, _key: PhantomData }));
        }
        self.cut = Some(blocks);
        Ok(())
    }

    /// Hands the snapshot over that has begun: what is on disk is read by whoever stores it.
    pub(crate) fn write(
        &mut self,
        snapshot: &mut TaskSnapshot,
        operator: &str,
        subtask: u32,
    ) -> Result<bool> {
        if let Some(mut blocks) = self.cut.take() {
            blocks.hand_over(true, snapshot, (operator, self.name, subtask))?;
        }
        Ok(true)
    }

    /// Writes what waits to be written, on this thread: for a restore, which may block.
    ///
    /// # Errors
    /// When the disk cannot be written, or has no room.
    pub(crate) fn catch_up(&mut self) -> Result<()> {
        self.check()?;
        if let Some(tree) = &self.tree
            && tree.catch_up()?
        {
            self.store.check_room()?;
        }
        Ok(())
    }

    pub(crate) fn list(&self) -> Vec<(i64, K)> {
        self.near.iter().map(|(place, key)| (moment_of(place), key.clone())).collect()
    }
}

/// Writes a timer to the tree.
fn put<K: Key>(tree: &Tree, place: &[u8], key: &K, bytes: &mut Vec<u8>, name: &str) -> Result<()> {
    bytes.clear();
    rmp_serde::encode::write(bytes, key)
        .map_err(|e| Status::internal(format!("a key of {name} cannot be encoded: {e}")))?;
    tree.shared().put(place, bytes)
}

fn decode<K: Key>(bytes: &[u8], name: &str) -> Result<K> {
    rmp_serde::from_slice(bytes)
        .map_err(|e| Status::new(Code::DataLoss, format!("{name} on disk cannot be read: {e}")))
}
