//! `logs` and `completions`, as they are typed.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{Dev, http, json, kill, pids, program, succeeds, text};

pub(super) fn logs_of_all_nodes_are_shown_followed_and_served_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let dev = Dev::start(at, &["dev", "--hold", "--nodes", "2"]);
    dev.until("stay up until Ctrl-C");
    let shown = succeeds(at, &["logs"]);
    for node in ["node-1", "node-2"] {
        let started = |line: &str| line.starts_with(&format!("{node} | ")) && line.contains("node started");
        assert!(shown.lines().any(started), "{node} is missing:\n{shown}");
    }
    let of_one = succeeds(at, &["logs", "node-2", "--lines", "1", "--json"]);
    let lines: Vec<_> = of_one.lines().map(json).collect();
    assert!(
        lines.len() == 1 && lines[0]["node"] == "node-2" && lines[0]["seq"].as_u64() > Some(0),
        "{of_one}"
    );
    assert!(!succeeds(at, &["logs", "--level", "error"]).contains("node started"));
    let unknown = program(at, &["logs", "node-7"]).output().unwrap();
    assert!(text(&unknown.stderr).contains("no node is named `node-7`"), "{}", text(&unknown.stderr));

    // What is written from now on comes by itself.
    let following = Dev::start(at, &["logs", "--follow", "--lines", "1"]);
    following.until("node-1 | ");
    kill("SIGTERM", pids(at)[1]);
    // The one that leaves may be gone before it is asked again; the other tells of it.
    following.until("node-2 is draining");
    following.signal("SIGINT");
    assert_eq!(following.end().0, Some(0));

    let admin = json(&std::fs::read_to_string(at.join(".afflux/dev.json")).unwrap());
    let admin = admin["nodes"][0]["admin"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let port = admin.parse().unwrap();
    assert!(http(port, "/api/v1/logs").contains("node started"));
    assert!(http(port, "/api/v1/logs/node-1").contains("\"incarnation\""));
    assert!(!http(port, "/api/v1/logs/node-1/1").contains("\"seq\":1,"), "only those behind a line");
    assert!(http(port, "/api/v1/logs/node-7").starts_with("HTTP/1.1 404"));
    assert!(http(port, "/api/v1/logs/node-1/x").starts_with("HTTP/1.1 400"));
    dev.signal("SIGINT");
    assert_eq!(dev.end().0, Some(0));
}

pub(super) fn bash_completes_commands_options_and_pipelines() {
    let dir = tempfile::tempdir().unwrap();
    let script = succeeds(dir.path(), &["completions", "bash"]);
    for (words, expected) in [
        (&["greeter", "resc"][..], "rescale"),
        (&["greeter", "logs", "--foll"], "--follow"),
        (&["greeter", "run", "end"], "endless"),
    ] {
        let typed: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let ask = format!(
            "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_greeter greeter {} {}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            typed.join(" "),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let mut bash = Command::new("bash")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        bash.stdin.take().unwrap().write_all(ask.as_bytes()).unwrap();
        let said = bash.wait_with_output().unwrap();
        let offered = text(&said.stdout);
        assert!(offered.lines().any(|word| word == expected), "{words:?}: {offered}{}", text(&said.stderr));
    }
}
