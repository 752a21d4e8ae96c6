//! What is kept of checkpoints: written once, read against checksums, deleted when nobody needs it.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use afflux_stream::job::{
    AttemptRecord, Deployment, JobSpec, JobState, MANIFEST_NAMES_KEPT, Manifest, Past, Storage, TaskId,
};
use afflux_stream::{Block, BlockWriter, Flow, JobSettings, Restore, TaskSnapshot, vec_source};
use afflux_wire::{Attempt, Code};

const TASK: TaskId = TaskId { chain: 0, subtask: 0 };

/// A storage, and the directory that it is, where it is one.
struct Place {
    storage: Storage,
    dir: Option<tempfile::TempDir>,
}

fn memory() -> Place {
    let memory: Arc<object_store::memory::InMemory> = Arc::default();
    Place { storage: Storage::on(memory, "memory"), dir: None }
}

fn directory() -> Place {
    let dir = tempfile::tempdir().unwrap();
    Place { storage: Storage::open(dir.path().to_str().unwrap(), &[]).unwrap(), dir: Some(dir) }
}

/// A place of its own in the bucket of `tests/servers/s3.sh`, which prints what `AFFLUX_TEST_S3` has to be.
#[cfg(feature = "s3")]
fn bucket() -> Place {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let url = format!("s3://checkpoints/suite/{since_1970}-{}", NEXT.fetch_add(1, Relaxed));
    Place { storage: Storage::open(&url, &s3_options()).unwrap(), dir: None }
}

