//! One trace over three nodes: every hop has the same trace id, and each span is the child of the one in front.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Once;
use std::time::Duration;

use afflux::Node;
use afflux::NodeBuilder;
use afflux::contract::Passed;
use afflux::prelude::*;
use afflux::settings::Settings;
use afflux_actor::TRACE_TARGET;
use afflux_mesh::{MemoryNetwork, Transport};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The last hop.
#[derive(Service)]
#[service(name = "test.deep", version = "1.0")]
pub enum Deep {
    /// The trace that came with the call.
    #[rpc(returns = String)]
    Trace,
    /// What came beside the trace.
    #[rpc(returns = String)]
    Passed,
}

/// The hop in front of it.
#[derive(Service)]
#[service(name = "test.middle", version = "1.0")]
pub enum Middle {
    /// Its own trace and that of the last hop.
    #[rpc(returns = Vec<String>)]
    Trace,
    /// What came beside the trace to the last hop.
    #[rpc(returns = String)]
    Passed,
}

#[derive(Actor)]
#[actor(serves(Deep))]
struct DeepActor;

#[derive(Actor)]
#[actor(serves(Middle))]
struct MiddleActor;

fn came(cx: &Cx) -> String {
    cx.meta().trace.map(|trace| trace.to_string()).unwrap_or_default()
}

impl DeepHandler for DeepActor {
    async fn trace(&mut self, cx: &mut Cx) -> Result<String, Fault> {
        Ok(came(cx))
    }
    async fn passed(&mut self, cx: &mut Cx) -> Result<String, Fault> {
        let passed = cx.meta().passed.as_deref();
        let of = |part: fn(&Passed) -> Option<&str>| passed.and_then(part).unwrap_or("-").to_owned();
        Ok(format!("{} {}", of(Passed::tracestate), of(Passed::baggage)))
    }
}

impl MiddleHandler for MiddleActor {
    async fn trace(&mut self, cx: &mut Cx) -> Result<Vec<String>, Fault> {
        let deep = cx.client::<Deep>().trace().await?;
        Ok(vec![came(cx), deep])
    }
    async fn passed(&mut self, cx: &mut Cx) -> Result<String, Fault> {
        Ok(cx.client::<Deep>().passed().await?)
    }
}

// ---- What was recorded.

type Span = BTreeMap<&'static str, String>;
static SPANS: parking_lot::Mutex<Vec<Span>> = parking_lot::Mutex::new(Vec::new());

struct Recorder;

struct Fields(Span);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, _: &tracing::Id, _: Context<'_, S>) {
        if attributes.metadata().target() == TRACE_TARGET {
            let mut fields = Fields(Span::new());
            attributes.record(&mut fields);
            SPANS.lock().push(fields.0);
        }
    }
}

fn recorded(trace: &str) -> Vec<Span> {
    let spans = SPANS.lock();
    spans.iter().filter(|span| span["trace_id"] == trace).cloned().collect()
}

// ---- Nodes.

fn node(transport: &Transport, id: &str, join: Option<&Node>, per_million: u64) -> NodeBuilder {
    let memory = matches!(transport, Transport::Memory(_));
    let settings = Settings {
        node_id: id.into(),
        node_listen: if memory { "host:0" } else { "127.0.0.1:0" }.into(),
        node_join: join.map(Node::address).unwrap_or_default(),
        node_slots: 1,
        // The node that a test begins with takes calls over HTTP.
        admin_listen: if join.is_none() { "127.0.0.1:0".into() } else { String::new() },
        drain_grace_ms: 200,
        trace_sample_per_million: per_million,
        ..Settings::default()
    };
    NodeBuilder::new(settings).transport(transport.clone()).inline()
}

fn run<F: Future<Output = Result<()>>>(test: impl FnOnce() -> F) {
    static RECORDER: Once = Once::new();
    RECORDER.call_once(|| tracing_subscriber::registry().with(Recorder).init());
    let limited =
        || async { tokio::time::timeout(Duration::from_secs(60), test()).await.expect("took over a minute") };
    afflux::actor::system(limited).unwrap().unwrap();
}

