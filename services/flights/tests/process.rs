//! The program as processes: whole runs, checkpoint and restore, killed nodes, bad input, bad peers.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use afflux_sandbox::{PATIENCE, Process, Program, is_alive, kill, until};
use afflux_wire::frame::put_hello;
use afflux_wire::handshake::{Hello, Preface, ProtocolRange};
use common::{assert_equal, first_rows, input, oracle, place};
use serde_json::Value;

/// Rows of the small input: 22 days.
const ROWS: usize = 20_000;

/// A run that lost a node ends by itself: this only limits the wait for it.
const VERDICT_MAX: Duration = Duration::from_secs(60);

const OUTPUT: &str = "out/hourly-delays.csv";

fn flights() -> Program {
    Program::new(env!("CARGO_BIN_EXE_flights"))
}

/// The program over the first rows of the year.
fn small() -> Program {
    let program = flights();
    place(program.directory(), &first_rows(ROWS));
    program
}

/// The program over a small input in which this line (the header is line 1) is another.
fn with_line(number: usize, line: &str) -> Program {
    let program = flights();
    let text = first_rows(3_000);
    let mut lines: Vec<&str> = text.lines().collect();
    lines[number - 1] = line;
    place(program.directory(), &(lines.join("\n") + "\n"));
    program
}

/// The first job, once it has read something.
fn job_at_work(program: &Program, cluster: &[&str]) -> Value {
    let args = [&["jobs", "--json"], cluster].concat();
    until("a job at work", || {
        let ended = program.run(&args);
        let jobs: Value = serde_json::from_str(&ended.stdout).ok()?;
        let job = jobs.get(0)?.clone();
        (job["progress"]["records_in"].as_u64()? > 0).then_some(job)
    })
}

fn all_end(pids: &[u32]) {
    until("the end of all nodes", || (!pids.iter().any(|pid| is_alive(*pid))).then_some(()));
}

fn pids(program: &Program) -> Vec<u32> {
    program.nodes().iter().map(|node| node.pid).collect()
}

#[test]
fn the_first_command_writes_what_a_batch_computation_gives_and_ends_with_one_line_of_json() {
    let program = flights();
    let stdout = program.succeeds(&["--json"]);
    assert_equal(&program.directory().join(OUTPUT), &oracle(&input()));
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let line: Value = serde_json::from_str(&stdout).unwrap();
    let mut keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["cpu_s", "late", "nodes", "output", "pipeline", "records_in", "records_out", "wall_s"]);
    assert_eq!((&line["pipeline"], &line["output"]), (&"hourly-delays".into(), &OUTPUT.into()));
    assert_eq!((line["nodes"].as_u64(), line["late"].as_u64()), (Some(3), Some(0)));
    assert_eq!((line["records_in"].as_u64(), line["records_out"].as_u64()), (Some(336_776), Some(116_904)));
    assert!(line["wall_s"].as_f64().unwrap() > 0.0 && line["cpu_s"].as_f64().unwrap() > 0.0, "{line}");
}

#[test]
fn a_run_killed_after_a_checkpoint_goes_on_from_it_on_other_nodes_to_the_same_file() {
    let program = small();
    let checkpoints = format!("checkpoint.dir={}", program.directory().join("checkpoints").display());
    let paced = program.start(&["dev", "--parallelism", "3", "--replay", "50000x", "--set", &checkpoints]);
    let nodes = pids(&program);
    let id = job_at_work(&program, &[])["id"].as_str().unwrap().to_owned();
    program.succeeds(&["checkpoint", &id]);
    let saved = until("a complete checkpoint", || {
        let job = program.json(&["job", &id, "--json"]);
        job["last_checkpoint"].as_u64().map(|_| job["progress"]["records_in"].as_u64().unwrap())
    });
    // What comes after the checkpoint has to come again.
    until("records behind the checkpoint", || {
        let job = program.json(&["job", &id, "--json"]);
        (job["progress"]["records_in"].as_u64()? > saved).then_some(())
    });
    for pid in &nodes {
        kill("KILL", *pid);
    }
    paced.end().expect(1, &["hourly-delays failed", "killed by signal 9"]);
    let out = program.directory().join(OUTPUT);
    assert!(!out.exists(), "an output that was not finished must not be there");

    let cluster = Nodes::start(&program, 3, &["--set", &checkpoints]);
    let address = ["--address", cluster.address.as_str()];
    let restore = [&["run", "hourly-delays", "--parallelism", "3", "--restore", &id, "--json"], &address[..]];
    let line = program.json(&restore.concat());
    let again = line["records_in"].as_u64().unwrap();
    assert!(again > 0 && again < ROWS as u64, "{again} of {ROWS} rows were read again");
    assert_equal(&out, &oracle(&first_rows(ROWS)));
    // A checkpoint is not used up, and its key groups fit any number of tasks.
    let wider = [&["run", "hourly-delays", "--parallelism", "5", "--restore", &id, "--json"], &address[..]];
    let line = program.json(&wider.concat());
    assert_eq!(line["records_in"].as_u64(), Some(again));
    assert_equal(&out, &oracle(&first_rows(ROWS)));
    let ended = program.run(&[&["run", "hourly-delays", "--restore", "no-such-job"], &address[..]].concat());
    ended.expect(1, &["no-such-job"]);
}

