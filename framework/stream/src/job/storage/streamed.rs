//! A state file whose rows are read while it is written: state on disk, which may be larger than memory.

use std::mem::take;

use object_store::path::Path;
use object_store::{ObjectStore as _, WriteMultipart};

use afflux_wire::Status;

use super::file::{Layout, Places, Sums, Written};
use super::{Storage, failed};
use crate::Result;
use crate::snapshot::{Block, BlockWriter, Part, Reader, TaskSnapshot};

/// Bytes of one part of an upload; S3 wants 5 MiB at least, and 10,000 parts at most.
pub const UPLOAD_PART_BYTES: usize = 8 << 20;
/// Parts of one upload in memory: one is being read from the state's disk, the others are being written.
pub const UPLOAD_PARTS_MAX: usize = 3;
/// Checksums of so many bytes are made on a thread of their own: the one that stores also talks to others.
const BESIDE_BYTES_MIN: u64 = 1 << 20;

impl Storage {
    /// Writes a file whose parts have rows that are still on disk. It is there when all of it is written, and
    /// not before; nothing is tried again, as the rows are read once.
    pub(super) async fn put_later(
        &self,
        path: &Path,
        snapshot: &TaskSnapshot,
        layout: Layout,
        known: Option<Places>,
    ) -> Result<Written> {
        let upload = self.store.put_multipart(path).await.map_err(|e| failed(&self.place, path, &e))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, UPLOAD_PART_BYTES);
        match self.stream(path, snapshot, layout, known, &mut upload).await {
            Ok(written) => {
                upload.finish().await.map_err(|e| failed(&self.place, path, &e))?;
                self.sync(path).await?;
                Ok(written)
            }
            Err(status) => {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(place = %self.place, %path, %error, "parts of an upload that failed may stay");
                }
                Err(status)
            }
        }
    }

    async fn stream(
        &self,
        path: &Path,
        snapshot: &TaskSnapshot,
        mut layout: Layout,
        known: Option<Places>,
        upload: &mut WriteMultipart,
    ) -> Result<Written> {
        for (at, part) in snapshot.parts.iter().enumerate() {
            let Some(later) = &part.later else { continue };
            let named = |mut status: Status| {
                status.message = format!("{}/{}: {}", part.operator, part.state, status.message);
                status
            };
            let mut reader = later.take().map_err(named)?;
            let mut empty = part.blocks.is_empty();
            loop {
                let blocks;
                (reader, blocks) = self.read_beside(reader).await.map_err(named)?;
                if blocks.is_empty() {
                    break;
                }
                empty = false;
                for block in blocks {
                    layout.later(at, part, &block, known.as_ref());
                }
                self.send(path, &mut layout, upload).await?;
            }
            if empty {
                // A checkpoint names every state.
                let block = BlockWriter::new().finish(0, None);
                let sums = Sums::of(&block);
                layout.later(at, part, &(block, sums), None);
            }
        }
        let mut written = layout.finish(snapshot).map_err(Status::internal)?;
        for chunk in take(&mut written.chunks) {
            upload.put(chunk);
        }
        Ok(written)
    }

    /// Hands over what is laid out, when there is room for it.
    async fn send(&self, path: &Path, layout: &mut Layout, upload: &mut WriteMultipart) -> Result<()> {
        for chunk in layout.chunks() {
            upload.put(chunk);
        }
        let room = upload.wait_for_capacity(UPLOAD_PARTS_MAX - 1).await;
        room.map_err(|e| failed(&self.place, path, &e))
    }

    /// Reads the next blocks where a thread may wait for the disk.
    async fn read_beside(&self, mut reader: Reader) -> Result<(Reader, Vec<(Block, Sums)>)> {
        let read = move || {
            let blocks = reader.read(UPLOAD_PART_BYTES as u64)?;
            let sums: Vec<Sums> = blocks.iter().map(Sums::of).collect();
            Ok((reader, blocks.into_iter().zip(sums).collect()))
        };
        self.beside(read).await?
    }

    /// The sums of all blocks that are at hand, part by part.
    pub(super) async fn sums(&self, snapshot: &TaskSnapshot) -> Result<Vec<Vec<Sums>>> {
        let of_all = |parts: &[Part]| parts.iter().map(Sums::of_all).collect();
        if snapshot.parts.iter().map(Part::len).sum::<u64>() < BESIDE_BYTES_MIN {
            return Ok(of_all(&snapshot.parts));
        }
        let parts = snapshot.parts.clone();
        self.beside(move || of_all(&parts)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures_util::StreamExt;
    use futures_util::stream::BoxStream;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use object_store::{
        Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
    };

    use super::*;
    use crate::block::{BLOCK_BYTES, Blocks};
    use crate::job::{CheckpointFile, Manifest, TaskId};
    use crate::snapshot::{ReadRows, Restore};

    /// More than an upload holds in memory.
    const ROWS: u64 = 60_000;
    const TEXT_BYTES: usize = 1_000;

    /// Bytes that were read, and bytes that were stored; uploads fail behind so many parts.
    #[derive(Debug, Default)]
    struct Seen {
        read: AtomicUsize,
        stored: AtomicUsize,
        parts_left: AtomicUsize,
    }

    /// Rows that say whether more of them are read than may be in memory.
    struct Numbers {
        next: u64,
        seen: Arc<Seen>,
    }

    impl ReadRows for Numbers {
        fn read(&mut self, blocks: &mut Blocks, bytes: usize) -> Result<bool> {
            let mut read = 0;
            while read < bytes && self.next < ROWS {
                read += blocks.push(&(self.next, "x".repeat(TEXT_BYTES)));
                self.next += 1;
            }
            let all = self.seen.read.fetch_add(read, SeqCst) + read;
            let held = all.saturating_sub(self.seen.stored.load(SeqCst));
            let most = UPLOAD_PARTS_MAX * UPLOAD_PART_BYTES + 2 * BLOCK_BYTES;
            assert!(held <= most, "{held} bytes are in memory");
            Ok(self.next < ROWS)
        }
    }

    fn snapshot(epoch: u64, seen: &Arc<Seen>) -> TaskSnapshot {
        let mut snapshot = TaskSnapshot::new(epoch);
        snapshot.put("op", "other", 0, 1, &7_u64).unwrap();
        let mut blocks = Blocks::default();
        blocks.push(&(u64::MAX, "at hand"));
        blocks.read_later(Box::new(Numbers { next: 0, seen: Arc::clone(seen) }));
        blocks.hand_over(true, &mut snapshot, ("op", "rows", 0)).unwrap();
        let mut empty = Blocks::default();
        empty.read_later(Box::new(Numbers { next: ROWS, seen: Arc::clone(seen) }));
        empty.hand_over(true, &mut snapshot, ("op", "empty", 0)).unwrap();
        snapshot
    }

    /// A store whose uploads break off.
    #[derive(Debug)]
    struct Breaking(Arc<dyn ObjectStore>, Arc<Seen>);

    #[derive(Debug)]
    struct BreakingUpload(Box<dyn MultipartUpload>, Arc<Seen>);

    impl std::fmt::Display for Breaking {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a store that breaks off")
        }
    }

    #[async_trait::async_trait]
    impl MultipartUpload for BreakingUpload {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            let left = self.1.parts_left.load(SeqCst);
            if left == 0 {
                return Box::pin(async {
                    Err(Error::Generic { store: "breaking", source: "broken off".into() })
                });
            }
            self.1.parts_left.store(left - 1, SeqCst);
            let (seen, bytes) = (Arc::clone(&self.1), data.content_length());
            let put = self.0.put_part(data);
            Box::pin(async move {
                let done = put.await;
                seen.stored.fetch_add(bytes, SeqCst);
                done
            })
        }
        async fn complete(&mut self) -> object_store::Result<PutResult> {
            self.0.complete().await
        }
        async fn abort(&mut self) -> object_store::Result<()> {
            self.0.abort().await
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Breaking {
        async fn put_opts(
            &self,
            path: &Path,
            payload: PutPayload,
            options: PutOptions,
        ) -> object_store::Result<PutResult> {
            self.0.put_opts(path, payload, options).await
        }
        async fn put_multipart_opts(
            &self,
            path: &Path,
            options: PutMultipartOptions,
        ) -> object_store::Result<Box<dyn MultipartUpload>> {
            let upload = self.0.put_multipart_opts(path, options).await?;
            Ok(Box::new(BreakingUpload(upload, Arc::clone(&self.1))))
        }
        async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
            self.0.get_opts(path, options).await
        }
        async fn delete(&self, path: &Path) -> object_store::Result<()> {
            self.0.delete(path).await
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
            self.0.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }
        async fn copy(&self, from: &Path, to: &Path) -> object_store::Result<()> {
            self.0.copy(from, to).await
        }
        async fn copy_if_not_exists(&self, from: &Path, to: &Path) -> object_store::Result<()> {
            self.0.copy_if_not_exists(from, to).await
        }
    }

    /// Runs a test on a store in memory and on a directory, both of which break off where that is asked.
    fn on_each<F: Future<Output = ()>>(test: impl Fn(Storage, Arc<Seen>, Arc<dyn ObjectStore>) -> F) {
        let directory = tempfile::tempdir().unwrap();
        let files: Arc<dyn ObjectStore> =
            Arc::new(LocalFileSystem::new_with_prefix(directory.path()).unwrap());
        for store in [Arc::new(InMemory::new()) as Arc<dyn ObjectStore>, files] {
            let seen = Arc::<Seen>::default();
            let breaking = Breaking(Arc::clone(&store), Arc::clone(&seen));
            let storage = Storage::on(Arc::new(breaking), "breaking");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(test(storage, seen, store));
        }
    }

    async fn read(storage: &Storage, epoch: u64, file: CheckpointFile) -> Restore {
        let manifest = Manifest { job: "j".into(), epoch, files: vec![file], ..Manifest::default() };
        storage.commit(&manifest).await.unwrap();
        assert!(storage.verify("j", epoch).await.unwrap().is_empty());
        storage.read("j", epoch).await.unwrap().1
    }

    #[test]
    fn rows_on_disk_are_stored_with_no_more_of_them_in_memory_than_an_upload_holds() {
        on_each(|storage, seen, _| async move {
            seen.parts_left.store(usize::MAX, SeqCst);
            let saved = snapshot(1, &seen);
            let file = storage.put("j", 1, TaskId::default(), &saved).await.unwrap();
            let rows: Vec<u64> = file.states.iter().map(|state| state.rows).collect();
            assert_eq!(rows, [1, ROWS + 1, 0]);
            assert!(file.bytes as usize > 2 * UPLOAD_PARTS_MAX * UPLOAD_PART_BYTES, "no test");
            let again = storage.put("j", 1, TaskId::default(), &saved).await.unwrap_err();
            assert!(again.message.contains("op/rows") && again.message.contains("second time"), "{again}");
            // What has not changed is referred to, as for what is in memory: read, and not stored.
            seen.stored.store(usize::MAX / 2, SeqCst);
            let second = storage.put("j", 1, TaskId::default(), &snapshot(2, &seen)).await.unwrap();
            assert!(second.bytes < file.bytes / 50 && second.refers == [file.name.clone()], "{second:?}");
            for (epoch, file) in [(1, file), (2, second)] {
                let restore = read(&storage, epoch, file).await;
                let mut keys = Vec::new();
                restore.rows("op", "rows", None, |_, (key, _): (u64, String)| keys.push(key)).unwrap();
                assert!(keys.into_iter().eq(std::iter::once(u64::MAX).chain(0..ROWS)));
                assert!(restore.parts().iter().any(|part| part.state == "empty" && part.blocks.len() == 1));
            }
        });
    }

    #[test]
    fn an_upload_that_breaks_off_leaves_nothing_and_the_next_is_whole() {
        on_each(|storage, seen, store| async move {
            for parts in [0, 1, 3] {
                seen.parts_left.store(parts, SeqCst);
                seen.read.store(0, SeqCst);
                seen.stored.store(0, SeqCst);
                let broken = storage.put("j", 1, TaskId::default(), &snapshot(1, &seen)).await.unwrap_err();
                assert!(broken.message.contains("broken off"), "{broken}");
                let left: Vec<_> = store.list(None).collect().await;
                assert!(left.is_empty(), "{left:?}");
            }
            seen.parts_left.store(usize::MAX, SeqCst);
            seen.read.store(0, SeqCst);
            seen.stored.store(0, SeqCst);
            let file = storage.put("j", 1, TaskId::default(), &snapshot(2, &seen)).await.unwrap();
            assert!(file.refers.is_empty());
            let restore = read(&storage, 2, file).await;
            let mut rows = 0;
            restore.rows("op", "rows", None, |_, _: (u64, String)| rows += 1).unwrap();
            assert_eq!(rows, ROWS + 1);
        });
    }
}
