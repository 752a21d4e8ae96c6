//! The command line and the launcher, with real processes: this test binary is the program, too.
//!
//! With a command of the program as its first argument it is the program; else it runs the tests
//! whose names contain its first argument.

#![allow(clippy::unwrap_used, reason = "these are tests, without libtest")]

#[path = "process/certs.rs"]
mod certs;
mod harness;
#[path = "process/logs.rs"]
mod logs;
#[path = "process/operate.rs"]
mod operate;
#[cfg(feature = "otlp")]
#[path = "process/otlp.rs"]
mod otlp;
#[path = "process/streams.rs"]
mod streams;
#[path = "process/upgrade.rs"]
mod upgrade;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use afflux::App;
use afflux::prelude::*;
use afflux::stream::generate;

/// Greets.
#[derive(Service)]
#[service(name = "test.greeter", version = "1.0")]
pub enum Greeter {
    /// Greets somebody by name.
    #[rpc(returns = String, idempotent)]
    Greet {
        /// Whom.
        name: String,
        /// How often.
        times: u32,
    },
}

#[derive(Actor)]
#[actor(serves(Greeter))]
struct GreeterActor;

impl GreeterHandler for GreeterActor {
    async fn greet(&mut self, _: &mut Cx, name: String, times: u32) -> Result<String, Fault> {
        Ok(format!("hello {name} ").repeat(times as usize).trim_end().to_owned())
    }
}

fn evens(flow: &Flow) -> Result<()> {
    flow.source("numbers", generate(100_000, |i| i)).untimed().filter(|x| x % 2 == 0).count("evens");
    Ok(())
}

/// Runs for minutes: what it makes waits a little.
fn endless(flow: &Flow) -> Result<()> {
    let slow = generate(10_000_000, |i| i);
    flow.source("numbers", slow)
        .untimed()
        .filter(|x| {
            assert!(std::env::var_os("TEST_ENDLESS_FAILS").is_none(), "it fails, as it was told");
            std::thread::sleep(Duration::from_micros(50));
            x % 2 == 0
        })
        .count("evens");
    Ok(())
}

/// The same with time, and three records of four under one key.
fn skewed(flow: &Flow) -> Result<()> {
    flow.source("numbers", generate(10_000_000, |i| i))
        .watermarks_by(BoundedOutOfOrder::by(secs(1)), |i| Timestamp::from_millis(*i as i64))
        .inspect(|_| std::thread::sleep(Duration::from_micros(50)))
        .key_by(|i| if (i / 7) % 4 > 0 { 0 } else { *i })
        .reduce("sum", |a, b| a + b)
        .count("sums");
    Ok(())
}

fn app() -> App {
    App::new("greeter")
        .pipeline("evens", evens)
        .pipeline("endless", endless)
        .pipeline("skewed", skewed)
        .singleton("greeter", || Ok::<_, afflux::Error>(GreeterActor))
        .singleton("flow", || Ok::<_, afflux::Error>(streams::FlowActor))
}

/// Limits every wait for a process.
const PATIENCE: Duration = Duration::from_secs(60);

fn program(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args).current_dir(directory).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AFFLUX_")) {
        command.env_remove(name);
    }
    command
}

