//! The dashboard over HTTP: the page, its stream, what it asks, what it changes and who may.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use afflux::prelude::*;
use afflux::settings::{Layers, Settings};
use afflux::stream::generate;
use afflux::{App, Node};
use afflux_mesh::{MemoryNetwork, Transport};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Streams that are open at once, as the dashboard bounds them.
const LISTENERS_MAX: usize = 64;

/// Longer than any test.
fn endless(flow: &Flow) -> Result<()> {
    flow.source("numbers", generate(u64::MAX / 2, |i| i)).untimed().filter(|x| x % 2 == 0).count("evens");
    Ok(())
}

async fn start(id: &str, token: &str, checkpoints: Option<&Path>) -> Result<Node> {
    let settings = Settings {
        node_id: id.into(),
        node_listen: "host:0".into(),
        node_slots: 1,
        admin_listen: "127.0.0.1:0".into(),
        admin_hosts: vec!["ops.example".into()],
        drain_grace_ms: 100,
        token: token.into(),
        pipeline_start: checkpoints.map(|_| "endless=1".to_owned()).into_iter().collect(),
        checkpoint_dir: checkpoints.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        ..Settings::default()
    };
    let mut layers = Layers::default();
    layers.flag("--token", "token", token)?;
    let transport = Transport::Memory(MemoryNetwork::default());
    let app = App::new("numbers").pipeline("endless", endless);
    let node = app.node(settings).origins(&layers).transport(transport).inline().start().await?;
    node.ready().await;
    Ok(node)
}

fn run<F: Future<Output = Result<()>>>(test: impl FnOnce() -> F) {
    let limited =
        || async { tokio::time::timeout(Duration::from_secs(60), test()).await.expect("took over a minute") };
    afflux::actor::system(limited).unwrap().unwrap();
}

