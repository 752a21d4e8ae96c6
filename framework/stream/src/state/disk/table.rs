//! The values of all keys of one state in one task, most of them on disk.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::errand::Errand;
use super::slab::{Keys, Row, Slab};
use super::store::{Store, Wait};
use super::tree::{self, Rows, Shared, Tree, Writes};
use crate::Result;
use crate::block::Blocks;
use crate::key::{Key, KeyBytes, KeyGroup};
use crate::keyed::KeyOf;
use crate::snapshot::ReadRows;
use crate::table::WriteRow;
use afflux_wire::{Code, Status};

/// Rows in memory that a table may always have, however little memory there is.
const ROWS_MIN: u64 = 256;
/// Generations beside the young one. A third of the memory each.
const OLDER_MAX: usize = 2;
/// Rows that are written for each row that comes into memory, so that writing never falls behind.
const WRITES_PER_ROW: usize = 2;
/// Rows that are written in a turn at least.
const WRITES_PER_TURN: usize = 256;
/// Up to so many rows, all in memory, a snapshot takes them at once.
const AT_ONCE_ROWS_MAX: usize = 4096;
/// Rows that one step of a snapshot writes.
const WRITES_PER_STEP: usize = 64;
/// Bytes that have come together before they are written without a look-up.
const WRITES_BYTES_MIN: usize = 64 << 10;
/// Bytes that may come together, but for one row or 256 more, while an errand is under way.
const WRITES_BYTES_MAX: usize = 1 << 20;

/// A row that was read.
type Decoded<K, V> = std::result::Result<(K, V), rmp_serde::decode::Error>;

/// How a row becomes bytes on disk: an array of key and value. Nobody but this process reads them.
pub(crate) struct Codec<K, V> {
    encode: fn(&K, &V, &mut Vec<u8>) -> std::result::Result<(), rmp_serde::encode::Error>,
    decode: fn(&[u8]) -> Decoded<K, V>,
}

impl<K: Key, V: Serialize + DeserializeOwned> Codec<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            encode: |key, value, out| rmp_serde::encode::write(out, &(key, value)),
            decode: |bytes| rmp_serde::from_slice(bytes),
        }
    }
}

/// A generation that is no longer the youngest.
struct Older<K, V> {
    rows: Slab<K, V>,
    /// Rows at places before this one are in the tree as they are here.
    next: usize,
    /// A snapshot needs them: what is taken out before it is in the tree is written first.
    held: bool,
}

impl<K: Eq, V> Older<K, V> {
    fn is_written(&self) -> bool {
        self.next >= self.rows.places()
    }
}

/// A snapshot under way.
struct Cut<K, V> {
    at: At,
    rows: CutRows<K, V>,
}

/// How far it is.
enum At {
    /// The held generations are being written.
    Writing,
    /// They are with an errand, which then looks at the tree as it is.
    Asked,
    /// The tree holds the state as it was.
    There(Rows),
    /// All rows are there, or are read later.
    End,
}

/// The rows of a snapshot.
struct CutRows<K, V> {
    write: WriteRow<K, V>,
    tag: i64,
    blocks: Blocks,
}

impl<K, V> CutRows<K, V> {
    fn push(&mut self, entry: &(K, V)) -> usize {
        (self.write.one)(&mut self.blocks, self.tag, entry)
    }
}

/// The rows of a tree as they were at a barrier.
struct TableRows<K, V> {
    rows: Rows,
    decode: fn(&[u8]) -> Decoded<K, V>,
    write: WriteRow<K, V>,
    tag: i64,
    name: String,
    /// Its files stay meanwhile.
    _tree: Arc<Shared>,
}

impl<K: Key, V> ReadRows for TableRows<K, V> {
    fn read(&mut self, blocks: &mut Blocks, mut bytes: usize) -> Result<bool> {
        while bytes > 0 {
            let Some(item) = self.rows.next() else { return Ok(false) };
            let entry = (self.decode)(&tree::row(item)?.1).map_err(|e| damaged(&self.name, &e))?;
            bytes = bytes.saturating_sub((self.write.one)(blocks, self.tag, &entry).max(1));
        }
        Ok(true)
    }
}

/// A key to be looked up in the tree.
struct Missing<K> {
    place: Vec<u8>,
    hash: u64,
    key: K,
}

