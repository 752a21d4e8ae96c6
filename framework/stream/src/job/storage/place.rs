//! From a setting to a store.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use parking_lot::Mutex;

use afflux_wire::{Code, Status};

use super::Storage;
use crate::Result;

/// Stores of `memory:NAME`, which all nodes of one process share.
static MEMORIES: LazyLock<Mutex<BTreeMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

/// Stores in memory that a process may have.
const MEMORIES_MAX: usize = 4_096;

impl Storage {
    /// The storage that a text names: `file:///DIRECTORY` or a bare path, `memory:NAME` (shared by the
    /// nodes of one process, and gone with it), or `s3://BUCKET/PREFIX` with the feature `s3`.
    /// `options` are those of the store, such as `aws_endpoint`; other stores ignore them.
    ///
    /// ```
    /// use afflux_stream::job::Storage;
    /// let storage = Storage::open("memory:example", &[])?;
    /// assert_eq!(storage.place(), "memory:example");
    /// # Ok::<(), afflux_wire::Status>(())
    /// ```
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what names no storage; `UNAVAILABLE` when it cannot be reached.
    pub fn open(url: &str, options: &[(String, String)]) -> Result<Self> {
        if let Some(name) = url.strip_prefix("memory:") {
            let mut memories = MEMORIES.lock();
            if memories.len() >= MEMORIES_MAX && !memories.contains_key(name) {
                let text = format!("{MEMORIES_MAX} stores in memory at most: `{url}` is one more");
                return Err(Status::new(Code::ResourceExhausted, text));
            }
            let store = memories.entry(name.to_owned()).or_default();
            return Ok(Self::on(Arc::clone(store) as Arc<dyn ObjectStore>, url));
        }
        if let Some(path) = url.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(Status::invalid(format!(
                    "checkpoint.url is `{url}`: a directory is `file:///PATH`, with three slashes"
                )));
            }
            return Self::directory(std::path::Path::new(path));
        }
        if url.starts_with("s3://") {
            return Self::bucket(url, options);
        }
        if let Some((scheme, _)) = url.split_once("://") {
            return Err(Status::invalid(format!(
                "checkpoint.url is `{url}`: `{scheme}` is no storage; expected `file:///DIRECTORY`, a path, \
                 `s3://BUCKET/PREFIX` or `memory:NAME`"
            )));
        }
        if url.is_empty() {
            return Err(Status::invalid("checkpoint.url is empty: expected a directory or a bucket"));
        }
        Self::directory(std::path::Path::new(url))
    }

    /// Below a directory of this machine, which is made when it is absent.
    ///
    /// # Errors
    /// When the directory cannot be made: names it.
    pub fn directory(path: &std::path::Path) -> Result<Self> {
        let place = path.display().to_string();
        std::fs::create_dir_all(path).map_err(|e| {
            Status::unavailable(format!(
                "checkpoint directory {place} cannot be made: {e}; set `checkpoint.dir`"
            ))
        })?;
        let store = LocalFileSystem::new_with_prefix(path)
            .map_err(|e| Status::unavailable(format!("checkpoint directory {place}: {e}")))?
            .with_automatic_cleanup(true);
        Ok(Self { directory: Some(Arc::from(path)), ..Self::on(Arc::new(store), &place) })
    }

    #[cfg(not(feature = "s3"))]
    fn bucket(url: &str, _: &[(String, String)]) -> Result<Self> {
        Err(Status::precondition(format!(
            "checkpoint.url is `{url}`, and this program is built without S3: add the feature `s3` of afflux"
        )))
    }

    #[cfg(feature = "s3")]
    fn bucket(url: &str, options: &[(String, String)]) -> Result<Self> {
        use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
        use object_store::prefix::PrefixStore;
        use object_store::{BackoffConfig, ClientOptions, RetryConfig};
        use std::time::Duration;

        let rest = url.strip_prefix("s3://").unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(Status::invalid(format!("checkpoint.url is `{url}`: it names no bucket")));
        }
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: 4,
            retry_timeout: Duration::from_secs(20),
        };
        let client = ClientOptions::new()
            .with_timeout(Duration::from_secs(60))
            .with_connect_timeout(Duration::from_secs(5))
            .with_allow_http(true);
        let mut builder =
            AmazonS3Builder::new().with_bucket_name(bucket).with_retry(retry).with_client_options(client);
        for (key, value) in options {
            match key.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                Ok(key) => builder = builder.with_config(key, value),
                Err(_) => tracing::debug!(key, "no option of S3"),
            }
        }
        let store =
            builder.build().map_err(|e| Status::invalid(format!("checkpoint.url is `{url}`: {e}")))?;
        let prefix = prefix.trim_end_matches('/');
        let store: Arc<dyn ObjectStore> = if prefix.is_empty() {
            Arc::new(store)
        } else {
            Arc::new(PrefixStore::new(store, Path::from(prefix)))
        };
        let probed = Arc::new(false.into());
        Ok(Self { probed, ..Self::on(store, url.trim_end_matches('/')) })
    }

    /// Sees whether the place can be written, and whether an object that is there cannot be created a
    /// second time: on that rests that no checkpoint has two authors.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when objects can be created twice; else why the place cannot be written.
    pub async fn probe(&self) -> Result<()> {
        let path = Path::from(".afflux/created-once");
        for _ in 0..2 {
            match self.create(&path, &"an object that is there cannot be created again").await {
                Ok(()) => {}
                Err(status) if status.code == Code::AlreadyExists => return Ok(()),
                Err(status) => return Err(status),
            }
        }
        Err(Status::precondition(format!(
            "checkpoint storage {} lets an object be created twice, so two coordinators could write one \
             checkpoint: it has to honour `If-None-Match: *` on PUT, as S3, MinIO and Ceph do",
            self.place
        )))
    }

    pub(super) async fn probe_once(&self) -> Result<()> {
        if !self.probed.load(Relaxed) {
            self.probe().await?;
            self.probed.store(true, Relaxed);
        }
        Ok(())
    }

    /// Does what may wait for a disk where no other work waits for it.
    pub(super) async fn beside<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| Status::internal(format!("reading state for {}: {e}", self.place)))
    }

    /// Flushes an object that was written to the disk, where that is ours to do.
    pub(super) async fn sync(&self, path: &Path) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let file = directory.join(path.as_ref());
        let flushed = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&file)?.sync_all()?;
            // Its name, too, and that of its directory.
            for above in file.ancestors().skip(1).take(2) {
                std::fs::File::open(above)?.sync_all()?;
            }
            std::io::Result::Ok(())
        })
        .await;
        let error = match flushed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let place = &self.place;
        Err(Status::unavailable(format!(
            "checkpoint file {place}/{path} cannot be flushed to the disk: {error}"
        )))
    }
}