/// The `trace_id` and the `parent_id` of a header.
fn ids(header: &str) -> (String, String) {
    let parts: Vec<&str> = header.split('-').collect();
    assert_eq!((parts.len(), parts[3]), (4, "01"), "{header:?}");
    (parts[1].to_owned(), parts[2].to_owned())
}

fn middle() -> Result<MiddleActor> {
    Ok(MiddleActor)
}

fn deep() -> Result<DeepActor> {
    Ok(DeepActor)
}

async fn one_trace_over_three_nodes(transport: Transport) -> Result<()> {
    let a = node(&transport, "a", None, 1_000_000).start().await?;
    // Only the node where a call begins decides: the others sample nothing by themselves.
    let b = node(&transport, "b", Some(&a), 0).service("middle", middle).start().await?;
    let c = node(&transport, "c", Some(&a), 0).service("deep", deep).start().await?;
    b.ready().await;
    c.ready().await;
    let headers = a.client::<Middle>().trace().await?;
    let ((trace, first), (same, second)) = (ids(&headers[0]), ids(&headers[1]));
    assert_eq!(trace, same);
    let spans = recorded(&trace);
    let by_id = |id: &str| spans.iter().find(|span| span["span_id"] == id).unwrap_or_else(|| panic!("{id}"));
    // Upwards from the last call: client at b, handler at b, client at a, nothing above.
    let (client, root) = (by_id(&second), by_id(&first));
    assert_eq!((client["kind"].as_str(), client["rpc"].as_str()), ("client", "test.deep/Trace"));
    let handler = by_id(&client["parent_id"]);
    assert_eq!(handler["kind"], "server");
    assert_eq!(handler["parent_id"], root["span_id"]);
    assert_eq!((root["kind"].as_str(), root["parent_id"].as_str()), ("client", "0000000000000000"));
    let of = |kind: &str| spans.iter().filter(|span| span["kind"] == kind).count();
    assert_eq!((of("client"), of("queue"), of("server")), (2, 2, 2), "{spans:#?}");
    // Begun at a node that samples nothing: nothing travels.
    assert_eq!(b.client::<Middle>().trace().await?, ["", ""]);
    for node in [c, b, a] {
        node.close().await;
    }
    Ok(())
}

#[test]
fn a_call_over_three_nodes_is_one_trace_in_memory() {
    run(|| one_trace_over_three_nodes(Transport::Memory(MemoryNetwork::default())));
}

#[test]
fn a_call_over_three_nodes_is_one_trace_over_tcp() {
    run(|| one_trace_over_three_nodes(Transport::Tcp));
}

async fn headers_over_three_nodes(transport: Transport) -> Result<()> {
    let a = node(&transport, "a", None, 0).start().await?;
    let b = node(&transport, "b", Some(&a), 0).service("middle", middle).start().await?;
    let c = node(&transport, "c", Some(&a), 0).service("deep", deep).start().await?;
    b.ready().await;
    c.ready().await;
    let address = a.admin_address().unwrap();
    let ask = |headers: String| async move {
        let request = format!(
            "POST /rpc/test.middle/Passed HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\
             Content-Type: application/json\r\n{headers}\r\n{{}}"
        );
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut socket, &mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    // Through an actor on the second node, whose own call goes to the third; a header twice is one.
    let both = "tracestate: vendor=7\r\nbaggage: user=42\r\nbaggage: plan=gold\r\n".to_owned();
    assert_eq!(ask(both).await, "\"vendor=7 user=42,plan=gold\"");
    assert_eq!(ask(String::new()).await, "\"- -\"");
    let long = format!("tracestate: {}\r\nbaggage: a=1\r\n", "x".repeat(513));
    assert_eq!(ask(long).await, "\"- a=1\"");
    for node in [c, b, a] {
        node.close().await;
    }
    Ok(())
}

#[test]
fn tracestate_and_baggage_go_over_every_hop_in_memory() {
    run(|| headers_over_three_nodes(Transport::Memory(MemoryNetwork::default())));
}

#[test]
fn tracestate_and_baggage_go_over_every_hop_over_tcp() {
    run(|| headers_over_three_nodes(Transport::Tcp));
}