/// What an errand has done: keys and what was found, the tree as it is then where that was asked.
struct Done<K> {
    found: Vec<(u64, K, Option<lsm_tree::Slice>)>,
    rows: Option<Rows>,
    /// For the next writes.
    writes: Writes,
}

/// An errand under way.
struct Away<K> {
    done: Errand<Done<K>>,
    /// Whether it looks keys up.
    looks: bool,
}

/// See the [module](super).
pub(crate) struct DiskTable<K, V> {
    name: String,
    store: Arc<Store>,
    codec: Codec<K, V>,
    young: Slab<K, V>,
    /// Oldest first.
    older: VecDeque<Older<K, V>>,
    /// Made when the first row has to leave memory.
    tree: Option<Tree>,
    /// Keys that were forgotten and may be in the tree.
    removed: Keys<K>,
    /// What the next errand writes.
    writes: Writes,
    errand: Option<Away<K>>,
    /// Keys that were looked up for the present batch and are not there.
    absent: Keys<K>,
    /// An errand has come back that looked keys up.
    arrived: bool,
    cut: Option<Cut<K, V>>,
    /// What a row is encoded to, by and large.
    row_bytes: u64,
    wait: Option<Wait>,
    key_bytes: KeyBytes,
}

impl<K, V> Drop for DiskTable<K, V> {
    fn drop(&mut self) {
        self.store.leave();
    }
}

/// The key of a row in the tree: its group in front, so that groups lie together.
fn tree_key<'a, K: Key>(hash: u64, key: &K, out: &'a mut KeyBytes) -> &'a [u8] {
    out.clear();
    out.put(&KeyGroup::of(hash).0.to_be_bytes());
    key.encode_key(out);
    out.as_slice()
}

impl<K: Key, V> DiskTable<K, V> {
    pub(crate) fn new(store: &Arc<Store>, name: &str, codec: Codec<K, V>) -> Self {
        store.join();
        Self {
            name: name.to_owned(),
            store: Arc::clone(store),
            codec,
            young: Slab::new(),
            older: VecDeque::new(),
            tree: None,
            removed: Keys::new(),
            writes: Writes::default(),
            errand: None,
            absent: Keys::new(),
            arrived: false,
            cut: None,
            row_bytes: 32,
            wait: None,
            key_bytes: KeyBytes::default(),
        }
    }

    /// Rows that a generation may have.
    fn young_max(&self) -> usize {
        let row = size_of::<Option<Row<K, V>>>() as u64 + self.row_bytes + 8;
        let rows = self.store.allowance() / (OLDER_MAX as u64 + 1) / row;
        usize::try_from(rows.max(ROWS_MIN)).unwrap_or(usize::MAX)
    }

    /// Brings the values of these keys into memory, where they stay until the next call. Ready when
    /// they are there; not ready while the disk has no room or its writer has fallen behind.
    pub(crate) fn poll_prepare<'k>(
        &mut self,
        task: &mut Context<'_>,
        keys: impl Iterator<Item = (u64, Cow<'k, K>)>,
    ) -> Poll<Result<()>>
    where
        K: 'k,
    {
        ready!(self.poll_looked(task))?;
        let arrived = std::mem::take(&mut self.arrived);
        let full = !arrived && self.young.len() >= self.young_max();
        if full || self.tree.is_some() || !self.older.is_empty() {
            ready!(self.poll_writable(task))?;
        }
        self.bury();
        if full {
            ready!(self.poll_room_for_young(task))?;
            self.turn(false);
        }
        let mut come = 0;
        let mut missing: Vec<Missing<K>> = Vec::new();
        for (hash, key) in keys {
            if self.young.find(hash, &key).is_some() || self.absent.contains(hash, &key) {
                continue;
            }
            come += 1;
            if !self.recall(hash, &key)? && self.is_on_disk() && !self.removed.contains(hash, &key) {
                let place = tree_key(hash, &*key, &mut self.key_bytes).to_vec();
                missing.push(Missing { place, hash, key: key.into_owned() });
            }
        }
        self.write(come * WRITES_PER_ROW + usize::from(come > 0) * WRITES_PER_TURN)?;
        if !missing.is_empty() {
            // In the order of the files: neighbours come from one block.
            missing.sort_unstable_by(|a, b| a.place.cmp(&b.place));
            missing.dedup_by(|a, b| a.place == b.place);
            ready!(self.poll_back(task))?;
            self.send(missing)?;
            ready!(self.poll_looked(task))?;
            self.arrived = false;
        } else if self.writes.bytes() >= WRITES_BYTES_MIN {
            self.collect()?;
            if self.errand.is_none() {
                self.send(Vec::new())?;
            }
        }
        self.absent.clear();
        Poll::Ready(Ok(()))
    }

