use super::*;
use crate::snapshot::{Restore, TaskSnapshot};
use crate::state::StateRoot;
use afflux_actor::Clock;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::task::Waker;
use std::time::SystemTime;

fn store(cache_bytes: u64) -> (tempfile::TempDir, Arc<Store>) {
    let directory = tempfile::tempdir().unwrap();
    let root = StateRoot::below(directory.path()).cache_bytes(cache_bytes).reserve_bytes(0);
    let store = Store::new(&root, "job", 1, Clock::starting_at(SystemTime::UNIX_EPOCH)).unwrap();
    (directory, store)
}

type Table = DiskTable<u64, Vec<u64>>;

fn prepare(table: &mut Table, keys: &[u64]) {
    let mut task = Context::from_waker(Waker::noop());
    loop {
        let keys = keys.iter().map(|k| (k.key_hash(), Cow::Borrowed(k)));
        if let Poll::Ready(ready) = table.poll_prepare(&mut task, keys) {
            return ready.unwrap();
        }
        std::thread::yield_now();
    }
}

/// Goes on with the snapshot under way: its rows when they are all there.
fn go_on(
    table: &mut Table,
    snapshot: &mut TaskSnapshot,
    mut budget: usize,
) -> Option<BTreeMap<u64, Vec<u64>>> {
    let name = ("op", "values", 0);
    if let Some(mut blocks) = table.write_cut(&mut budget).unwrap() {
        blocks.hand_over(true, snapshot, name).unwrap();
        snapshot.gather().unwrap();
        let mut rows = BTreeMap::new();
        let restore = Restore::new([std::mem::take(snapshot)]);
        let each =
            |_, (key, value): (u64, Vec<u64>)| assert!(rows.insert(key, value).is_none(), "key {key} twice");
        restore.rows("op", "values", None, each).unwrap();
        return Some(rows);
    }
    table.written().unwrap().hand_over(false, snapshot, name).unwrap();
    None
}

/// Names the first key that differs: all of them would fill pages.
fn same(found: &BTreeMap<u64, Vec<u64>>, expected: &BTreeMap<u64, Vec<u64>>) {
    for key in found.keys().chain(expected.keys()) {
        assert_eq!(found.get(key), expected.get(key), "key {key}");
    }
}

/// What is done to a table, and to the map that it must equal.
#[derive(Clone, Debug)]
enum Step {
    Add(Vec<u64>),
    Remove(Vec<u64>),
    Cut,
    Read(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = || proptest::collection::vec(0_u64..3000, 1..400);
    let step = prop_oneof![
        6 => keys().prop_map(Step::Add),
        2 => keys().prop_map(Step::Remove),
        1 => Just(Step::Cut),
        3 => (1_usize..6).prop_map(Step::Read),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_table_holds_what_a_map_holds_and_a_snapshot_what_it_held_at_the_barrier(steps in steps()) {
        // Room for 256 rows a generation, whatever it costs.
        let (_directory, store) = store(1);
        let mut table = Table::new(&store, "values", Codec::new());
        let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut task = Context::from_waker(Waker::noop());
        let mut was: Option<BTreeMap<u64, Vec<u64>>> = None;
        let mut snapshot = TaskSnapshot::default();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Add(keys) => {
                    prepare(&mut table, &keys);
                    for key in keys {
                        let mut place = table.entry(key.key_hash(), Cow::Owned(key), Vec::new);
                        place.parts().1.push(number as u64);
                        expected.entry(key).or_default().push(number as u64);
                    }
                }
                Step::Remove(keys) => {
                    prepare(&mut table, &keys);
                    for key in keys {
                        let found = table.find(key.key_hash(), &key);
                        prop_assert_eq!(found.is_some(), expected.contains_key(&key));
                        if let Some(place) = found {
                            place.remove();
                            expected.remove(&key);
                        }
                    }
                }
                Step::Cut if was.is_none() => {
                    table.begin(WriteRow::pairs(), 0).unwrap();
                    was = Some(expected.clone());
                }
                Step::Cut => {}
                Step::Read(steps) => {
                    for _ in 0..steps {
                        if was.is_some() && let Some(rows) = go_on(&mut table, &mut snapshot, 4096) {
                            same(&rows, &was.take().unwrap());
                        }
                    }
                }
            }
        }
        while let Some(expected) = &was {
            if let Some(rows) = go_on(&mut table, &mut snapshot, 4096) {
                same(&rows, expected);
                was = None;
            }
        }
        prop_assert!(table.poll_prepare(&mut task, std::iter::empty()).is_ready());
        table.begin(WriteRow::pairs(), 0).unwrap();
        loop {
            if let Some(rows) = go_on(&mut table, &mut snapshot, usize::MAX) {
                same(&rows, &expected);
                break;
            }
        }
        let mut emptied = table.into_emptied();
        let mut rest = BTreeMap::new();
        while emptied.next(7, |key, value| assert!(rest.insert(key, value).is_none())).unwrap() {}
        same(&rest, &expected);
    }
}