/// Nodes that were started one by one; the first holds the registry.
struct Nodes {
    address: String,
    _processes: Vec<Process>,
}

impl Nodes {
    fn start(program: &Program, count: usize, args: &[&str]) -> Self {
        let json = ["--log-format", "json"];
        let mut address = String::new();
        let mut processes = Vec::new();
        for number in 1..=count {
            let id = format!("single-{number}");
            let node = ["node", "--id", &id, "--slots", "1"];
            let join = ["--join", &address];
            let join = if number == 1 { &[][..] } else { &join };
            let mut process = program.start(&[&node, join, &json, args].concat());
            process.until_says("node started");
            if number == 1 {
                let said = process.stderr();
                let started = said.lines().find(|line| line.contains("node started")).unwrap();
                let started: Value = serde_json::from_str(started).unwrap();
                address = started["address"].as_str().unwrap().to_owned();
            }
            processes.push(process);
        }
        until("all nodes in the registry", || {
            let nodes = program.json(&["nodes", "--json", "--address", &address]);
            let coordinated = program.run(&["jobs", "--address", &address]).code == Some(0);
            (nodes.as_array().unwrap().len() == count && coordinated).then_some(())
        });
        Self { address, _processes: processes }
    }
}

#[test]
fn a_killed_node_ends_the_run_with_its_name_and_what_was_running_there() {
    // One of them coordinates the job, one has the board: it must not matter which dies.
    for killed in 0..3 {
        let program = small();
        let run = program.start(&["--replay", "5000x"]);
        let pids = pids(&program);
        let job = job_at_work(&program, &[]);
        let node = format!("node-{}", killed + 1);
        let task = job["tasks"].as_array().unwrap().iter().find(|task| task["node"] == node.as_str());
        let task =
            task.unwrap_or_else(|| panic!("no task on {node}: {job}"))["path"].as_str().unwrap().to_owned();
        kill("KILL", pids[killed]);
        let at = Instant::now();
        let ended = run.end();
        assert!(at.elapsed() < VERDICT_MAX, "the run ended {:?} after the node", at.elapsed());
        ended.expect(1, &["hourly-delays failed", &node, "killed by signal 9", &task, "records in"]);
        all_end(&pids);
        assert!(!program.directory().join(OUTPUT).exists());
    }
}

/// Checkpoints often, and an input that takes some seconds.
fn surviving(program: &Program) -> Vec<String> {
    let checkpoints = format!("checkpoint.dir={}", program.directory().join("checkpoints").display());
    ["dev", "--parallelism", "3", "--replay", "100000x", "--json", "--set", &checkpoints]
        .into_iter()
        .chain(["--set", "checkpoint.interval_ms=250"])
        .map(str::to_owned)
        .collect()
}

/// The job as its coordinator shows it, once that answers.
fn shown(program: &Program, id: &str) -> Option<Value> {
    let ended = program.run(&["job", id, "--json"]);
    serde_json::from_str(&ended.stdout).ok()
}

