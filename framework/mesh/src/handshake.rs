//! From a fresh connection to a greeted pair: preface, HELLO, WELCOME, for both roles of both sides.

use std::io;
use std::sync::Arc;

use afflux_wire::frame::put_reject;
use afflux_wire::handshake::{Hello, Preface, Role, Welcome, negotiate};
use afflux_wire::limits::HELLO_MS_MAX;
use afflux_wire::{
    Code, Executed, Frame, Incarnation, Limits, NodeId, Stage, Status, WireError, codec, next_frame,
    put_hello, put_welcome,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

use crate::mesh::Shared;
use crate::transport::Conn;

/// Bytes of a node's name.
const NODE_BYTES_MAX: usize = 256;

/// A greeted connection, with what was read beyond its greeting.
pub(crate) struct Wire {
    pub(crate) conn: Conn,
    pub(crate) buf: BytesMut,
}

/// A greeted pair: all that a link is made of.
pub(crate) struct Greeted {
    pub(crate) hello: Hello,
    pub(crate) address: String,
    pub(crate) dialled: bool,
    pub(crate) control: Wire,
    pub(crate) data: Wire,
    /// The services that the peer was told of.
    pub(crate) services_version: u64,
}

/// Names the two connections of one dial on the side that accepts.
pub(crate) type HalfKey = (NodeId, Incarnation, u64);

fn no_connection(who: &str, error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("no link to {who}: {error}")).executed(Executed::No).stage(Stage::Connect)
}

/// Dials an address and greets whoever answers; `expected` must be its name.
///
/// `connected` is called once the peer has accepted the first connection.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    address: &str,
    expected: Option<&NodeId>,
    connected: impl FnOnce(),
) -> Result<Greeted, Status> {
    let limit = shared.config.connect_timeout;
    let who = match expected {
        Some(node) => format!("node {node} at {address}"),
        None => address.to_owned(),
    };
    let started = shared.now();
    let greeting = async {
        let services = shared.services();
        let mut hello = shared.config.hello(&shared.local_address());
        hello.services = services.offers();
        hello.link_id = shared.next_link_id();
        let mut first = shared.transport.connect(address).await.map_err(|e| no_connection(&who, e))?;
        connected();
        let (welcome, buf) = introduce(&mut first, &hello, &who).await?;
        let peer = welcome.hello;
        check_name(&peer.node).map_err(|status| no_connection(&who, status.message))?;
        if let Some(expected) = expected
            && peer.node != *expected
        {
            return Err(no_connection(
                &who,
                format!("node {} answered there: correct the address", peer.node),
            ));
        }
        let control = Wire { conn: first, buf };
        hello.role = Role::Data;
        hello.services = Vec::new();
        let mut second = shared.transport.connect(address).await.map_err(|e| no_connection(&who, e))?;
        let (second_welcome, buf) = introduce(&mut second, &hello, &who).await?;
        let other = second_welcome.hello;
        if (&other.node, other.incarnation) != (&peer.node, peer.incarnation) {
            let text = "two different nodes answered: the address is balanced, give each node its own";
            return Err(no_connection(&who, text));
        }
        Ok(Greeted {
            hello: peer,
            address: address.to_owned(),
            dialled: true,
            control,
            data: Wire { conn: second, buf },
            services_version: services.version,
        })
    };
    let greeted = timeout(limit, greeting)
        .await
        .map_err(|_| no_connection(&who, format!("no answer within {limit:?} (connect_timeout)")))?;
    if greeted.is_ok() {
        let span = shared.now().saturating_duration_since(started);
        shared.metrics.handshake_seconds.observe(span.as_secs_f64());
    }
    greeted
}