/// Status, head and body.
async fn ask(at: SocketAddr, request: &str, more: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{more}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

async fn json(at: SocketAddr, path: &str) -> Value {
    let (status, _, body) = ask(at, &format!("GET /api/v1/{path}"), "").await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// A stream that is open, after its head; its status.
async fn open(at: SocketAddr) -> (TcpStream, u16) {
    let mut socket = TcpStream::connect(at).await.unwrap();
    socket.write_all(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    socket.read_exact(&mut start).await.unwrap();
    let status = std::str::from_utf8(&start[9..]).unwrap().parse().unwrap();
    (socket, status)
}

/// Reads until a picture is as it should be.
async fn picture(socket: &mut TcpStream, fits: impl Fn(&Value) -> bool) -> Value {
    let mut seen = Vec::new();
    loop {
        let mut part = [0; 16_384];
        let read = socket.read(&mut part).await.unwrap();
        assert!(read > 0, "the stream ended");
        seen.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        // The chunks of HTTP end lines with CRLF, events with LF alone.
        let joined: String =
            text.split("\r\n").filter(|line| !line.chars().all(|c| c.is_ascii_hexdigit())).collect();
        for event in joined.split("event: picture\n").skip(1) {
            let Some((data, _)) = event.split_once("\n\n") else { continue };
            let value: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            if fits(&value) {
                return value;
            }
        }
    }
}

#[test]
fn the_page_and_its_files_have_a_policy_and_tags_and_are_kept_by_their_hash() {
    run(|| async {
        let node = start("a", "", None).await?;
        let at = node.admin_address().unwrap();
        let (status, head, page) = ask(at, "GET /", "").await;
        assert_eq!(status, 200);
        for part in [
            "content-type: text/html",
            "content-security-policy: default-src 'none'; script-src 'self'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-cache",
        ] {
            assert!(head.contains(part), "{part} is missing in {head}");
        }
        assert!(!head.contains("unsafe"), "{head}");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let (status, _, body) = ask(at, "GET /", &format!("If-None-Match: {tag}\r\n")).await;
        assert_eq!((status, body.as_str()), (304, ""));
        let mut loaded = 0;
        for file in page.split("=\"assets/").skip(1).filter_map(|rest| rest.split('"').next()) {
            let (status, head, body) = ask(at, &format!("GET /assets/{file}"), "").await;
            assert_eq!(status, 200, "{file}");
            assert!(head.contains("immutable") && head.contains("etag: ") && !body.is_empty(), "{head}");
            loaded += 1;
        }
        assert!(loaded >= 3);
        let (status, head, _) = ask(at, "GET /assets/0000000000000000/app.js", "").await;
        assert!(status == 200 && head.contains("no-store"), "another build's address is not kept: {head}");
        assert_eq!(ask(at, "GET /assets/0000000000000000/../Cargo.toml", "").await.0, 404);
        node.close().await;
        Ok(())
    });
}

#[test]
fn the_stream_draws_the_cluster_and_is_bounded_and_a_listener_who_leaves_makes_room() {
    run(|| async {
        let dir = tempfile::tempdir()?;
        let node = start("a", "", Some(dir.path())).await?;
        let at = node.admin_address().unwrap();
        let (mut socket, status) = open(at).await;
        assert_eq!(status, 200);
        let busy = |picture: &Value| picture["jobs"][0]["in_rate"].as_f64().is_some_and(|rate| rate > 0.0);
        let seen = picture(&mut socket, busy).await;
        assert_eq!((&seen["leader"], &seen["nodes"][0]["id"]), (&Value::from("a"), &Value::from("a")));
        assert_eq!(seen["jobs"][0]["pipeline"], "endless");
        assert!(seen["jobs"][0]["operators"].as_array().unwrap().len() >= 2, "{}", seen["jobs"][0]);
        assert!(seen["health"]["text"].as_str().unwrap().contains('.'));
        let joined = |event: &Value| event["text"].as_str().unwrap().starts_with("a has joined");
        assert!(seen["events"].as_array().unwrap().iter().any(joined), "{}", seen["events"]);

        let mut all = vec![socket];
        while all.len() < LISTENERS_MAX {
            let (socket, status) = open(at).await;
            assert_eq!(status, 200, "stream {}", all.len());
            all.push(socket);
        }
        assert_eq!(open(at).await.1, 429, "one more than the bound");
        drop(all);
        let mut again = open(at).await;
        for _ in 0..600 {
            if again.1 == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            again = open(at).await;
        }
        assert_eq!(again.1, 200, "those who left are forgotten");
        picture(&mut again.0, |_| true).await;
        drop(again);
        node.close().await;
        Ok(())
    });
}

#[test]
fn a_job_is_changed_by_who_has_the_token_and_never_by_a_page_of_another_site() {
    run(|| async {
        let dir = tempfile::tempdir()?;
        let node = start("a", "secret", Some(dir.path())).await?;
        let at = node.admin_address().unwrap();
        let job = loop {
            if let (200, _, body) = ask(at, "GET /api/v1/jobs/overview", "").await
                && let Ok(told) = serde_json::from_str::<Value>(&body)
                && told["jobs"][0]["state"] == "RUNNING"
            {
                break told["jobs"][0]["jid"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let post = format!("POST /api/v1/jobs/{job}/savepoints");
        let kind = "Content-Type: application/json\r\nContent-Length: 0\r\n";
        let token = "Authorization: Bearer secret\r\n";
        for (status, more) in [
            (401, kind.to_owned()),
            (401, format!("{kind}Authorization: Bearer wrong\r\n")),
            (403, format!("{kind}{token}Sec-Fetch-Site: cross-site\r\n")),
            (403, format!("{kind}{token}Origin: http://evil.example\r\n")),
            (400, format!("{token}Content-Type: text/plain\r\nContent-Length: 0\r\n")),
        ] {
            let (got, _, body) = ask(at, &post, &more).await;
            assert_eq!(got, status, "{more}: {body}");
        }
        assert_eq!(
            json(at, &format!("jobs/{job}/checkpoints")).await["counts"]["total"],
            0,
            "nothing was begun"
        );
        let own = format!("{kind}{token}Sec-Fetch-Site: same-origin\r\nOrigin: http://{at}\r\n");
        let (status, _, body) = ask(at, &post, &own).await;
        assert_eq!(status, 200, "{body}");
        let kept: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(kept["status"]["id"], "COMPLETED");
        let told = json(at, &format!("jobs/{job}/checkpoints")).await;
        assert_eq!(told["latest"]["savepoint"]["id"], kept["checkpoint"]["epoch"]);
        assert!(told["latest"]["savepoint"]["state_size"].as_u64().unwrap() > 0, "{told}");

        let (status, _, body) = ask(at, &format!("POST /api/v1/jobs/{job}/cancel"), &own).await;
        assert_eq!(status, 200, "{body}");
        let events = json(at, "events").await;
        let cancelled = |event: &Value| event["text"].as_str().unwrap().contains("is cancelled");
        assert!(events.as_array().unwrap().iter().any(cancelled), "{events}");
        node.close().await;
        Ok(())
    });
}

#[test]
fn without_a_token_a_job_is_changed_from_this_machine_by_its_own_names_alone() {
    run(|| async {
        let node = start("a", "", None).await?;
        let at = node.admin_address().unwrap();
        let kind = "Content-Type: application/json\r\nContent-Length: 0\r\n";
        let (status, _, body) = ask(at, "POST /api/v1/jobs/none/cancel", kind).await;
        assert!(status == 404 || status == 500, "it came to the coordinator: {status} {body}");
        let mut socket = TcpStream::connect(at).await?;
        let strange = format!(
            "POST /api/v1/jobs/none/cancel HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n{kind}\r\n"
        );
        socket.write_all(strange.as_bytes()).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        assert!(text.starts_with("HTTP/1.1 403") && text.contains("rebound.example"), "{text}");
        node.close().await;
        Ok(())
    });
}

#[test]
fn what_it_shows_is_read_by_its_own_names_and_by_others_with_a_token_alone() {
    run(|| async {
        let asked = async |at: SocketAddr, host: &str, more: &str| {
            let mut socket = TcpStream::connect(at).await.unwrap();
            let head =
                format!("GET /api/v1/nodes HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
            let mut text = String::new();
            socket.read_to_string(&mut text).await.unwrap();
            text
        };
        let node = start("a", "", None).await?;
        let at = node.admin_address().unwrap();
        for own in [at.to_string(), format!("localhost:{}", at.port()), "ops.example".to_owned()] {
            let told = asked(at, &own, "").await;
            assert!(told.starts_with("HTTP/1.1 200"), "{own}: {told}");
        }
        // A page of another site whose name was made to lead here: its browser says that name.
        let told = asked(at, "rebound.example", "").await;
        assert!(told.starts_with("HTTP/1.1 403") && told.contains("admin.hosts"), "{told}");
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(b"GET /api/v1/stream HTTP/1.1\r\nHost: rebound.example\r\n\r\n").await?;
        let mut start_of = [0; 12];
        stream.read_exact(&mut start_of).await?;
        assert_eq!(&start_of[9..], b"403");
        node.close().await;

        let node = start("b", "secret", None).await?;
        let at = node.admin_address().unwrap();
        assert!(asked(at, "localhost", "").await.starts_with("HTTP/1.1 200"));
        assert!(asked(at, "rebound.example", "").await.starts_with("HTTP/1.1 401"));
        assert!(
            asked(at, "rebound.example", "Authorization: Bearer wrong\r\n").await.starts_with("HTTP/1.1 401")
        );
        assert!(
            asked(at, "rebound.example", "Authorization: Bearer secret\r\n")
                .await
                .starts_with("HTTP/1.1 200")
        );
        node.close().await;
        Ok(())
    });
}

#[test]
fn a_node_is_drained_by_who_has_the_token_and_the_last_one_is_not() {
    run(|| async {
        let node = start("a", "secret", None).await?;
        let at = node.admin_address().unwrap();
        let kind = "Content-Type: application/json\r\nContent-Length: 0\r\n";
        let token = "Authorization: Bearer secret\r\n";
        for (path, more, status, told) in [
            ("a", kind.to_owned(), 401, "token"),
            ("a", format!("{kind}{token}Sec-Fetch-Site: cross-site\r\n"), 403, "another site"),
            ("b", format!("{kind}{token}"), 404, "no node `b`"),
            ("a", format!("{kind}{token}"), 400, "the only node that is ready"),
        ] {
            let (got, _, body) = ask(at, &format!("POST /api/v1/nodes/{path}/drain"), &more).await;
            assert!(got == status && body.contains(told), "{path} {more}: {got} {body}");
        }
        assert_eq!(json(at, "nodes").await[0]["state"], "ready", "nothing has begun");
        node.close().await;
        Ok(())
    });
}

#[test]
fn every_address_of_the_document_is_served_and_settings_show_no_secret() {
    run(|| async {
        let node = start("a", "hunter2", None).await?;
        let at = node.admin_address().unwrap();
        let document = json(at, "openapi.json").await;
        let mut asked = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            let Some(path) = path.strip_prefix("/api/v1/").filter(|path| *path != "stream") else { continue };
            let path = path
                .replace("{job}", "none")
                .replace("{operator}", "none")
                .replace("{parallelism}", "2")
                .replace("{node}", "none");
            for verb in operations.as_object().unwrap().keys() {
                let request = format!("{} /api/v1/{path}", verb.to_uppercase());
                let (status, _, body) = ask(at, &request, "").await;
                assert!(status != 405 && !body.contains("no page"), "{request}: {status} {body}");
                asked += 1;
            }
        }
        assert!(asked >= 17, "{asked} addresses");
        let settings = json(at, "settings").await;
        let token = settings.as_array().unwrap().iter().find(|row| row["name"] == "token").unwrap();
        assert_eq!((&token["value"], &token["origin"]), (&Value::from("***"), &Value::from("--token")));
        assert!(!settings.to_string().contains("hunter2"));
        let overview = json(at, "overview").await;
        assert_eq!((&overview["taskmanagers"], &overview["slots-total"]), (&Value::from(1), &Value::from(1)));
        assert!(overview["health"]["text"].as_str().unwrap().starts_with("All is well"), "{overview}");
        node.close().await;
        Ok(())
    });
}