fn output(directory: &Path, args: &[&str]) -> Output {
    let output = program(directory, args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(directory: &Path, args: &[&str]) -> String {
    let output = output(directory, args);
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn fails(directory: &Path, args: &[&str], code: i32, parts: &[&str]) {
    let output = output(directory, args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{args:?} lacks `{part}`: {stderr}");
    }
}

/// A running `dev`, killed with the test.
struct Dev {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Dev {
    fn start(directory: &Path, args: &[&str]) -> Self {
        let child = program(directory, args).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self::of(child)
    }

    /// The same with a stdin that stays open until it is dropped.
    fn start_open(directory: &Path, args: &[&str]) -> (Self, std::process::ChildStdin) {
        let mut command = program(directory, args);
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        (Self::of(child), stdin)
    }

    fn of(mut child: Child) -> Self {
        let (sender, lines) = mpsc::channel();
        for pipe in [
            Box::new(child.stderr.take().unwrap()) as Box<dyn Read + Send>,
            Box::new(child.stdout.take().unwrap()),
        ] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines }
    }

    /// Reads lines up to one that contains this.
    fn until(&self, part: &str) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.contains(part);
                    seen.push(line);
                    if found {
                        return seen;
                    }
                }
                Err(_) => panic!("no line with `{part}` came:\n{}", seen.join("\n")),
            }
        }
    }

    fn signal(&self, signal: &str) {
        kill(signal, self.child.id());
    }

    /// Waits for the end: exit code and the lines not read before.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("the launcher does not end"),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut rest: Vec<String> = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(500)) {
            rest.push(line);
        }
        (status.code(), rest.join("\n"))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(signal: &str, pid: u32) {
    let signal: nix::sys::signal::Signal = signal.parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

fn is_alive(pid: u32) -> bool {
    // A zombie has been told to go and waits for its parent to look.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

fn all_end(pids: &[u32]) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(pid) = pids.iter().find(|pid| is_alive(**pid)) {
        assert!(Instant::now() < deadline, "process {pid} was left behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pids(directory: &Path) -> Vec<u32> {
    let file = std::fs::read_to_string(directory.join(".afflux/dev.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let nodes = file["nodes"].as_array().unwrap();
    nodes.iter().map(|node| u32::try_from(node["pid"].as_u64().unwrap()).unwrap()).collect()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn dev_runs_the_default_pipeline_on_three_nodes_and_ends_with_a_summary() {
    let dir = tempfile::tempdir().unwrap();
    let stdout = succeeds(dir.path(), &["dev", "--json"]);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 1, "one line of JSON and nothing else: {stdout}");
    let summary = json(lines[0]);
    assert_eq!(summary["pipeline"], "evens");
    assert_eq!(summary["nodes"], 3);
    assert_eq!(summary["records_in"], 100_000);
    for field in ["records_out", "late", "wall_s", "cpu_s", "output"] {
        assert!(!summary[field].is_null(), "{field} is missing: {summary}");
    }
    assert!(!dir.path().join(".afflux/dev.json").exists());
    let people = succeeds(dir.path(), &["dev", "--nodes", "2"]);
    assert!(people.contains("evens: finished on 2 nodes"), "{people}");
}

fn why_names_what_keeps_an_operator(at: &Path) {
    let job = succeeds(at, &["run", "skewed", "--detach"]);
    let until = Instant::now() + PATIENCE;
    let why = loop {
        let why = json(&succeeds(at, &["why", "sum", "--json", "--interval", "0.3"]));
        if why["hot_keys"][0]["key"] == "0" && !why["held_by"].is_null() {
            break why;
        }
        assert!(Instant::now() < until, "{why}");
    };
    assert_eq!((&why["job"], &why["operator"]), (&job.trim().into(), &"sum".into()));
    assert_eq!(why["held_by"]["source"], "numbers");
    assert!(why["span_s"].as_f64().unwrap() < 5.0, "it is about the time between two looks: {why}");
    let text = succeeds(at, &["why", "sum", "--job", job.trim(), "--interval", "0.1"]);
    assert!(text.contains("held by split") && text.contains("hot key    0 is"), "{text}");
    fails(at, &["why", "summ"], 2, &["did you mean `sum`?"]);
    fails(at, &["why", "sum", "--job", "nothing"], 2, &["no job is named `nothing`"]);
    succeeds(at, &["cancel", job.trim()]);
}

fn other_commands_find_a_cluster_that_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let dev = Dev::start(at, &["dev", "--hold", "--nodes", "2"]);
    dev.until("stay up until Ctrl-C");
    let pids = pids(at);
    let nodes = json(&succeeds(at, &["nodes", "--json"]));
    let shown: Vec<u64> =
        nodes.as_array().unwrap().iter().map(|node| node["pid"].as_u64().unwrap()).collect();
    assert_eq!(shown, pids.iter().map(|pid| u64::from(*pid)).collect::<Vec<_>>());
    assert!(succeeds(at, &["nodes"]).contains("node-2"));
    let services = succeeds(at, &["services"]);
    assert!(services.contains("test.greeter") && !services.contains("afflux.node"), "{services}");
    assert!(succeeds(at, &["services", "--all"]).contains("afflux.node"));
    let described = succeeds(at, &["describe", "test.greeter"]);
    assert!(described.contains("Greet(name: string, times: uint32) -> string"), "{described}");
    let params = r#"{"name":"Ada","times":2}"#;
    assert_eq!(succeeds(at, &["call", "test.greeter/Greet", params]), "\"hello Ada hello Ada\"\n");
    fails(
        at,
        &["call", "test.greeter/Greet", r#"{"name":7,"times":1}"#],
        2,
        &["name", "describe test.greeter"],
    );
    let top = json(&succeeds(at, &["top", "--once", "--json", "--interval", "0.2", "--all"]));
    let told: Vec<_> =
        top["nodes"].as_array().unwrap().iter().map(|row| row["node"].as_str().unwrap()).collect();
    assert_eq!(told, ["node-1", "node-2"]);
    let greeted = top["methods"].as_array().unwrap().iter().filter(|row| row["method"] == "Greet");
    assert_eq!(greeted.map(|row| row["calls"].as_u64().unwrap()).sum::<u64>(), 1, "{top}");
    let own = top["methods"].as_array().unwrap().iter().find(|row| row["service"] == "afflux.node").unwrap();
    assert!(own["calls"].as_u64().unwrap() > 0, "{own}");
    assert!(
        top["mailboxes"].as_array().unwrap().iter().any(|row| row["capacity"].as_u64() > Some(0)),
        "{top}"
    );
    let text = succeeds(at, &["top", "--once", "--interval", "0.1"]);
    assert!(text.contains("CALLS/S") && text.contains("test.greeter/Greet"), "{text}");
    fails(at, &["top", "--interval", "0"], 2, &["0.1 and 3600"]);
    fails(at, &["call", "test.greeter/Great", params], 2, &["Greet"]);
    fails(at, &["call", "test.greter/Greet", params], 2, &["test.greter", "did you mean `test.greeter`?"]);
    let jobs = json(&succeeds(at, &["jobs", "--json"]));
    assert_eq!(jobs[0]["state"], "finished");
    let id = jobs[0]["id"].as_str().unwrap();
    assert!(succeeds(at, &["job", id]).contains("evens"));
    fails(at, &["job", "evens-x"], 2, &["there is no job `evens-x`"]);
    let graph = succeeds(at, &["graph", "evens"]);
    assert!(graph.contains("numbers") && graph.contains("on node-1"), "{graph}");
    let again = succeeds(at, &["run", "evens", "--json"]);
    assert_eq!(json(&again)["records_in"], 100_000);
    fails(at, &["run", "evans"], 2, &["did you mean `evens`?"]);
    let detached = succeeds(at, &["run", "endless", "--detach"]);
    let cancelled = succeeds(at, &["cancel", detached.trim()]);
    assert!(cancelled.contains("cancelled"), "{cancelled}");
    why_names_what_keeps_an_operator(at);
    dev.signal("SIGINT");
    let (code, rest) = dev.end();
    assert_eq!(code, Some(0), "{rest}");
    all_end(&pids);
    assert!(!at.join(".afflux/dev.json").exists());
    fails(at, &["nodes"], 2, &["no cluster is known", "dev --hold"]);
}

fn a_killed_node_fails_the_job_and_is_named_with_its_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path(), &["dev", "endless"]);
    dev.until("records");
    let pids = pids(dir.path());
    kill("SIGKILL", pids[1]);
    let lines = dev.until("node-2");
    let said = lines.join("\n");
    let (code, rest) = dev.end();
    let said = format!("{said}\n{rest}");
    assert_eq!(code, Some(1), "{said}");
    for part in ["endless failed", "node-2", "killed by signal 9", "endless/evens/1", "it was running"] {
        assert!(said.contains(part), "`{part}` is missing: {said}");
    }
    all_end(&pids);
}

fn ctrl_c_stops_all_nodes_and_says_how_far_it_got() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path(), &["dev", "endless", "--nodes", "2"]);
    dev.until("records");
    let pids = pids(dir.path());
    dev.signal("SIGINT");
    let (code, rest) = dev.end();
    assert_eq!(code, Some(1), "{rest}");
    assert!(rest.contains("Ctrl-C: endless stopped after") && rest.contains("records in"), "{rest}");
    assert!(!rest.contains("killed, since"), "{rest}");
    all_end(&pids);
}

fn a_launcher_that_is_killed_leaves_no_node_behind() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path(), &["dev", "--hold", "--nodes", "2"]);
    dev.until("stay up until Ctrl-C");
    let pids = pids(dir.path());
    dev.signal("SIGKILL");
    dev.end();
    all_end(&pids);
    fails(dir.path(), &["nodes"], 1, &["the cluster of", "is gone"]);
}

