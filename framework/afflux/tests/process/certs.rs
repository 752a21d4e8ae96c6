//! Certificates made by the command line, in real processes: nodes join with them, and take new ones while they run.

use std::path::Path;

use super::{Dev, fails, json, succeeds};

/// The files that a `certs` command made.
fn made(at: &Path, args: &[&str]) -> Vec<String> {
    let files = json(&succeeds(at, &[&["--json", "certs"], args].concat()));
    files["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned()).collect()
}

pub(super) fn nodes_join_with_certificates_and_take_new_ones_while_they_run() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let first = made(at, &["init", "--node", "node-1"]);
    let of = |files: &[String], end: &str| files.iter().find(|file| file.ends_with(end)).unwrap().clone();
    let (one, client) = (of(&first, "node-1/node.toml"), of(&first, "client.toml"));
    let two = of(&made(at, &["node", "node-2"]), "node-2/node.toml");

    let start = |config: &str, more: &[&str]| {
        let args = ["--log-format", "json", "--config", config, "node", "--listen", "127.0.0.1:0"];
        Dev::start(at, &[&args, more, &["--set", "tls.reload_ms=50"]].concat())
    };
    let seed = start(&one, &[]);
    let started = seed.until("node started");
    let address = json(started.last().unwrap())["address"].as_str().unwrap().to_owned();
    let joined = start(&two, &["--join", &address]);
    joined.until("node started");

    let nodes = ["--config", &client, "nodes", "--address", &address];
    let both = || {
        let deadline = std::time::Instant::now() + super::PATIENCE;
        loop {
            let shown = succeeds(at, &nodes);
            if shown.contains("node-1") && shown.contains("node-2") {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{shown}");
        }
    };
    both();
    // One that shows no certificate is let in by nobody.
    fails(at, &["nodes", "--address", &address], 1, &[&address]);

    // A new certificate counts from the next handshake.
    made(at, &["node", "node-1", "--force"]);
    seed.until("certificates and tokens were read again");
    both();
    // One that cannot be used does not.
    std::fs::write(at.join("certs/node-1/certificate.pem"), "no certificate").unwrap();
    seed.until("the old ones stay");
    both();

    for node in [joined, seed] {
        node.signal("SIGTERM");
        let (code, rest) = node.end();
        assert_eq!(code, Some(0), "{rest}");
    }
}
