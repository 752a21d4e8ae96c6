//! Queues, threads, clocks, hashers, `unsafe`: what must not be without a bound or without a reason.

use afflux_tidy::{Findings, House, Source};

/// Files with `unsafe` code. Each says `#![allow(unsafe_code)]` and proves each block in front of it.
const UNSAFE_FILES: [&str; 1] = ["framework/stream/src/stage/fused.rs"];

/// Files that may name a map with a hasher of std, with the reason.
const HASHERS: [(&str, &str); 1] =
    [("framework/mesh/src/hash.rs", "gives std's map a hasher without a seed")];

/// Files that may use the machine's monotonic clock directly, with the reason.
const MONOTONIC: [(&str, &str); 2] = [
    (
        "framework/wire/src/contract/cx.rs",
        "a context without a caller has no clock to ask; tests only meet it",
    ),
    ("framework/wire/src/contract/testing.rs", "the clock of a test's caller starts somewhere"),
];

/// Files that may start a thread or use a blocking pool, with the reason.
const THREADS: [(&str, &str); 2] = [
    (
        "framework/connectors/src/kafka/thread.rs",
        "calls of librdkafka wait for brokers, and it has no others",
    ),
    (
        "framework/stream/src/state/disk/tree.rs",
        "reads, writes and merges files of state beside its task: one errand and two jobs a tree",
    ),
];

fn framework() -> Vec<Source> {
    let sources: Vec<Source> =
        House::open().product().into_iter().filter(|s| s.path.starts_with("framework/")).collect();
    assert!(sources.len() > 100, "only {} files were seen", sources.len());
    sources
}

#[test]
fn every_queue_has_a_bound_with_a_name() {
    let mut findings = Findings::new(
        "no queue is without a bound, and every bound is a named constant or a setting",
        "use a bounded channel whose capacity is a constant with its unit in the name, such as EVENTS_MAX",
    );
    let house = House::open();
    for source in house.product() {
        for name in [
            "unbounded_channel",
            "UnboundedSender",
            "UnboundedReceiver",
            // Not the word alone: a join without windows is called that, too.
            "mpsc::unbounded",
            "channel::unbounded",
            "std::sync::mpsc",
            "SegQueue",
        ] {
            for line in source.find(name) {
                findings.add(&source.path, line, format!("names `{name}`"));
            }
        }
        for opening in [
            "mpsc::channel",
            "broadcast::channel",
            "sync_channel",
            "io::duplex",
            "io::simplex",
            "ArrayQueue::new",
        ] {
            for at in source.places(opening) {
                let behind = source.code[at + opening.len()..].trim_start();
                let arguments = match behind.strip_prefix("::<") {
                    Some(turbofish) => turbofish.split_once(">(").map(|(_, rest)| rest),
                    None => behind.strip_prefix('('),
                };
                let first = arguments.and_then(|a| a.trim_start().chars().next());
                if first.is_some_and(|c| c == ')' || c.is_ascii_digit()) {
                    findings.add(
                        &source.path,
                        source.line(at),
                        format!("`{opening}` without a named capacity"),
                    );
                }
            }
        }
    }
    findings.finish();
}

#[test]
fn actix_mailboxes_carry_no_data() {
    let mut findings = Findings::new(
        "actix's address ignores its limit in `do_send`, so it carries control only",
        "send through `Address::try_send`",
    );
    for source in House::open().product() {
        for at in source.places("do_send") {
            // The request to stop: one a handle, and it must not wait behind data.
            if !source.code[at..].starts_with("do_send(Stop(") || source.path != "framework/actor/src/host.rs"
            {
                findings.add(&source.path, source.line(at), "`do_send` of something that is not Stop");
            }
        }
    }
    findings.finish();
}

#[test]
fn nothing_depends_on_a_random_seed() {
    let mut findings = Findings::new(
        "no RandomState, and no hash order, decides what the framework does",
        "use BTreeMap, hashbrown with a hash of ours, or IdMap of framework/mesh/src/hash.rs",
    );
    for source in framework() {
        if HASHERS.iter().any(|(path, _)| *path == source.path) {
            continue;
        }
        for name in [
            "RandomState",
            "HashMap",
            "HashSet",
            "DashMap",
            "DashSet",
            "IndexMap",
            "thread_rng",
            "fastrand",
            "rand::rng",
        ] {
            // Flushes a file to the disk, which may take long.
            if name == "spawn_blocking" && source.path == "framework/stream/src/job/storage/place.rs" {
                continue;
            }
            // A join is called unbounded where it keeps both sides for ever: no queue, and said when built.
            if name == "unbounded" && source.path.starts_with("framework/stream/src/join/") {
                continue;
            }
            for line in source.find(name) {
                findings.add(&source.path, line, format!("names `{name}`"));
            }
        }
    }
    findings.finish();
}

#[test]
fn a_select_says_what_comes_first() {
    let mut findings = Findings::new(
        "`select!` without `biased;` picks by chance",
        "write `biased;` as its first line and put control in front of data",
    );
    for source in framework() {
        for at in source.places("select!") {
            let body = source.code[at..].split_once('{').map(|(_, body)| body.trim_start());
            if !body.is_some_and(|body| body.starts_with("biased;")) {
                findings.add(&source.path, source.line(at), "an unbiased `select!`");
            }
        }
    }
    findings.finish();
}