#[test]
fn a_node_killed_in_mid_run_is_started_again_and_the_output_is_that_of_a_batch() {
    // One of them coordinates the job, one has the board: it must not matter which dies.
    for killed in 0..3 {
        let program = small();
        let args = surviving(&program);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut run = program.start(&args);
        let pids = pids(&program);
        let id = job_at_work(&program, &[])["id"].as_str().unwrap().to_owned();
        let first = until("a checkpoint, and output", || {
            let job = shown(&program, &id)?;
            job["last_checkpoint"].as_u64()?;
            (job["progress"]["records_out"].as_u64()? > 0).then_some(job)
        });
        assert_eq!((first["attempt"].as_u64(), first["restartable"].as_bool()), (Some(1), Some(true)));
        let coordinates = {
            let services = program.json(&["services", "--all", "--json"]);
            let all = services.as_array().unwrap();
            let jobs = all.iter().find(|service| service["name"] == "afflux.jobs").unwrap();
            jobs["nodes"][0] == format!("node-{}", killed + 1).as_str()
        };
        kill("KILL", pids[killed]);
        let at = Instant::now();
        let second = until("output of a second attempt", || {
            let job = shown(&program, &id)?;
            let again = job["attempt"].as_u64()? > 1;
            (again && job["progress"]["records_out"].as_u64()? > 0).then_some(job)
        });
        println!(
            "node-{} killed{}: output of attempt {} seen after {:?}",
            killed + 1,
            if coordinates { ", which coordinated the job" } else { "" },
            second["attempt"],
            at.elapsed()
        );
        run.until_says("it is started again");
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        let line: Value = serde_json::from_str(&ended.stdout).unwrap();
        let again = line["records_in"].as_u64().unwrap();
        assert!(again > 0 && again < ROWS as u64, "{again} of {ROWS} rows were read again");
        assert_equal(&program.directory().join(OUTPUT), &oracle(&first_rows(ROWS)));
    }
}

#[test]
fn ctrl_c_ends_all_nodes_and_says_how_far_it_got() {
    let program = small();
    let run = program.start(&["--replay", "5000x"]);
    let pids = pids(&program);
    job_at_work(&program, &[]);
    run.signal("INT");
    let ended = run.end();
    ended.expect(1, &["Ctrl-C: hourly-delays stopped after", "records in", "% of the input"]);
    assert!(!ended.stderr.contains("killed"), "{}", ended.stderr);
    all_end(&pids);
    assert!(!program.directory().join(".afflux/dev.json").exists());
}