#[test]
fn with_no_room_on_the_disk_a_table_waits_and_goes_on_by_itself_when_there_is_some() {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    let directory = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(1 << 30));
    let root = {
        let free = Arc::clone(&free);
        StateRoot::below(directory.path())
            .cache_bytes(1)
            .reserve_bytes(1 << 20)
            .free_with(move |_| Ok(free.load(Relaxed)))
    };
    let counters = Arc::clone(root.counters());
    afflux_actor::test::system(|| async move {
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH);
        let store = Store::new(&root, "job", 1, clock).unwrap();
        let mut table = Table::new(&store, "values", Codec::new());
        let mut next = 0_u64;
        let mut fill = async |table: &mut Table| {
            let keys: Vec<u64> = (next..next + 500).collect();
            std::future::poll_fn(|task| {
                table.poll_prepare(task, keys.iter().map(|k| (k.key_hash(), Cow::Borrowed(k))))
            })
            .await
            .unwrap();
            for key in keys {
                table.entry(key.key_hash(), Cow::Owned(key), || vec![key; 4_000]);
            }
            next += 500;
        };
        fill(&mut table).await;
        fill(&mut table).await;
        assert_eq!(counters.reading().stopped, 0);
        free.store(0, Relaxed);
        // It looks again after some megabytes only, so it may take a few more.
        let mut waited = false;
        for _ in 0..20 {
            let some = tokio::time::timeout(std::time::Duration::from_secs(5), fill(&mut table)).await;
            if some.is_err() {
                waited = true;
                break;
            }
        }
        assert!(waited, "it wrote on with no room");
        let seen = counters.reading();
        assert_eq!(seen.stopped, 1);
        assert!(seen.no_room > 1, "it looks again and again");
        free.store(1 << 30, Relaxed);
        fill(&mut table).await;
        assert_eq!(counters.reading().stopped, 0);
        drop((table, store));
        assert_eq!(counters.reading().stopped, 0);
    });
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_write_that_fails_ends_the_work_with_the_directory_and_the_cure() {
    let (directory, store) = store(1);
    let mut table = Table::new(&store, "values", Codec::new());
    let mut task = Context::from_waker(Waker::noop());
    let mut failed = None;
    for round in 0..40_u64 {
        let keys: Vec<u64> = (round * 500..(round + 1) * 500).collect();
        let prepared = keys.iter().map(|k| (k.key_hash(), Cow::Borrowed(k)));
        match table.poll_prepare(&mut task, prepared) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(status)) => {
                failed = Some(status);
                break;
            }
            Poll::Pending => panic!("without a runtime files are written on this thread"),
        }
        for key in keys {
            table.entry(key.key_hash(), Cow::Owned(key), || vec![key; 1_000]);
        }
        if round == 3 {
            // What a disk does that goes away.
            std::fs::remove_dir_all(directory.path()).unwrap();
        }
    }
    let status = failed.expect("it went on writing");
    assert!(status.message.contains(&*directory.path().to_string_lossy()), "{status}");
    assert!(status.message.contains("cannot be written") && status.message.contains("state.dir"), "{status}");
}

#[test]
fn a_checkpoint_of_state_on_disk_is_what_it_was_at_the_barrier_though_writes_go_on_while_it_is_stored() {
    use crate::job::{Manifest, Storage, TaskId, UPLOAD_PART_BYTES, UPLOAD_PARTS_MAX};
    const KEYS: u64 = 80_000;
    let large = |key: u64| vec![u64::MAX - key; 40];
    let (directory, store) = store(1 << 20);
    let at_barrier: BTreeMap<u64, Vec<u64>> = (0..KEYS).map(|key| (key, large(key))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut table = Table::new(&store, "values", Codec::new());
        for keys in (0..KEYS).collect::<Vec<_>>().chunks(500) {
            std::future::poll_fn(|task| {
                table.poll_prepare(task, keys.iter().map(|k| (k.key_hash(), Cow::Borrowed(k))))
            })
            .await
            .unwrap();
            for key in keys {
                table.entry(key.key_hash(), Cow::Borrowed(key), || large(*key));
            }
        }
        let mut snapshot = TaskSnapshot::new(1);
        table.begin(WriteRow::pairs(), 0).unwrap();
        let mut blocks = loop {
            if let Some(blocks) = table.write_cut(&mut { 1 << 20 }).unwrap() {
                break blocks;
            }
            tokio::task::yield_now().await;
        };
        blocks.hand_over(true, &mut snapshot, ("op", "values", 0)).unwrap();
        assert!(snapshot.parts[0].later.is_some() && serde_json::to_string(&snapshot).is_err());
        let storage = Storage::open("memory:streamed-table", &[]).unwrap();
        let mut storing = Some(Box::pin(storage.put("j", 1, TaskId::default(), &snapshot)));
        let (mut file, mut key) = (None, 0_u64);
        while file.is_none() || key < 20_000 {
            let keys: Vec<u64> = (key..key + 500).map(|key| key % KEYS).collect();
            std::future::poll_fn(|task| {
                if let Some(Poll::Ready(done)) = storing.as_mut().map(|storing| storing.as_mut().poll(task)) {
                    file = Some(done.unwrap());
                    storing = None;
                }
                table.poll_prepare(task, keys.iter().map(|k| (k.key_hash(), Cow::Borrowed(k))))
            })
            .await
            .unwrap();
            for key in keys {
                if key.is_multiple_of(3) {
                    if let Some(place) = table.find(key.key_hash(), &key) {
                        place.remove();
                    }
                } else {
                    table.entry(key.key_hash(), Cow::Owned(key), Vec::new).parts().1.push(1);
                }
            }
            key += 500;
        }
        let file = file.unwrap();
        assert!(
            file.bytes as usize > UPLOAD_PARTS_MAX * UPLOAD_PART_BYTES,
            "{} bytes are no test",
            file.bytes
        );
        // What is stored needs nothing of the table.
        drop(table);
        let manifest = Manifest { job: "j".into(), epoch: 1, files: vec![file], ..Manifest::default() };
        storage.commit(&manifest).await.unwrap();
        let (_, restore) = storage.read("j", 1).await.unwrap();
        let mut rows = BTreeMap::new();
        let each =
            |_, (key, value): (u64, Vec<u64>)| assert!(rows.insert(key, value).is_none(), "key {key} twice");
        restore.rows("op", "values", None, each).unwrap();
        same(&rows, &at_barrier);
    });
    drop(runtime);
    drop(store);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files of state are left");
}