#[cfg(feature = "s3")]
fn s3_options() -> Vec<(String, String)> {
    let endpoint = std::env::var("AFFLUX_TEST_S3").expect("AFFLUX_TEST_S3: what tests/servers/s3.sh prints");
    let (key, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    [("AWS_ENDPOINT", endpoint.as_str()), (key, "any"), (secret, "any")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The same holds wherever checkpoints are kept.
macro_rules! everywhere {
    ($($rule:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test] async fn $rule() { super::$rule(super::memory()).await; })*
        }
        mod in_a_directory {
            $(#[tokio::test] async fn $rule() { super::$rule(super::directory()).await; })*
        }
        #[cfg(feature = "s3")]
        mod in_a_bucket {
            $(#[tokio::test] #[ignore = "needs s3"] async fn $rule() { super::$rule(super::bucket()).await; })*
        }
    };
}

everywhere! {
    what_was_saved_is_read_and_what_has_not_changed_is_not_written_again,
    a_block_of_a_completed_epoch_is_referred_to_by_its_id_and_an_unknown_one_is_refused,
    a_manifest_is_created_once_and_a_job_is_specified_and_ended_once,
    only_the_newest_checkpoints_are_kept_with_the_older_files_that_they_refer_to,
    names_of_long_ago_go_and_who_takes_one_again_is_refused,
    who_is_late_by_a_few_epochs_is_not_taken_for_one_of_long_ago,
    a_savepoint_refers_to_nothing_and_outlives_the_checkpoint_that_it_was_made_of,
    old_checkpoints_go_by_themselves_while_new_ones_are_taken,
    the_past_is_what_is_kept,
}

/// A state of two blocks: one that is the same in every epoch, one that is not.
fn snapshot(epoch: u64) -> TaskSnapshot {
    let mut snapshot = TaskSnapshot::new(epoch);
    let mut writer = BlockWriter::new();
    for key in 0..2_000_u64 {
        writer.push(&(key, "unchanged")).unwrap();
    }
    snapshot.block("orders", "state", 0, writer.finish(0, None));
    for key in 0..2_000_u64 {
        writer.push(&(key, epoch.to_string())).unwrap();
    }
    snapshot.block("orders", "state", 0, writer.finish(1, None));
    snapshot.put("orders", "watermark", 0, 1, &(epoch as i64)).unwrap();
    snapshot
}

async fn checkpoint(storage: &Storage, job: &str, attempt: u64, snapshot: &TaskSnapshot) -> Manifest {
    let file = storage.put(job, attempt, TASK, snapshot).await.unwrap();
    let epoch = snapshot.epoch;
    let manifest =
        Manifest { version: 2, job: job.into(), attempt, epoch, files: vec![file], ..Manifest::default() };
    storage.commit(&manifest).await.unwrap();
    manifest
}

fn rows(restore: &Restore) -> Vec<(u64, String)> {
    let mut rows = Vec::new();
    restore.rows("orders", "state", None, |_, row| rows.push(row)).unwrap();
    rows
}

async fn what_was_saved_is_read_and_what_has_not_changed_is_not_written_again(
    Place { storage, dir: _dir }: Place,
) {
    let first = checkpoint(&storage, "j", 1, &snapshot(1)).await;
    let second = checkpoint(&storage, "j", 1, &snapshot(2)).await;
    assert!(first.files[0].refers.is_empty());
    assert_eq!(second.files[0].refers, ["epoch-00000001/0-0-a1.state"]);
    let (small, large) = (second.files[0].bytes, first.files[0].bytes);
    assert!(small < large * 2 / 3, "{small} of {large} bytes");
    let state = &second.files[0].states[0];
    assert_eq!((state.operator.as_str(), state.rows), ("orders", 4_000));
    for epoch in [1, 2] {
        let (manifest, restore) = storage.read("j", epoch).await.unwrap();
        assert_eq!(manifest.epoch, epoch);
        let rows = rows(&restore);
        assert_eq!(rows.len(), 4_000);
        assert_eq!(rows[5], (5, "unchanged".into()));
        assert_eq!(rows[3_999], (1_999, epoch.to_string()));
        assert_eq!(restore.get::<i64>("orders", "watermark").unwrap(), [(0, epoch as i64)]);
    }
    assert_eq!(storage.epochs("j").await.unwrap(), [1, 2]);
    // Another attempt knows nothing of what this one wrote.
    let third = checkpoint(&storage, "j", 2, &snapshot(3)).await;
    assert!(third.files[0].refers.is_empty());
}

async fn a_block_of_a_completed_epoch_is_referred_to_by_its_id_and_an_unknown_one_is_refused(
    Place { storage, dir: _dir }: Place,
) {
    checkpoint(&storage, "j", 1, &snapshot(1)).await;
    checkpoint(&storage, "j", 1, &snapshot(2)).await;
    let mut next = TaskSnapshot::new(3);
    next.block("orders", "state", 0, Block::earlier(2, 0, 2_000, 0, None));
    next.block("orders", "state", 0, Block::earlier(1, 1, 2_000, 0, None));
    let manifest = checkpoint(&storage, "j", 1, &next).await;
    assert_eq!(manifest.files[0].refers, ["epoch-00000001/0-0-a1.state"]);
    let (_, restore) = storage.read("j", 3).await.unwrap();
    assert_eq!(rows(&restore)[3_999], (1_999, "1".into()));
    let mut next = TaskSnapshot::new(4);
    next.block("orders", "state", 0, Block::earlier(3, 7, 1, 0, None));
    let error = storage.put("j", 1, TASK, &next).await.unwrap_err();
    assert!(error.message.contains("block 7 of state orders/state"), "{error}");
}

async fn a_manifest_is_created_once_and_a_job_is_specified_and_ended_once(
    Place { storage, dir: _dir }: Place,
) {
    let manifest = checkpoint(&storage, "j", 1, &snapshot(1)).await;
    assert_eq!(storage.commit(&manifest).await.unwrap_err().code, Code::AlreadyExists);
    let spec = JobSpec {
        job: "j".into(),
        pipeline: "p".into(),
        settings: JobSettings { parallelism: 3, ..JobSettings::default() },
        widths: vec![1, 3],
        key_groups: 1_024,
        created_ms: 17,
        ..JobSpec::default()
    };
    storage.create_job(&spec).await.unwrap();
    assert_eq!(storage.create_job(&spec).await.unwrap_err().code, Code::AlreadyExists);
    assert_eq!(storage.job_spec("j").await.unwrap(), spec);
    assert_eq!(storage.job_spec("other").await.unwrap_err().code, Code::NotFound);
    assert_eq!(storage.job_end("j").await.unwrap(), None);
    assert!(storage.end_job("j", &JobState::Finished).await.unwrap());
    assert!(!storage.end_job("j", &JobState::Cancelled).await.unwrap());
    assert_eq!(storage.job_end("j").await.unwrap().unwrap().state, JobState::Finished);
    let jobs = storage.jobs().await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert!(jobs[0].job == "j" && jobs[0].specified && jobs[0].ended);
}

async fn only_the_newest_checkpoints_are_kept_with_the_older_files_that_they_refer_to(
    Place { storage, dir }: Place,
) {
    let storage = storage.retaining(2);
    for epoch in 1..=5 {
        checkpoint(&storage, "j", 1, &snapshot(epoch)).await;
    }
    // Of an epoch that never completed: nobody needs it.
    storage.put("j", 1, TASK, &snapshot(6)).await.unwrap();
    checkpoint(&storage, "j", 1, &snapshot(7)).await;
    let deleted = storage.retire("j").await.unwrap();
    assert_eq!(storage.epochs("j").await.unwrap(), [5, 7]);
    assert_eq!(deleted, 4, "files of 2, 3, 4 and 6");
    for epoch in [5, 7] {
        let (_, restore) = storage.read("j", epoch).await.unwrap();
        assert_eq!(rows(&restore)[0], (0, "unchanged".into()), "the block that epoch 1 wrote");
    }
    let error = storage.read("j", 2).await.unwrap_err();
    assert!(error.code == Code::NotFound && error.message.contains("checkpoint.retain"), "{error}");
    let again = Manifest { job: "j".into(), epoch: 2, ..Manifest::default() };
    assert_eq!(storage.commit(&again).await.unwrap_err().code, Code::AlreadyExists, "its name stays");
    assert_eq!(storage.retire("j").await.unwrap(), 0);
    if let Some(dir) = dir {
        assert!(!dir.path().join("j/epoch-00000002").exists());
        assert!(dir.path().join("j/epoch-00000001").exists());
    }
}

/// A manifest of nothing.
fn bare(attempt: u64, epoch: u64) -> Manifest {
    Manifest { version: 2, job: "j".into(), attempt, epoch, ..Manifest::default() }
}

async fn names_of_long_ago_go_and_who_takes_one_again_is_refused(Place { storage, dir }: Place) {
    const EPOCHS: u64 = MANIFEST_NAMES_KEPT as u64 + 40;
    let storage = storage.retaining(2);
    for epoch in 1..=EPOCHS {
        storage.commit(&bare(1, epoch)).await.unwrap();
        if epoch % 50 == 0 {
            storage.retire("j").await.unwrap();
        }
    }
    storage.retire("j").await.unwrap();
    storage.retire("j").await.unwrap();
    let names = || {
        let listed = std::fs::read_dir(dir.as_ref()?.path().join("j/manifests")).unwrap();
        Some(listed.count())
    };
    assert_eq!(names().unwrap_or(MANIFEST_NAMES_KEPT), MANIFEST_NAMES_KEPT, "names are bounded");
    assert_eq!(storage.epochs("j").await.unwrap(), [EPOCHS - 1, EPOCHS]);
    // A coordinator that was paused all the while: of an epoch whose name is gone, of one whose name is there.
    for epoch in [1, 40, 41, EPOCHS - 2, EPOCHS] {
        let error = storage.commit(&bare(1, epoch)).await.unwrap_err();
        assert_eq!(error.code, Code::AlreadyExists, "{epoch}: {error}");
        assert_eq!(storage.epochs("j").await.unwrap(), [EPOCHS - 1, EPOCHS], "{epoch} is no checkpoint");
    }
    let error = storage.commit(&bare(1, 7)).await.unwrap_err();
    assert!(error.message.contains("128 later epochs have manifests"), "{error}");
    assert_eq!(storage.rewind_point("j", None).await.unwrap().epoch_max, EPOCHS);
    assert_eq!(names().unwrap_or(MANIFEST_NAMES_KEPT), MANIFEST_NAMES_KEPT, "what was refused is gone");
    storage.commit(&bare(1, EPOCHS + 1)).await.unwrap();
}

async fn who_is_late_by_a_few_epochs_is_not_taken_for_one_of_long_ago(Place { storage, dir: _dir }: Place) {
    // Whoever was cut off has gone on with numbers of its own.
    for epoch in [3, 5, 6] {
        storage.commit(&bare(1, epoch)).await.unwrap();
    }
    storage.commit(&bare(2, 4)).await.unwrap();
    assert_eq!(storage.epochs("j").await.unwrap(), [3, 4, 5, 6]);
    // Two that are the first of their storage: no number is too small.
    storage.commit(&bare(1, 1)).await.unwrap();
}

#[tokio::test]
async fn whatever_happens_to_any_byte_of_a_checkpoint_is_found_and_the_one_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::directory(dir.path()).unwrap();
    checkpoint(&storage, "j", 1, &snapshot(1)).await;
    let manifest = checkpoint(&storage, "j", 2, &snapshot(2)).await;
    assert_eq!(storage.latest_readable("j").await.unwrap(), (Some(2), Vec::new()));
    let name = &manifest.files[0].name;
    let path: PathBuf = dir.path().join("j").join(name);
    let whole = std::fs::read(&path).unwrap();
    let found = async |what: &str| {
        let error = storage.read("j", 2).await.unwrap_err();
        assert!(error.code == Code::DataLoss && error.message.contains(name), "{what}: {error}");
        let (epoch, damages) = storage.latest_readable("j").await.unwrap();
        assert_eq!((epoch, damages.len()), (Some(1), 1), "{what}");
        assert!(damages[0].epoch == 2 && damages[0].what.contains(name), "{what}: {damages:?}");
    };
    for at in (0..whole.len()).step_by(whole.len() / 13).chain([whole.len() - 1]) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        found(&format!("bit flipped at {at}")).await;
    }
    for length in [0, 1, 30, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        found(&format!("cut off at {length}")).await;
    }
    std::fs::remove_file(&path).unwrap();
    found("deleted").await;
}

#[tokio::test]
async fn damage_in_an_earlier_file_that_a_checkpoint_refers_to_is_found_by_that_name() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::directory(dir.path()).unwrap();
    checkpoint(&storage, "j", 1, &snapshot(1)).await;
    checkpoint(&storage, "j", 1, &snapshot(2)).await;
    let path = dir.path().join("j/epoch-00000001/0-0-a1.state");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    for (what, bytes) in [("flipped", flipped), ("cut off", whole[..50].to_vec())] {
        std::fs::write(&path, bytes).unwrap();
        let error = storage.read("j", 2).await.unwrap_err();
        assert!(error.code == Code::DataLoss, "{what}: {error}");
        assert!(error.message.contains("epoch-00000001/0-0-a1.state"), "{what}: {error}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = storage.read("j", 2).await.unwrap_err();
    assert!(error.code == Code::DataLoss && error.message.contains("epoch-00000001"), "{error}");
    let (epoch, damages) = storage.latest_readable("j").await.unwrap();
    assert_eq!((epoch, damages.len()), (None, 2));
}

#[tokio::test]
async fn a_place_that_is_none_is_refused_with_what_was_expected() {
    for (url, expected) in [
        ("ftp://there", "`ftp` is no storage"),
        ("file://there", "three slashes"),
        ("", "empty"),
        ("/proc/no/such", "cannot be made"),
    ] {
        let error = Storage::open(url, &[]).unwrap_err();
        assert!(error.message.contains(expected), "{url}: {error}");
    }
    let one = Storage::open("memory:shared", &[]).unwrap();
    checkpoint(&one, "j", 1, &snapshot(1)).await;
    let same = Storage::open("memory:shared", &[]).unwrap();
    assert_eq!(same.epochs("j").await.unwrap(), [1]);
    same.probe().await.unwrap();
    same.probe().await.unwrap();
}

async fn a_savepoint_refers_to_nothing_and_outlives_the_checkpoint_that_it_was_made_of(
    Place { storage, dir: _dir }: Place,
) {
    let storage = storage.retaining(2);
    checkpoint(&storage, "j", 1, &snapshot(1)).await;
    checkpoint(&storage, "j", 1, &snapshot(2)).await;
    let savepoint = storage.savepoint("j", 2).await.unwrap();
    assert!(savepoint.files[0].refers.is_empty());
    for epoch in 3..=5 {
        checkpoint(&storage, "j", 1, &snapshot(epoch)).await;
    }
    // What the kept ones still refer to is deleted as well: the savepoint needs nothing of it.
    checkpoint(&storage, "j", 2, &snapshot(6)).await;
    checkpoint(&storage, "j", 2, &snapshot(7)).await;
    storage.retire("j").await.unwrap();
    assert_eq!(storage.savepoints("j").await.unwrap(), [2]);
    assert_eq!(storage.epochs("j").await.unwrap(), [2, 6, 7]);
    let (manifest, restore) = storage.read("j", 2).await.unwrap();
    assert_eq!((manifest.epoch, rows(&restore)[3_999].1.as_str()), (2, "2"));
    assert_eq!(storage.verify("j", 2).await.unwrap(), []);
    assert_eq!(storage.savepoint("j", 4).await.unwrap_err().code, Code::NotFound);
}

async fn old_checkpoints_go_by_themselves_while_new_ones_are_taken(Place { storage, dir: _dir }: Place) {
    let storage = storage.retaining(2).retiring();
    // A deletion that is under way lets the next one be, so that how many are left at a moment
    // depends on the disk: what is said is that the old ones go while new ones come.
    let mut few = None;
    for epoch in 1..=500 {
        checkpoint(&storage, "j", 1, &snapshot(epoch)).await;
        tokio::task::yield_now().await;
        let left = storage.epochs("j").await.unwrap();
        assert!(left.len() < 2 || left.ends_with(&[epoch - 1, epoch]), "{left:?}");
        if epoch >= 20 && left.len() <= 4 {
            few = Some(epoch);
            break;
        }
    }
    let last = few.expect("old checkpoints stay");
    storage.read("j", last - 1).await.unwrap();
}

/// A pipeline that keeps the last amount of each key under this name.
macro_rules! plan {
    ($row:ty, $name:literal) => {{
        let flow = Flow::new("p", JobSettings::default());
        flow.source("in", vec_source(Vec::<$row>::new()))
            .untimed()
            .key_by(|row: &$row| row.id)
            .reduce($name, |_, new| new)
            .count("out");
        flow.finish().unwrap()
    }};
}

mod now {
    use serde::{Deserialize, Serialize};
    #[derive(Clone, Serialize, Deserialize)]
    pub(super) struct Order {
        pub(super) id: u64,
        #[serde(default)]
        pub(super) note: Option<String>,
    }
}
mod later {
    use serde::{Deserialize, Serialize};
    #[derive(Clone, Serialize, Deserialize)]
    pub(super) struct Order {
        pub(super) id: u64,
        pub(super) note: u32,
    }
}

#[tokio::test]
async fn before_a_start_what_is_kept_new_and_orphaned_is_told_and_what_would_be_lost_is_refused() {
    let storage = Storage::on(Arc::new(object_store::memory::InMemory::new()), "memory");
    let mut saved = TaskSnapshot::new(1);
    let order = |id, note: Option<&str>| now::Order { id, note: note.map(str::to_owned) };
    saved.put_rows("last", "values", 0, [(1_u64, order(1, None)), (2, order(2, Some("x")))]).unwrap();
    let file = storage.put("j", 1, TASK, &saved).await.unwrap();
    let mut manifest =
        Manifest { version: 2, job: "j".into(), epoch: 1, files: vec![file], ..Manifest::default() };
    manifest.key_groups = afflux_stream::KEY_GROUPS;
    storage.commit(&manifest).await.unwrap();

    let change = storage.compare("j", 1, &plan!(now::Order, "last"), false).await.unwrap();
    assert_eq!(change.kept, [("last/values".to_owned(), 2)]);
    assert_eq!((change.new, change.orphaned), (vec!["in".to_owned()], vec![]));

    let renamed = plan!(now::Order, "latest");
    let error = storage.compare("j", 1, &renamed, false).await.unwrap_err();
    assert!(
        error.message.contains("last/values") && error.message.contains("--allow-orphaned-state"),
        "{error}"
    );
    let change = storage.compare("j", 1, &renamed, true).await.unwrap();
    assert_eq!(change.orphaned, [("last/values".to_owned(), 2)]);
    assert_eq!(change.new, ["in", "latest"]);
    assert!(change.to_string().contains("orphaned last/values (2 rows)"), "{change}");

    let error = storage.compare("j", 1, &plan!(later::Order, "last"), false).await.unwrap_err();
    for part in ["`values`", "operator `last`", "Order.note (saved as str?)", "expected u32"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    let (_, looks) = storage.look("j", 1).await.unwrap();
    assert_eq!((looks[0].row.as_str(), looks[0].rows), ("[int, Order]", 2));
    assert!(looks[0].shapes.contains("Order { id: int, note: str? }"), "{looks:?}");

    manifest.epoch = 2;
    manifest.key_groups = 64;
    storage.commit(&manifest).await.unwrap();
    let error = storage.compare("j", 2, &plan!(now::Order, "last"), false).await.unwrap_err();
    assert!(error.message.contains("64 key groups"), "{error}");
}

#[cfg(feature = "s3")]
#[tokio::test]
#[ignore = "needs s3"]
async fn a_bucket_that_is_not_there_is_named_and_one_that_is_has_been_seen_to_create_once() {
    let storage = Storage::open("s3://no-such-bucket/jobs", &s3_options()).unwrap();
    let error = storage.create_job(&JobSpec { job: "j".into(), ..JobSpec::default() }).await.unwrap_err();
    assert!(error.message.contains("s3://no-such-bucket/jobs"), "{error}");
    let Place { storage, .. } = bucket();
    storage.probe().await.unwrap();
    storage.probe().await.unwrap();
}

async fn the_past_is_what_is_kept(Place { storage, dir: _dir }: Place) {
    assert_eq!(storage.past("j", 9).await.unwrap(), Past::default());
    let storage = storage.retaining(2);
    let begun = |attempt| {
        let deployment = Deployment { job: "j".into(), attempt: Attempt(attempt), ..Deployment::default() };
        AttemptRecord::new(deployment, 1)
    };
    storage.begin_attempt(&begun(1)).await.unwrap();
    checkpoint(&storage, "j", 1, &snapshot(1)).await;
    storage.savepoint("j", 1).await.unwrap();
    storage.begin_attempt(&begun(2)).await.unwrap();
    let mut last = Manifest::default();
    for epoch in 2..=4 {
        last = checkpoint(&storage, "j", 2, &snapshot(epoch)).await;
    }
    storage.retire("j").await.unwrap();
    let past = storage.past("j", 9).await.unwrap();
    let seen: Vec<_> = past.checkpoints.iter().map(|c| (c.epoch, c.attempt, c.savepoint)).collect();
    assert_eq!(seen, [(1, 1, true), (3, 2, false), (4, 2, false)]);
    let newest = &past.checkpoints[2];
    assert_eq!((newest.bytes, newest.tasks), (last.files[0].bytes, 1));
    let (first, second) = (past.attempts[0], past.attempts[1]);
    assert!(
        (first.0, second.0) == (1, 2) && first.1 <= second.1 && second.1 <= newest.completed_ms,
        "{past:?}"
    );
    assert_eq!(storage.past("j", 1).await.unwrap().checkpoints, past.checkpoints[2..]);
}
