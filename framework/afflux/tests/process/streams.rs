//! `call` of streaming methods, and what ends it.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use afflux::prelude::*;

use super::{Dev, json, output, program, succeeds, text};

/// Streams that were left by their callers.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Streams each way.
#[derive(Service)]
#[service(name = "test.flow", version = "1.0")]
pub(crate) enum Flow {
    /// Counts, and fails behind the last number if asked to.
    #[rpc(streams = u64)]
    Count {
        /// How far.
        to: u64,
        /// Whether it fails.
        #[serde(default)]
        fails: bool,
    },
    /// Sends one number, and never ends.
    #[rpc(streams = u64)]
    Hang,
    /// How many streams were left by their callers.
    #[rpc(returns = u64)]
    Left,
    /// Adds.
    #[rpc(accepts = u64, returns = u64)]
    Sum,
    /// Says everything twice.
    #[rpc(accepts = String, streams = String)]
    Echo,
}

#[derive(Actor)]
#[actor(serves(Flow))]
pub(super) struct FlowActor;

impl FlowHandler for FlowActor {
    async fn count(&mut self, _: &mut Cx, to: u64, fails: bool, mut out: Emit<u64>) -> Result<(), Fault> {
        for number in 0..to {
            out.send(number).await?;
        }
        if fails { Err(Status::not_found("no numbers are left").into()) } else { Ok(()) }
    }
    async fn hang(&mut self, cx: &mut Cx, mut out: Emit<u64>) -> Result<(), Fault> {
        out.send(7).await?;
        cx.spawn(async move {
            out.cancelled().await;
            LEFT.fetch_add(1, Ordering::SeqCst);
        })?;
        Ok(())
    }
    async fn left(&mut self, _: &mut Cx) -> Result<u64, Fault> {
        Ok(LEFT.load(Ordering::SeqCst))
    }
    async fn sum(&mut self, _: &mut Cx, mut numbers: Incoming<u64>) -> Result<u64, Fault> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(sum)
    }
    async fn echo(
        &mut self,
        cx: &mut Cx,
        mut said: Incoming<String>,
        mut out: Emit<String>,
    ) -> Result<(), Fault> {
        cx.spawn(async move {
            while let Some(Ok(text)) = said.next().await {
                for _ in 0..2 {
                    if out.send(text.clone()).await.is_err() {
                        return;
                    }
                }
            }
            if out.is_cancelled() {
                LEFT.fetch_add(1, Ordering::SeqCst);
            }
        })?;
        Ok(())
    }
}

/// A node, and where it listens.
fn node(at: &Path, more: &[&str]) -> (Dev, String) {
    let node = Dev::start(at, &[&["node", "--id", "seed", "--log-format", "json"], more].concat());
    let started = node.until("node started");
    let address = json(started.last().unwrap())["address"].as_str().unwrap().to_owned();
    (node, address)
}

/// A call whose stdin is this, and what it printed.
fn fed(at: &Path, args: &[&str], lines: &str) -> std::process::Output {
    let mut command = program(at, args);
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub(super) fn a_streaming_call_prints_a_line_an_item_and_reads_one_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let (node, address) = node(at, &[]);
    let to = ["--address", &address];
    let call = |method, params| [&["call", method, params][..], &to].concat();

    assert_eq!(succeeds(at, &call("test.flow/Count", r#"{"to":3}"#)), "0\n1\n2\n");
    let json = [&["--json"][..], &call("test.flow/Count", r#"{"to":3}"#)].concat();
    assert_eq!(succeeds(at, &json), "0\n1\n2\n");
    let many = succeeds(at, &call("test.flow/Count", r#"{"to":5000}"#));
    assert!(many.lines().map(|line| line.parse::<u64>().unwrap()).eq(0..5_000));

    let failed = output(at, &call("test.flow/Count", r#"{"to":2,"fails":true}"#));
    assert_eq!((failed.status.code(), text(&failed.stdout).as_str()), (Some(1), "0\n1\n"));
    assert!(text(&failed.stderr).contains("no numbers are left"), "{}", text(&failed.stderr));

    let sum = fed(at, &call("test.flow/Sum", "{}"), "1\n2\n\n3\n");
    assert_eq!((sum.status.code(), text(&sum.stdout).as_str()), (Some(0), "6\n"), "{}", text(&sum.stderr));
    let echo = fed(at, &call("test.flow/Echo", "{}"), "\"a\"\n\"b\"\n");
    assert_eq!(text(&echo.stdout), "\"a\"\n\"a\"\n\"b\"\n\"b\"\n", "{}", text(&echo.stderr));
    assert_eq!(echo.status.code(), Some(0));
    let wrong = fed(at, &call("test.flow/Sum", "{}"), "1\ntwo\n");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("line 2 of stdin is not JSON"), "{}", text(&wrong.stderr));

    node.signal("SIGTERM");
    assert_eq!(node.end().0, Some(0));
}

pub(super) fn ctrl_c_ends_a_streaming_call_and_cancels_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let (node, address) = node(at, &[]);
    let call = |method| ["call", method, "{}", "--address", &address];

    let hanging = Dev::start(at, &call("test.flow/Hang"));
    hanging.until("7");
    hanging.signal("SIGINT");
    let (code, rest) = hanging.end();
    assert_eq!(code, Some(1), "{rest}");
    assert!(rest.contains("interrupted: the call was cancelled"), "{rest}");

    // One whose stdin is open, and is read, ends too.
    let (talking, mut stdin) = Dev::start_open(at, &call("test.flow/Echo"));
    stdin.write_all(b"\"x\"\n").unwrap();
    talking.until("x");
    talking.signal("SIGINT");
    let (code, rest) = talking.end();
    assert_eq!(code, Some(1), "{rest}");
    drop(stdin);
    let deadline = std::time::Instant::now() + super::PATIENCE;
    while succeeds(at, &call("test.flow/Left")) != "2\n" {
        assert!(std::time::Instant::now() < deadline, "a handler goes on for nobody");
    }
    node.signal("SIGTERM");
    assert_eq!(node.end().0, Some(0));
}

pub(super) fn a_node_that_watches_its_stdin_ends_with_it_and_by_a_signal_before() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let args = ["node", "--id", "seed", "--until-stdin-ends"];
    let (signalled, stdin) = Dev::start_open(at, &args);
    signalled.until("node started");
    signalled.signal("SIGTERM");
    assert_eq!(signalled.end().0, Some(0));
    drop(stdin);

    let (left, mut stdin) = Dev::start_open(at, &args);
    left.until("node started");
    // More than one read takes, and the end right behind it.
    stdin.write_all(&[b'x'; 20_000]).unwrap();
    drop(stdin);
    let (code, rest) = left.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("the end of the launcher"), "{rest}");
}