#[test]
fn threads_are_made_by_the_actor_crate_alone() {
    let mut findings = Findings::new(
        "a thread of its own, or a blocking pool, stands behind `Threads`, `Storage` or `Clock` only",
        "spawn on a Place, or hand the work to an actor on a slot",
    );
    for source in framework() {
        if THREADS.iter().any(|(path, _)| *path == source.path) {
            continue;
        }
        for name in
            ["thread::spawn", "thread::Builder", "thread::scope", "spawn_blocking", "block_in_place", "rayon"]
        {
            // Flushes a file to the disk, which may take long.
            if name == "spawn_blocking" && source.path == "framework/stream/src/job/storage/place.rs" {
                continue;
            }
            // A join is called unbounded where it keeps both sides for ever: no queue, and said when built.
            if name == "unbounded" && source.path.starts_with("framework/stream/src/join/") {
                continue;
            }
            for line in source.find(name) {
                findings.add(&source.path, line, format!("names `{name}`"));
            }
        }
    }
    findings.finish();
}

#[test]
fn time_passes_by_the_clock_that_was_handed_in() {
    let mut findings = Findings::new(
        "monotonic time is tokio's, which tests can stop; framework/afflux alone may ask the machine",
        "import tokio::time::Instant, or ask the `Clock` of afflux-actor",
    );
    for source in framework() {
        let exempt = MONOTONIC.iter().any(|(path, _)| *path == source.path);
        if exempt
            || source.path.starts_with("framework/afflux/")
            || source.path.starts_with("framework/macros/")
        {
            continue;
        }
        let std_instant = source.code.lines().any(|line| {
            let line = line.trim_start();
            line.starts_with("use std::time::") && line.contains("Instant")
        });
        for at in source.places("Instant::now") {
            let before = &source.code[..at];
            let full = before.ends_with("std::time::");
            if full || std_instant && !before.ends_with("tokio::time::") {
                findings.add(&source.path, source.line(at), "std's `Instant::now`");
            }
        }
        for line in source.find("thread::sleep") {
            findings.add(&source.path, line, "names `thread::sleep`");
        }
    }
    findings.finish();
}

#[test]
fn unsafe_stands_in_listed_files_with_its_proof() {
    let mut findings = Findings::new(
        "`unsafe` is forbidden, or stands in a file of UNSAFE_FILES with a proof in front of each block",
        "write it without `unsafe`; if it must be, one file, `#![allow(unsafe_code)]`, `// SAFETY: …` in front of the block",
    );
    let house = House::open();
    for path in UNSAFE_FILES {
        assert!(house.exists(path), "{path} is gone: take it from UNSAFE_FILES");
    }
    let tests = ["tests/bench", "tests/sandbox", "tests/suites", "tests/tidy/src"];
    let sources = house.product().into_iter().chain(tests.into_iter().flat_map(|t| house.sources(t)));
    for source in sources {
        let listed = UNSAFE_FILES.contains(&source.path.as_str());
        for line in source.find("unsafe_code") {
            if !listed {
                findings.add(&source.path, line, "allows `unsafe_code` and is not in UNSAFE_FILES");
            }
        }
        for line in source.find("unsafe") {
            let proof = source.whole.lines().take(line).collect::<Vec<_>>();
            if !proof.iter().rev().take(8).any(|l| l.trim_start().starts_with("// SAFETY:")) {
                findings.add(
                    &source.path,
                    line,
                    "`unsafe` without `// SAFETY:` in the seven lines in front of it",
                );
            }
            if !listed {
                findings.add(&source.path, line, "`unsafe` outside of UNSAFE_FILES");
            }
        }
    }
    findings.finish();
}

#[test]
fn no_lint_is_switched_off_without_a_reason() {
    let mut findings = Findings::new(
        "an `allow` or `expect` of a lint says why",
        "write `#[expect(clippy::name, reason = \"…\")]`, or a comment on the same line",
    );
    for source in House::open().product() {
        // The macros write attributes into other crates, whose lints are not ours.
        if source.path.starts_with("framework/macros/") {
            continue;
        }
        // The reason is a text, so it is sought in the file as it is.
        for ((line, code), number) in source.whole.lines().zip(source.code.lines()).zip(1..) {
            let attribute = line.trim_start().trim_start_matches("#!").trim_start_matches('#');
            let off = !code.trim().is_empty()
                && (attribute.starts_with("[allow(") || attribute.starts_with("[expect("));
            // An attribute that goes on in the next lines has its reason there.
            if off && attribute.contains(")]") && !attribute.contains("reason = ") && !line.contains(" //") {
                findings.add(&source.path, number, line.trim());
            }
        }
    }
    findings.finish();
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    let mut findings = Findings::new(
        "nothing in the repository knows the machine that it was written on",
        "use a path below the repository, `tempfile`, or a placeholder",
    );
    // Put together here, so that this file does not find itself.
    let roots = ["work", "tmp", "home", "root", "Users", "mnt"].map(|name| format!("/{name}/"));
    let house = House::open();
    for path in house.files().filter(|path| !path.contains("/data/") && !path.contains("/corpus/")) {
        let Some(text) = house.text(path) else { continue };
        for (line, number) in text.lines().zip(1..) {
            for root in &roots {
                // A path begins there: nothing of a longer one, or of a web address, stands in front.
                let begins = |at: usize| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| {
                        c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '/' | '$')
                    })
                };
                if line.match_indices(root.as_str()).any(|(at, _)| begins(at)) {
                    findings.add(path, number, line.trim());
                }
            }
        }
    }
    findings.finish();
}