#[test]
fn the_board_answers_other_processes_while_a_run_goes_on_whichever_node_it_is_on() {
    let program = small();
    let _run = program.start(&["dev", "--hold", "--replay", "50000x"]);
    program.nodes();
    let rows = until("a closed hour on the board", || {
        let ended = program.run(&["call", "flights.board/Latest", r#"{"origin":"JFK"}"#, "--json"]);
        serde_json::from_str::<Value>(&ended.stdout).ok()
    });
    let job = program.json(&["jobs", "--json"])[0].clone();
    assert_eq!(job["state"], "running", "{job}");
    let row = &rows[0];
    assert_eq!(row["origin"], "JFK", "{rows}");
    // The row is one of the batch's.
    let text = |name: &str| match &row[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let names =
        ["origin", "carrier", "flights", "cancelled", "delayed_15", "total_delay_min", "max_delay_min"];
    let tail = names.map(text).join(",");
    assert!(oracle(&first_rows(ROWS)).iter().any(|line| line.ends_with(&tail)), "{row}");
    // Every node is asked which of them has it, and it is called there by name.
    let services = program.json(&["services", "--json"]);
    let board = services.as_array().unwrap().iter().find(|s| s["name"] == "flights.board").unwrap();
    assert_eq!(board["nodes"].as_array().unwrap().len(), 1, "{board}");
    let on = board["nodes"][0].as_str().unwrap();
    program.succeeds(&["call", "flights.board/Worst", r#"{"top":3}"#, "--node", on]);
    // And from each node's own port.
    for node in program.nodes() {
        let token = fs::read_to_string(program.directory().join(".afflux/dev.json")).unwrap();
        let token: Value = serde_json::from_str(&token).unwrap();
        let token = format!("token={}", token["token"].as_str().unwrap());
        let through = ["--address", &node.address, "--set", &token];
        program.succeeds(&[&["call", "flights.board/Worst", r#"{"top":3}"#], &through[..]].concat());
    }
}

#[test]
fn a_held_cluster_that_loses_its_coordinator_goes_on_with_the_others() {
    let program = small();
    let mut held = program.start(&["dev", "--hold"]);
    held.until_says("stay up until Ctrl-C");
    let on = |service: &str| {
        let services = program.json(&["services", "--all", "--json"]);
        let found = services.as_array()?.iter().find(|s| s["name"] == service)?.clone();
        Some(found["nodes"][0].as_str()?.to_owned())
    };
    let lost = on("afflux.jobs").unwrap();
    let pid = program.nodes().iter().find(|node| node.id == lost).unwrap().pid;
    kill("KILL", pid);
    held.until_says(&format!("warning: node {lost} (process {pid}) killed by signal 9"));
    until("coordinator and board on nodes that live", || {
        let lives = |service: &str| on(service).is_some_and(|on| on != lost);
        (lives("afflux.jobs") && lives("flights.board")).then_some(())
    });
    let line = program.json(&["run", "hourly-delays", "--json"]);
    assert_eq!((line["nodes"].as_u64(), line["records_in"].as_u64()), (Some(2), Some(ROWS as u64)), "{line}");
    assert_equal(&program.directory().join(OUTPUT), &oracle(&first_rows(ROWS)));
    let rows = program.json(&["call", "flights.board/Latest", r#"{"origin":"EWR"}"#, "--json"]);
    assert_eq!(rows[0]["origin"], "EWR");
    held.signal("INT");
    assert_eq!(held.end().code, Some(0));
}

#[test]
fn a_row_that_is_no_flight_stops_the_run_with_its_place_or_is_skipped() {
    let bad = "2013-01-03T10:15:00Z,soon,11,UA,1545,N14228,EWR,IAH,227,1400";
    let program = with_line(2_345, bad);
    let parts = ["flights.csv.gz", "2345", "departure_delay_min", "`soon`", "integer", "node-"];
    program.fails(&[], 1, &parts);
    assert!(!program.directory().join(OUTPUT).exists());
    let line = program.json(&["--json", "--set", "source.on_error=skip"]);
    assert_eq!(line["records_in"], 2_999);
    let rest: String = first_rows(3_000)
        .lines()
        .enumerate()
        .filter(|(index, _)| *index != 2_344)
        .map(|(_, line)| format!("{line}\n"))
        .collect();
    assert_equal(&program.directory().join(OUTPUT), &oracle(&rest));
}

#[test]
fn an_input_that_is_missing_or_is_something_else_is_named() {
    let program = flights();
    let path = place(program.directory(), "");
    let name = "services/flights/data/flights.csv.gz";
    fs::write(&path, "this is no gzip").unwrap();
    program.fails(&[], 1, &[name]);
    place(program.directory(), "a,b\n1,2\n");
    program.fails(&[], 1, &[name, "scheduled_departure", "`a`, `b`"]);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    program.fails(&[], 1, &[name, "no file of", "*.csv"]);
}

#[test]
fn wrong_words_are_answered_with_the_nearest_right_one() {
    let program = small();
    program.fails(&["hourly-delay"], 2, &["`hourly-delay`", "did you mean `hourly-delays`?"]);
    program.fails(&["--set", "source.on_eror=skip"], 2, &["`source.on_eror`", "`source.on_error`"]);
    program.fails(&["--set", "source.on_error=maybe"], 2, &["source.on_error", "maybe", "skip"]);
    program.fails(&["--set", "node.slots=many"], 2, &["node.slots", "many", "whole number"]);
    program.fails(&["--replay", "fast"], 2, &["`fast`", "20000x"]);
    program.fails(&["nodes"], 2, &["no cluster is known"]);
    assert!(!program.directory().join(".afflux/dev.json").exists(), "nothing was started");
}

#[test]
fn a_held_cluster_answers_wrong_calls_and_survives_strangers_at_its_ports() {
    let program = small();
    let mut held = program.start(&["dev", "--hold"]);
    held.until_says("stay up until Ctrl-C");
    let call = |method: &str, params: &str, code: i32, parts: &[&str]| {
        program.fails(&["call", method, params], code, parts);
    };
    call("flights.board/Latest", r#"{"origin":7}"#, 2, &["origin", "string"]);
    call("flights.board/Latest", "{}", 2, &["origin"]);
    call("flights.board/Latest", r#"{"origin":"LHR"}"#, 1, &["LHR", "JFK"]);
    call("flights.board/Worst", r#"{"top":1001}"#, 2, &["1001", "1000"]);
    call("flights.board/Lates", r#"{"origin":"JFK"}"#, 2, &["Lates", "did you mean", "Latest"]);
    call("flights.bord/Latest", r#"{"origin":"JFK"}"#, 2, &["flights.bord", "did you mean `flights.board`?"]);
    call("flights.board/Latest", "{origin", 2, &["JSON"]);
    program.fails(&["run", "hourly"], 2, &["did you mean `hourly-delays`?"]);
    let job = program.json(&["jobs", "--json"])[0]["id"].as_str().unwrap().to_owned();
    program.fails(&["checkpoint", &job], 1, &["checkpoint.dir"]);
    program.fails(&["run", "hourly-delays", "--restore", &job], 1, &["checkpoint.dir"]);
    program.fails(&["cancel", "hourly"], 2, &["there is no job `hourly`", "hourly-delays-"]);

    for node in program.nodes() {
        let http = exchange(&node.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(http.starts_with("HTTP/1.1 426") && http.contains(&node.admin), "{http}");
        let rejected = exchange(&node.address, &hello_of_major(9));
        assert!(rejected.contains("protocol 9.0") && rejected.contains("speaks 1.0"), "{rejected:?}");
        for garbage in [
            &b"\x00\x01\x02"[..],
            &[0xff; 4096],
            b"\xc1AFXnonsense",
            b"\xc1AFX\x01\0\0\0\xff\xff\xff\xff",
            &[0x91; 65_536],
        ] {
            exchange(&node.address, garbage);
        }
    }
    // Nobody was hurt.
    let nodes = program.json(&["nodes", "--json"]);
    let ready = nodes.as_array().unwrap().iter().filter(|node| node["state"] == "ready").count();
    assert_eq!(ready, 3, "{nodes}");
    assert_eq!(program.json(&["run", "hourly-delays", "--json"])["records_in"], ROWS);
    let taken = program.nodes()[0].address.clone();
    program.fails(&["node", "--listen", &taken], 1, &["node.listen", &taken, "in use"]);
    let other = ["node", "--join", taken.as_str(), "--set", "cluster=shop"];
    program.fails(&other, 1, &["shop", "afflux"]);
    program.fails(&["node", "--join", &taken, "--set", "token=guessed"], 1, &[&taken, "token"]);
    held.signal("INT");
    assert_eq!(held.end().code, Some(0));
}

/// What a node of another major version says first: `C1 'AFX' major minor flags 00` and its HELLO.
fn hello_of_major(major: u8) -> Vec<u8> {
    let mut bytes = Preface { major, ..Preface::CURRENT }.to_bytes().to_vec();
    let protocol = ProtocolRange { major, minor_min: 0, minor_max: 0 };
    let hello = Hello { protocol, cluster: "afflux".into(), node: "future".into(), ..Hello::default() };
    put_hello(&mut bytes, &hello).unwrap();
    bytes
}

/// Says something to a port and returns all that it answers until it hangs up.
fn exchange(address: &str, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // The other side may hang up before it has read all.
    let _refused = socket.write_all(bytes);
    let _refused = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("{address} never hangs up"),
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

#[test]
fn a_node_that_cannot_join_says_why_and_ends() {
    let program = flights();
    // Nobody listens where somebody did.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    program.fails(&["node", "--join", &free], 1, &["cannot join through", &free, "help:"]);
    program.fails(&["nodes", "--address", &free], 1, &["cannot join through", &free]);
    program.fails(&["node", "--join", "nowhere"], 2, &["node.join", "HOST:PORT", "got `nowhere`"]);
    // Somebody else listens there.
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff", b""] {
        let stranger = Stranger::answering(answer);
        program.fails(&["node", "--join", &stranger.0], 1, &["cannot join through", &stranger.0]);
    }
    assert!(!Path::new(&program.directory().join(".afflux/dev.json")).exists());
}

/// A port that answers everything with the same bytes; with none it takes connections and says nothing.
struct Stranger(String);

impl Stranger {
    fn answering(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for mut socket in listener.incoming().map_while(Result::ok) {
                if answer.is_empty() {
                    silent.push(socket);
                } else {
                    let mut heard = [0; 8];
                    let _heard = socket.read(&mut heard);
                    let _gone = socket.write_all(answer);
                }
            }
        });
        Self(address)
    }
}