    /// Ready when the errand under way, if any, is back.
    fn poll_back(&mut self, task: &Context<'_>) -> Poll<Result<()>> {
        let Some(away) = &self.errand else { return Poll::Ready(Ok(())) };
        let done = ready!(away.done.poll(task));
        Poll::Ready(self.came_back(done))
    }

    /// Ready when what was looked up is in memory.
    fn poll_looked(&mut self, task: &Context<'_>) -> Poll<Result<()>> {
        match &self.errand {
            Some(Away { looks: true, .. }) => self.poll_back(task),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Takes in what an errand has done that is back.
    fn collect(&mut self) -> Result<()> {
        let done = self.errand.as_ref().and_then(|away| away.done.take());
        done.map_or(Ok(()), |done| self.came_back(done))
    }

    fn came_back(&mut self, done: Result<Done<K>>) -> Result<()> {
        let looked = self.errand.take().is_some_and(|away| away.looks);
        let Done { found, rows, writes } = done?;
        if self.writes.is_empty() {
            self.writes = writes;
        }
        self.arrived |= looked;
        for (hash, key, bytes) in found {
            let Some(bytes) = bytes else {
                self.absent.insert(hash, key);
                continue;
            };
            let (_, value) = (self.codec.decode)(&bytes).map_err(|e| self.damaged(&e))?;
            self.young.insert(Row { hash, entry: (key, value) });
        }
        if let (Some(rows), Some(cut)) = (rows, &mut self.cut) {
            cut.at = At::There(rows);
        }
        Ok(())
    }

    /// Sends an errand: what has come together is written, then these keys are looked up. None is under way.
    fn send(&mut self, missing: Vec<Missing<K>>) -> Result<()> {
        let looks = !missing.is_empty();
        let cut = self.is_cut_due();
        if !looks && !cut && self.writes.is_empty() {
            return Ok(());
        }
        let tree = self.tree.get_or_insert_with(|| Tree::new(&self.store, &self.name));
        let writes = std::mem::take(&mut self.writes);
        let done = tree.errand(move |tree| look_up(tree, writes, missing, cut));
        self.errand = Some(Away { done, looks });
        if cut {
            if let Some(cut) = &mut self.cut {
                cut.at = At::Asked;
            }
            // Before anything younger is written: a key may be there again.
            self.bury();
        }
        Ok(())
    }

    /// Writes what has come together, on this thread.
    fn send_and_wait(&mut self) -> Result<()> {
        if let Some(away) = &self.errand {
            let done = away.done.wait();
            self.came_back(done)?;
        }
        match &self.tree {
            Some(tree) => self.writes.apply(tree.shared()),
            None if self.writes.is_empty() => Ok(()),
            None => {
                let tree = self.tree.insert(Tree::new(&self.store, &self.name));
                self.writes.apply(tree.shared())
            }
        }
    }

    fn damaged(&self, error: &rmp_serde::decode::Error) -> Status {
        damaged(&self.name, error)
    }

    fn poll_writable(&mut self, task: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.store.poll_room(&mut self.wait, task))?;
        match &self.tree {
            Some(tree) => tree.poll_ready(task),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Takes a row of an older generation into the young one.
    fn recall(&mut self, hash: u64, key: &K) -> Result<bool> {
        let found = self
            .older
            .iter()
            .enumerate()
            .rev()
            .find_map(|(age, older)| older.rows.find(hash, key).map(|at| (age, at)));
        let Some((age, at)) = found else { return Ok(false) };
        let Some(older) = self.older.get(age) else { return Ok(false) };
        if older.held
            && at as usize >= older.next
            && let Some(row) = older.rows.at(at)
        {
            put(&mut self.writes, &self.codec, row, &mut self.key_bytes, &self.name)?;
        }
        if let Some(row) = self.older.get_mut(age).and_then(|older| older.rows.take(at)) {
            self.young.insert(row);
        }
        Ok(true)
    }

    /// Tells the tree which keys were forgotten, unless a snapshot still needs them there.
    fn bury(&mut self) {
        if self.removed.is_empty() || self.is_held() {
            return;
        }
        if !self.is_on_disk() {
            // Nothing was ever written: what is in older generations is found in none of them any more.
            self.removed.clear();
            return;
        }
        for (hash, key) in self.removed.drain() {
            self.writes.remove(tree_key(hash, &key, &mut self.key_bytes));
        }
    }

    /// Whether rows may be in the tree, or are on their way there.
    fn is_on_disk(&self) -> bool {
        self.tree.is_some() || !self.writes.is_empty()
    }

    /// Whether a snapshot needs the tree as it is.
    const fn is_held(&self) -> bool {
        matches!(self.cut, Some(Cut { at: At::Writing, .. }))
    }

    /// Whether all that a snapshot needs is written or with the next errand.
    fn is_cut_due(&self) -> bool {
        self.is_held() && !self.older.iter().any(|older| older.held)
    }

    /// Ready when the young generation may become an older one: all but one of those are written.
    fn poll_room_for_young(&mut self, task: &Context<'_>) -> Poll<Result<()>> {
        // Nearly always so by now: see WRITES_PER_ROW.
        while self.unwritten() >= OLDER_MAX {
            if self.writes.bytes() >= WRITES_BYTES_MAX || self.is_cut_due() {
                ready!(self.poll_back(task))?;
                self.send(Vec::new())?;
            }
            self.write(WRITES_PER_TURN)?;
        }
        Poll::Ready(Ok(()))
    }

    fn unwritten(&self) -> usize {
        self.older.iter().filter(|older| !older.is_written()).count()
    }

    /// The young generation becomes an older one.
    fn turn(&mut self, held: bool) {
        let rows = std::mem::replace(&mut self.young, Slab::new());
        self.older.push_back(Older { rows, next: 0, held });
        // A barrier does not wait for what a full generation left to write.
        while self.older.len() > OLDER_MAX
            && let Some(written) = self.older.iter().position(Older::is_written)
        {
            self.older.remove(written);
        }
    }

    /// Encodes up to so many rows of older generations for the next errand.
    fn write(&mut self, mut rows: usize) -> Result<()> {
        // What is younger than a barrier comes after the errand that looks at the tree for it.
        while rows > 0 && self.writes.bytes() < WRITES_BYTES_MAX && !self.is_cut_due() {
            let Some(older) = self.older.iter_mut().find(|older| !older.is_written()) else { break };
            while rows > 0 && !older.is_written() {
                if let Some(row) = older.rows.at(older.next as u32) {
                    let bytes = put(&mut self.writes, &self.codec, row, &mut self.key_bytes, &self.name)?;
                    self.row_bytes = (self.row_bytes * 63 + bytes as u64) / 64;
                }
                rows -= 1;
                older.next += 1;
            }
            if older.is_written() {
                older.held = false;
            }
        }
        Ok(())
    }

    /// Begins a snapshot of the values as they are now. Its rows are what `write` makes
    /// of them with the tag.
    ///
    /// # Errors
    /// While the one before is being written, or when the disk cannot be written.
    pub(crate) fn begin(&mut self, write: WriteRow<K, V>, tag: i64) -> Result<()> {
        if self.cut.is_some() {
            return Err(Status::internal(format!(
                "a barrier came while state {} was written for the one before",
                self.name
            )));
        }
        self.bury();
        let mut rows = CutRows { write, tag, blocks: Blocks::default() };
        if !self.is_on_disk() && self.older.is_empty() && self.young.len() <= AT_ONCE_ROWS_MAX {
            for row in self.young.iter() {
                rows.push(&row.entry);
            }
            self.cut = Some(Cut { at: At::End, rows });
            return Ok(());
        }
        // What is older and not yet written belongs to the snapshot as much as what is young.
        for older in &mut self.older {
            older.held = !older.is_written();
        }
        self.cut = Some(Cut { at: At::Writing, rows });
        if !self.young.is_empty() {
            self.turn(true);
        }
        Ok(())
    }

    /// Whether a snapshot is under way.
    pub(crate) const fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// What is read so far of the snapshot under way.
    pub(crate) fn written(&mut self) -> Option<&mut Blocks> {
        self.cut.as_mut().map(|cut| &mut cut.rows.blocks)
    }

    /// Goes on with the snapshot until the budget (bytes) is spent: its rows, of which most are read later,
    /// when the tree has them all. The room on the disk is not looked at: no more is written than memory held.
    pub(crate) fn write_cut(&mut self, budget: &mut usize) -> Result<Option<Blocks>>
    where
        V: 'static,
    {
        loop {
            self.collect()?;
            let Some(cut) = &mut self.cut else { return Ok(None) };
            match std::mem::replace(&mut cut.at, At::End) {
                At::End => return Ok(self.cut.take().map(|cut| cut.rows.blocks)),
                At::There(rows) => {
                    if let Some(tree) = &self.tree {
                        let (decode, write, tag) = (self.codec.decode, cut.rows.write, cut.rows.tag);
                        let (name, tree) = (self.name.clone(), Arc::clone(tree.shared()));
                        let rows = TableRows { rows, decode, write, tag, name, _tree: tree };
                        cut.rows.blocks.read_later(Box::new(rows));
                    }
                    continue;
                }
                at => cut.at = at,
            }
            if *budget == 0 || matches!(cut.at, At::Asked) {
                return Ok(None);
            }
            if let Some(tree) = &self.tree
                && tree.is_behind()?
            {
                return Ok(None);
            }
            let before = self.writes.bytes();
            self.write(WRITES_PER_STEP)?;
            let written = self.writes.bytes().saturating_sub(before);
            *budget = budget.saturating_sub(written.max(1024));
            let full = self.writes.bytes() >= WRITES_BYTES_MAX;
            if full || self.is_cut_due() {
                if self.errand.is_some() {
                    return Ok(None);
                }
                self.send(Vec::new())?;
            }
        }
    }

    /// Sets the value of a key when state is read back. Blocks while the disk is written.
    pub(crate) fn restore(&mut self, key: K, value: V) -> Result<()> {
        let hash = key.key_hash();
        if self.young.len() >= self.young_max() {
            self.store.check_room()?;
            while self.unwritten() >= OLDER_MAX {
                self.write(WRITES_PER_TURN)?;
                self.send_and_wait()?;
            }
            self.turn(false);
        }
        match self.young.find(hash, &key).and_then(|at| self.young.at_mut(at)) {
            Some(row) => row.entry.1 = value,
            None => {
                self.young.insert(Row { hash, entry: (key, value) });
            }
        }
        if !self.older.is_empty() {
            self.write(WRITES_PER_ROW)?;
            if self.writes.bytes() >= WRITES_BYTES_MIN {
                self.send_and_wait()?;
                if let Some(tree) = &self.tree {
                    tree.catch_up()?;
                }
            }
        }
        Ok(())
    }

    /// The value of a key that is in memory.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let hash = key.key_hash();
        let slabs = std::iter::once(&self.young).chain(self.older.iter().map(|older| &older.rows));
        slabs.into_iter().find_map(|rows| rows.at(rows.find(hash, key)?)).map(|row| &row.entry.1)
    }

    /// The value of a prepared key, made when it is absent.
    #[inline]
    pub(crate) fn entry(&mut self, hash: u64, key: Cow<'_, K>, make: impl FnOnce() -> V) -> Place<'_, K, V> {
        let at = match self.young.find(hash, &key) {
            Some(at) => at,
            None => self.young.insert(Row { hash, entry: (key.into_owned(), make()) }),
        };
        self.place(at)
    }

    /// The value of a prepared key that has one.
    #[inline]
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<Place<'_, K, V>> {
        self.young.find(hash, key).map(|at| self.place(at))
    }

    fn place(&mut self, at: u32) -> Place<'_, K, V> {
        // A forgotten key has to be forgotten on disk, too, where it may be.
        let elsewhere = self.is_on_disk() || !self.older.is_empty();
        let removed = elsewhere.then_some(&mut self.removed);
        Place { young: &mut self.young, removed, at }
    }

    /// Takes in all rows, whose keys are prepared.
    pub(crate) fn upsert_all<T, F: KeyOf<T, Key = K>>(
        &mut self,
        rows: &[T],
        keys: &F,
        make: impl Fn() -> V,
        add: impl Fn(&mut V, &T),
    ) {
        for row in rows {
            let key = keys.key(row);
            let hash = key.key_hash();
            let at = match self.young.find(hash, &key) {
                Some(at) => at,
                None => self.young.insert(Row { hash, entry: (key.into_owned(), make()) }),
            };
            if let Some(kept) = self.young.at_mut(at) {
                add(&mut kept.entry.1, row);
            }
        }
    }

    /// Takes all rows out, some at a time.
    pub(crate) fn into_emptied(mut self) -> Emptied<K, V> {
        self.cut = None;
        Emptied { begun: false, read: None, next: 0, table: self }
    }
}

fn damaged(name: &str, error: &rmp_serde::decode::Error) -> Status {
    Status::new(Code::DataLoss, format!("state {name} on disk cannot be read: {error}"))
}

/// Appends an encoded row.
fn encode<K: Key, V>(codec: &Codec<K, V>, row: &Row<K, V>, out: &mut Vec<u8>, name: &str) -> Result<()> {
    (codec.encode)(&row.entry.0, &row.entry.1, out)
        .map_err(|e| Status::internal(format!("state {name} cannot be encoded: {e}")))
}

/// Adds a row to those that are to be written: its bytes.
fn put<K: Key, V>(
    writes: &mut Writes,
    codec: &Codec<K, V>,
    row: &Row<K, V>,
    key: &mut KeyBytes,
    name: &str,
) -> Result<usize> {
    let key = tree_key(row.hash, &row.entry.0, key);
    writes.put(key, |bytes| encode(codec, row, bytes, name))
}

/// What an errand does.
fn look_up<K: Key>(
    tree: &Arc<Shared>,
    mut writes: Writes,
    missing: Vec<Missing<K>>,
    cut: bool,
) -> Result<Done<K>> {
    writes.apply(tree)?;
    let rows = if cut { Some(tree.rows()?) } else { None };
    let mut found = Vec::with_capacity(missing.len());
    for Missing { place, hash, key } in missing {
        found.push((hash, key, tree.get(&place)?));
    }
    Ok(Done { found, rows, writes })
}

/// The value of one key, in its place.
pub(crate) struct Place<'a, K, V> {
    young: &'a mut Slab<K, V>,
    removed: Option<&'a mut Keys<K>>,
    at: u32,
}

