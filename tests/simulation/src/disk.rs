//! The object store of checkpoints: in memory, and as bad as a seed wants it to be.
//!
//! An operation takes its time before and after its effect, so that a machine can die in between: what
//! it wrote is then there or not, and nobody was told. While it is disturbed it fails now and then,
//! before or after the effect; while it is full it writes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::seed::Dice;
use crate::trace::note;

/// A write behind which the job protocol has come further, and behind which a machine may die at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// A task's part of a checkpoint is there, and nobody has been told.
    Saved,
    /// A manifest is there: its epoch is decided, and nobody has been told, so that nothing is committed.
    Decided,
    /// The record of an attempt is there, and nothing of the attempt.
    Begun,
}

impl Moment {
    /// What a write to this path means.
    fn of(path: &Path) -> Option<Self> {
        let kind = path.parts().nth(1)?;
        match kind.as_ref() {
            "manifests" => Some(Self::Decided),
            "attempts" => Some(Self::Begun),
            epoch if epoch.starts_with("epoch-") => Some(Self::Saved),
            _ => None,
        }
    }
}

/// How the store behaves at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mood {
    /// Longest time of one operation, in milliseconds.
    pub slow_ms: u64,
    /// Operations of a thousand that fail.
    pub failing_permille: u64,
    /// Whether nothing can be written.
    pub full: bool,
}

impl Default for Mood {
    fn default() -> Self {
        Self { slow_ms: 8, failing_permille: 0, full: false }
    }
}

struct State {
    dice: Dice,
    mood: Mood,
    moments: BTreeMap<Moment, u64>,
}

/// A store that several machines share. Clones are the same.
#[derive(Clone)]
pub struct Disk {
    objects: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a played disk")
    }
}

fn broken(what: &str, path: &Path) -> Error {
    Error::Generic { store: "played", source: format!("{what} {path} failed, as the seed says").into() }
}

impl Disk {
    /// An empty one.
    pub fn new(dice: Dice) -> Self {
        let state = State { dice, mood: Mood::default(), moments: BTreeMap::new() };
        Self { objects: Arc::default(), state: Arc::new(Mutex::new(state)) }
    }

    /// From now on it behaves like this.
    pub fn set(&self, mood: Mood) {
        self.state.lock().mood = mood;
    }

    /// How often this has been written so far.
    pub fn times(&self, moment: Moment) -> u64 {
        self.state.lock().moments.get(&moment).copied().unwrap_or(0)
    }

    async fn wait(&self) {
        let ms = {
            let state = &mut *self.state.lock();
            state.dice.below(state.mood.slow_ms / 2 + 1)
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn fails(&self) -> bool {
        let state = &mut *self.state.lock();
        state.mood.failing_permille > 0 && state.dice.permille(state.mood.failing_permille)
    }

    /// Before an operation's effect.
    async fn before(&self, what: &str, path: &Path) -> Result<()> {
        self.wait().await;
        if self.fails() {
            note(format_args!("disk: {what} {path} fails"));
            return Err(broken(what, path));
        }
        Ok(())
    }

    /// Behind it: done, and perhaps nobody hears of it.
    async fn after(&self, what: &str, path: &Path) -> Result<()> {
        self.wait().await;
        if self.fails() {
            note(format_args!("disk: {what} {path} is done, its answer is lost"));
            return Err(broken(what, path));
        }
        Ok(())
    }

    fn room(&self, path: &Path) -> Result<()> {
        if self.state.lock().mood.full {
            note(format_args!("disk: no room for {path}"));
            let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left on device");
            return Err(Error::Generic { store: "played", source: Box::new(full) });
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for Disk {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.before("put", path).await?;
        self.room(path)?;
        let bytes = payload.content_length();
        note(format_args!("disk: put {path}, {bytes} bytes"));
        let done = self.objects.put_opts(path, payload, options).await?;
        // A manifest that is emptied decides nothing.
        if let Some(moment) = Moment::of(path).filter(|_| bytes > 0) {
            *self.state.lock().moments.entry(moment).or_default() += 1;
        }
        self.after("put", path).await?;
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before("put", path).await?;
        self.room(path)?;
        self.objects.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.before("get", path).await?;
        self.objects.get_opts(path, options).await
    }

    async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<bytes::Bytes> {
        self.before("get", path).await?;
        self.objects.get_range(path, range).await
    }

    async fn delete(&self, path: &Path) -> Result<()> {
        self.before("delete", path).await?;
        note(format_args!("disk: delete {path}"));
        self.objects.delete(path).await?;
        self.after("delete", path).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before("list", &prefix.cloned().unwrap_or_default()).await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        self.before("copy", from).await?;
        self.room(to)?;
        self.objects.copy(from, to).await
    }

    async fn copy_if_not_exists(&self, from: &Path, to: &Path) -> Result<()> {
        self.before("copy", from).await?;
        self.room(to)?;
        self.objects.copy_if_not_exists(from, to).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_moments_of_the_protocol_are_told_apart_by_what_is_written() {
        let disk = Disk::new(Dice::new(1));
        let write = async |path: &str, bytes: &'static [u8]| {
            disk.put(&Path::from(path), PutPayload::from_static(bytes)).await.unwrap();
        };
        write("p-1/manifests/00000001.json", b"{}").await;
        write("p-1/manifests/00000001.json", b"").await;
        write("p-1/epoch-00000001/0-0-a1.state", b"x").await;
        write("p-1/epoch-00000001/0-1-a1.state", b"x").await;
        write("p-1/attempts/00000001.json", b"{}").await;
        write("p-1/JOB.json", b"{}").await;
        let times = [Moment::Saved, Moment::Decided, Moment::Begun].map(|moment| disk.times(moment));
        assert_eq!(times, [2, 1, 1]);
    }

    async fn put(disk: &Disk) -> Result<PutResult> {
        disk.put(&Path::from("a"), PutPayload::from_static(b"x")).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_takes_nothing_and_a_failing_one_may_have_taken_it() {
        let disk = Disk::new(Dice::new(1));
        disk.set(Mood { full: true, ..Mood::default() });
        assert!(put(&disk).await.unwrap_err().to_string().contains("no space left"));
        assert!(disk.objects.get(&Path::from("a")).await.is_err());
        disk.set(Mood { failing_permille: 500, ..Mood::default() });
        let mut done_and_not_told = 0;
        for _ in 0..100 {
            let told = put(&disk).await.is_ok();
            let there = disk.objects.delete(&Path::from("a")).await;
            // The store in memory does not mind what is not there.
            done_and_not_told += usize::from(!told && there.is_ok());
        }
        assert!(done_and_not_told > 0);
    }
}