/// Says HELLO and waits for WELCOME.
async fn introduce(conn: &mut Conn, hello: &Hello, who: &str) -> Result<(Welcome, BytesMut), Status> {
    let mut out = Preface::CURRENT.to_bytes().to_vec();
    put_hello(&mut out, hello)?;
    conn.write_all(&out).await.map_err(|e| no_connection(who, e))?;
    let mut buf = BytesMut::new();
    let frame = read_frame(conn, &mut buf, &hello.limits).await.map_err(|e| no_connection(who, e))?;
    match Frame::decode(&frame).map_err(|e| no_connection(who, e))? {
        Frame::Welcome(bytes) => {
            let welcome = codec::from_slice(&bytes).map_err(|e| no_connection(who, e.message))?;
            Ok((welcome, buf))
        }
        Frame::Reject(status) => {
            let mut refused = no_connection(who, format!("refused: {}", status.message));
            refused.code = status.code;
            Err(refused)
        }
        other => Err(no_connection(who, format!("{:?} instead of WELCOME", other.kind()))),
    }
}

/// Reads one frame of a greeting, which has a limit of its own.
async fn read_frame(conn: &mut Conn, buf: &mut BytesMut, limits: &Limits) -> io::Result<Bytes> {
    let limits = Limits { frame_bytes_max: limits.hello_bytes_max, ..*limits };
    let invalid = |error: WireError| io::Error::new(io::ErrorKind::InvalidData, error);
    loop {
        if let Some(frame) = next_frame(buf, &limits).map_err(invalid)? {
            return Ok(frame);
        }
        if conn.read_buf(buf).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed during the handshake"));
        }
    }
}

/// Greets a peer whose first byte, at the front of `buf`, was that of our preface.
///
/// # Errors
/// The metric's reason and what to log. The peer has been told.
pub(crate) async fn accept(
    shared: &Arc<Shared>,
    mut conn: Conn,
    mut buf: BytesMut,
    from: &str,
) -> Result<(), (&'static str, String)> {
    let greeting = read_hello(&mut conn, &mut buf, &shared.config.limits);
    let hello = timeout(Duration::from_millis(HELLO_MS_MAX), greeting)
        .await
        .map_err(|_| ("hello_timeout", format!("no HELLO within {HELLO_MS_MAX} ms")))?
        .map_err(|error| ("hello", error.to_string()))?;
    let services = shared.services();
    let judged = negotiate(&hello, &shared.config.identity())
        .and_then(|minor| check_name(&hello.node).map(|()| minor));
    let (minor, waiting) = match judged.and_then(|minor| Ok((minor, place(shared, &hello)?))) {
        Ok(placed) => placed,
        Err(status) => {
            reject(&mut conn, &status).await;
            return Err(("rejected", status.to_string()));
        }
    };
    let mut welcome = shared.config.hello(&shared.local_address());
    // The secret goes from the one who asks to the one who checks, not back.
    welcome.token = None;
    welcome.link_id = hello.link_id;
    welcome.role = hello.role;
    if hello.role == Role::Control {
        welcome.services = services.offers();
    }
    let mut out = Vec::new();
    let written = match put_welcome(&mut out, &Welcome { minor, hello: welcome }) {
        Ok(()) => conn.write_all(&out).await.map_err(|e| ("io", e.to_string())),
        Err(status) => Err(("hello", status.to_string())),
    };
    if let (Err(_), Half::First(key, _)) = (&written, &waiting) {
        shared.halves.lock().remove(key);
    }
    written?;
    let wire = Wire { conn, buf };
    match waiting {
        Half::Second(control) => {
            // Its control half gave up meanwhile: the dialler will see that connection end.
            let _ = control.send(wire);
            Ok(())
        }
        Half::First(key, data) => {
            let data = timeout(shared.config.connect_timeout, data).await;
            shared.halves.lock().remove(&key);
            let Ok(Ok(data)) = data else {
                return Err(("half", format!("node {} opened no data connection", hello.node)));
            };
            let address = reachable(&hello.address, from);
            shared.install(Greeted {
                hello,
                address,
                dialled: false,
                control: wire,
                data,
                services_version: services.version,
            });
            Ok(())
        }
    }
}