fn a_node_begins_a_cluster_and_another_joins_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let seed = Dev::start(at, &["node", "--id", "seed", "--log-format", "json"]);
    let started = seed.until("node started");
    let line = json(started.last().unwrap());
    let address = line["address"].as_str().unwrap().to_owned();
    let admin = line["admin"].as_str().unwrap().to_owned();
    let other = Dev::start(at, &["node", "--id", "other", "--join", &address]);
    other.until("node started");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let nodes = succeeds(at, &["nodes", "--address", &address]);
        if nodes.contains("seed") && nodes.contains("other") {
            break;
        }
        assert!(Instant::now() < deadline, "{nodes}");
    }
    let port = admin.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let metrics = http(port, "/metrics");
    for name in ["afflux_build_info", "process_cpu_seconds_total", "afflux_log_events_total", "afflux_actors"]
    {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    assert!(http(port, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(http(port, "/api/v1/nodes").contains("\"other\""));
    let node_port = address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let refused = http(node_port, "/metrics");
    assert!(refused.contains("426") && refused.contains(&port.to_string()), "{refused}");
    fails(at, &["nodes", "--address", "127.0.0.1:1"], 1, &["cannot join through 127.0.0.1:1"]);
    fails(at, &["nodes", "--address", &address, "--set", "cluster=shop"], 1, &["shop", "afflux"]);
    fails(
        at,
        &["node", "--listen", &address],
        1,
        &["node.listen", "the port is in use", "AFFLUX_NODE_LISTEN"],
    );
    other.signal("SIGTERM");
    let (code, rest) = other.end();
    assert_eq!(code, Some(0), "{rest}");
    seed.signal("SIGTERM");
    assert_eq!(seed.end().0, Some(0));
}

fn http(port: u16, path: &str) -> String {
    use std::io::Write;
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = Vec::new();
    let _ = socket.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn wrong_use_is_exit_code_two_with_the_nearest_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    fails(at, &["dev", "evans"], 2, &["no pipeline and no command `evans`", "did you mean `evens`?"]);
    fails(at, &["node", "--slotz", "1"], 2, &["--slots"]);
    fails(at, &["check", "--set", "node.slotz=1"], 2, &["unknown setting `node.slotz`", "`node.slots`"]);
    std::fs::write(at.join("afflux.toml"), "[node]\nslots = \"many\"\n").unwrap();
    fails(at, &["check"], 2, &["afflux.toml:2", "node.slots", "a whole number", "\"many\""]);
    std::fs::write(at.join("afflux.toml"), "[node]\nslots = 2\n").unwrap();
    let shown = succeeds(at, &["check"]);
    assert!(
        shown.contains("afflux.toml:2") && shown.contains("evens") && shown.contains("greeter"),
        "{shown}"
    );
    let shown = json(&succeeds(at, &["check", "--json"]));
    let slots = shown["settings"].as_array().unwrap().iter().find(|s| s["name"] == "node.slots").unwrap();
    assert_eq!(
        (&slots["value"], &slots["origin"]),
        (&serde_json::json!(2), &serde_json::json!("afflux.toml:2"))
    );
    assert!(succeeds(at, &["help-me-not", "--help"]).contains("Usage"));
    assert!(succeeds(at, &["graph", "evens", "--format", "dot"]).starts_with("digraph"));
}

/// What the first argument of the program may be.
const COMMANDS: [&str; 22] = [
    "drain",
    "upgrade",
    "rescale",
    "logs",
    "completions",
    "dev",
    "node",
    "run",
    "jobs",
    "job",
    "cancel",
    "top",
    "why",
    "nodes",
    "graph",
    "services",
    "describe",
    "call",
    "check",
    "help-me-not",
    "--json",
    "--set",
];

fn main() -> ExitCode {
    let first = std::env::args().nth(1).unwrap_or_default();
    // The launcher puts global options in front of `node`.
    if COMMANDS.contains(&first.as_str()) || first.starts_with("--log") || first == "--config" {
        return afflux::__private::run_main(app().run());
    }
    let tests: &[(&str, fn())] = &[
        (
            "wrong_use_is_exit_code_two_with_the_nearest_name",
            wrong_use_is_exit_code_two_with_the_nearest_name,
        ),
        (
            "dev_runs_the_default_pipeline_on_three_nodes_and_ends_with_a_summary",
            dev_runs_the_default_pipeline_on_three_nodes_and_ends_with_a_summary,
        ),
        ("other_commands_find_a_cluster_that_is_held", other_commands_find_a_cluster_that_is_held),
        (
            "a_killed_node_fails_the_job_and_is_named_with_its_tasks",
            a_killed_node_fails_the_job_and_is_named_with_its_tasks,
        ),
        ("ctrl_c_stops_all_nodes_and_says_how_far_it_got", ctrl_c_stops_all_nodes_and_says_how_far_it_got),
        ("a_launcher_that_is_killed_leaves_no_node_behind", a_launcher_that_is_killed_leaves_no_node_behind),
        ("a_node_begins_a_cluster_and_another_joins_it", a_node_begins_a_cluster_and_another_joins_it),
        (
            "a_streaming_call_prints_a_line_an_item_and_reads_one_a_line",
            streams::a_streaming_call_prints_a_line_an_item_and_reads_one_a_line,
        ),
        ("ctrl_c_ends_a_streaming_call_and_cancels_it", streams::ctrl_c_ends_a_streaming_call_and_cancels_it),
        (
            "a_node_that_watches_its_stdin_ends_with_it_and_by_a_signal_before",
            streams::a_node_that_watches_its_stdin_ends_with_it_and_by_a_signal_before,
        ),
        (
            "logs_of_all_nodes_are_shown_followed_and_served_over_http",
            logs::logs_of_all_nodes_are_shown_followed_and_served_over_http,
        ),
        (
            "an_upgrade_goes_on_with_the_new_build_or_returns_to_the_old_one",
            upgrade::an_upgrade_goes_on_with_the_new_build_or_returns_to_the_old_one,
        ),
        (
            "what_a_cluster_needs_is_checked_and_a_node_is_drained",
            operate::what_a_cluster_needs_is_checked_and_a_node_is_drained,
        ),
        (
            "a_node_that_is_terminated_hands_its_tasks_over",
            operate::a_node_that_is_terminated_hands_its_tasks_over,
        ),
        (
            "bash_completes_commands_options_and_pipelines",
            logs::bash_completes_commands_options_and_pipelines,
        ),
        (
            "nodes_join_with_certificates_and_take_new_ones_while_they_run",
            certs::nodes_join_with_certificates_and_take_new_ones_while_they_run,
        ),
        #[cfg(feature = "otlp")]
        (
            "a_call_over_http_reaches_a_collector_as_spans_of_its_trace",
            otlp::a_call_over_http_reaches_a_collector_as_spans_of_its_trace,
        ),
    ];
    harness::run(&first, tests)
}