impl<K: Key, V> Place<'_, K, V> {
    #[inline]
    #[allow(clippy::expect_used, reason = "a place is made from a row that is there, and holds it")]
    pub(crate) fn parts(&mut self) -> (&K, &mut V) {
        let row = self.young.at_mut(self.at).expect("the place of a row");
        (&row.entry.0, &mut row.entry.1)
    }

    /// Forgets the key.
    pub(crate) fn remove(self) {
        if let Some(row) = self.young.take(self.at)
            && let Some(removed) = self.removed
        {
            removed.insert(row.hash, row.entry.0);
        }
    }
}

/// The rows of a table that is no longer needed.
pub(crate) struct Emptied<K, V> {
    begun: bool,
    read: Option<Rows>,
    /// The next place of the generation that is being emptied.
    next: usize,
    table: DiskTable<K, V>,
}

impl<K: Key, V> Emptied<K, V> {
    /// Gives up to `rows` rows to `take`; `false`: there are no more.
    pub(crate) fn next(&mut self, mut rows: usize, mut take: impl FnMut(K, V)) -> Result<bool> {
        if !std::mem::replace(&mut self.begun, true) {
            let table = &mut self.table;
            table.bury();
            table.send_and_wait()?;
            self.read = table.tree.as_ref().map(|tree| tree.shared().rows()).transpose()?;
        }
        while rows > 0 {
            if let Some(read) = &mut self.read {
                let Some(item) = read.next() else {
                    self.read = None;
                    continue;
                };
                rows -= 1;
                let (key, value) =
                    (self.table.codec.decode)(&tree::row(item)?.1).map_err(|e| self.table.damaged(&e))?;
                // What is in memory is newer.
                if self.table.get(&key).is_none() {
                    take(key, value);
                }
                continue;
            }
            let table = &mut self.table;
            let slab = match table.older.front_mut() {
                Some(older) => &mut older.rows,
                None => &mut table.young,
            };
            if self.next >= slab.places() {
                self.next = 0;
                if table.older.pop_front().is_none() {
                    return Ok(false);
                }
                continue;
            }
            if let Some(row) = slab.take(self.next as u32) {
                take(row.entry.0, row.entry.1);
                rows -= 1;
            }
            self.next += 1;
        }
        Ok(true)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
