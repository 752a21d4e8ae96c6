//! Spans of a node's process at a collector, which here is a socket that reads OTLP over HTTP as JSON.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use serde_json::Value;

use super::{Dev, PATIENCE, fails, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Takes requests until one of their spans has this trace and is of a handler; gives the resource and it.
fn collected(listener: &TcpListener) -> (Value, Value) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut bytes, mut part) = (Vec::new(), [0; 4_096]);
        let body: Value = loop {
            let n = socket.read(&mut part).unwrap();
            assert!(n > 0, "half a request: {}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&part[..n]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n")
                && let Ok(body) = serde_json::from_str(body)
            {
                assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
                break body;
            }
        };
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        let exported = &body["resourceSpans"][0];
        let spans = exported["scopeSpans"][0]["spans"].as_array().unwrap();
        if let Some(span) = spans.iter().find(|span| span["traceId"] == TRACE && span["kind"] == 2) {
            return (exported["resource"].clone(), span.clone());
        }
    }
    panic!("no span of the handler was exported");
}

fn http(address: &str, request: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

pub(super) fn a_call_over_http_reaches_a_collector_as_spans_of_its_trace() {
    let dir = tempfile::tempdir().unwrap();
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("trace.otlp_endpoint=http://{}", collector.local_addr().unwrap());
    let node =
        Dev::start(dir.path(), &["--log-format", "json", "node", "--set", "node.id=n1", "--set", &endpoint]);
    let started = json(node.until("node started").last().unwrap());
    let admin = started["admin"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let body = r#"{"name":"Ada","times":1}"#;
    let call = format!(
        "POST /rpc/test.greeter/Greet HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // The only one of its cluster: it leads as soon as it has the lock, and then it offers the service.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = http(&admin, &call);
        if answer.contains("hello Ada") {
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
    // What waits for company is sent when the process ends.
    node.signal("SIGTERM");
    let (resource, span) = collected(&collector);
    let attributes = resource["attributes"].as_array().unwrap();
    let text = |key: &str| {
        let found = attributes.iter().find(|attribute| attribute["key"] == key);
        found.unwrap_or_else(|| panic!("{key} is missing"))["value"]["stringValue"].clone()
    };
    assert_eq!((text("service.name"), text("service.instance.id")), ("greeter".into(), "n1".into()));
    // A handler is named by its actor, a client by the service.
    assert_eq!(span["name"], "greeter/Greet", "{span}");
    assert_eq!(span["parentSpanId"].as_str().map(str::len), Some(16), "{span}");
    let (code, rest) = node.end();
    assert_eq!(code, Some(0), "{rest}");
    fails(dir.path(), &["node", "--set", "trace.otlp_endpoint=c:4318"], 2, &["trace.otlp_endpoint"]);
}