/// Where an accepted connection belongs.
enum Half {
    /// The first of a pair: here the second will arrive.
    First(HalfKey, oneshot::Receiver<Wire>),
    /// The second: there the first waits.
    Second(oneshot::Sender<Wire>),
}

fn place(shared: &Arc<Shared>, hello: &Hello) -> Result<Half, Status> {
    let key = (hello.node.clone(), hello.incarnation, hello.link_id);
    match hello.role {
        Role::Data => match shared.halves.lock().remove(&key) {
            Some(control) => Ok(Half::Second(control)),
            None => Err(Status::precondition(format!(
                "node {} has no control connection of node {} with link id {}: dial the control \
                 connection first, and the same node",
                shared.config.node, hello.node, hello.link_id
            ))),
        },
        Role::Control => {
            shared.judge(hello)?;
            let (sender, receiver) = oneshot::channel();
            shared.halves.lock().insert(key.clone(), sender);
            Ok(Half::First(key, receiver))
        }
    }
}

async fn read_hello(conn: &mut Conn, buf: &mut BytesMut, limits: &Limits) -> io::Result<Hello> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    while buf.len() < Preface::BYTES {
        if conn.read_buf(buf).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed during the preface"));
        }
    }
    let mut preface = [0; Preface::BYTES];
    preface.copy_from_slice(&buf.split_to(Preface::BYTES));
    let preface = Preface::from_bytes(preface).map_err(|e| invalid(e.to_string()))?;
    let frame = read_frame(conn, buf, limits).await?;
    match Frame::decode(&frame).map_err(|e| invalid(e.to_string()))? {
        Frame::Hello(bytes) => {
            let mut hello: Hello = codec::from_slice(&bytes).map_err(|e| invalid(e.message))?;
            // The preface is what a peer of any version gets right.
            hello.protocol.major = preface.major;
            Ok(hello)
        }
        other => Err(invalid(format!("{:?} instead of HELLO", other.kind()))),
    }
}

/// Tells the peer why not; it has five seconds to read it.
async fn reject(conn: &mut Conn, status: &Status) {
    let mut out = Vec::new();
    if put_reject(&mut out, status).is_ok() {
        let telling = async {
            conn.write_all(&out).await?;
            conn.shutdown().await
        };
        let _ = timeout(Duration::from_millis(HELLO_MS_MAX), telling).await;
    }
}

fn check_name(node: &NodeId) -> Result<(), Status> {
    let bytes = node.as_str().len();
    if bytes == 0 || bytes > NODE_BYTES_MAX {
        return Err(Status::new(
            Code::InvalidArgument,
            format!("a node's name has 1 to {NODE_BYTES_MAX} bytes, this one has {bytes}"),
        ));
    }
    Ok(())
}

/// Where a peer can be dialled: an address without a host is that of the connection.
fn reachable(said: &str, from: &str) -> String {
    match said.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]" | "", port)) if from.contains(':') => format!("[{from}]:{port}"),
        Some(("0.0.0.0" | "[::]" | "", port)) => format!("{from}:{port}"),
        Some(_) => said.to_owned(),
        None => from.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_that_of_the_connection() {
        assert_eq!(reachable("0.0.0.0:7400", "10.0.0.5"), "10.0.0.5:7400");
        assert_eq!(reachable("[::]:7400", "fe80::1"), "[fe80::1]:7400");
        assert_eq!(reachable("orders-7:7400", "10.0.0.5"), "orders-7:7400");
        assert_eq!(reachable("", "10.0.0.5"), "10.0.0.5");
    }

    #[test]
    fn a_node_has_a_name_of_bounded_length() {
        assert!(check_name(&NodeId::new("n")).is_ok());
        assert!(check_name(&NodeId::new("")).is_err());
        assert!(check_name(&NodeId::new("n".repeat(NODE_BYTES_MAX + 1))).is_err());
    }
}
