//! From a fresh connection to a greeted pair: preface, HELLO, WELCOME, for both roles of both sides.

use std::io;
use std::sync::Arc;

use afflux_wire::contract::Identity;
use afflux_wire::frame::put_reject;
use afflux_wire::handshake::{Hello, PROTOCOL_MAJOR, Preface, ProtocolRange, Role, Welcome, negotiate};
use afflux_wire::limits::HELLO_MS_MAX;
use afflux_wire::{
    Code, Executed, Frame, Incarnation, Limits, NodeId, Stage, Status, WireError, codec, next_frame,
    put_hello, put_welcome,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

use crate::doorman::{identify, identify_dialled};
use crate::intake::Permit;
use crate::mesh::Shared;
use crate::tls::Shown;
use crate::transport::Conn;

/// How long a HELLO of another major is waited for.
const FOREIGN_HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a rejected peer that are read and thrown away.
const REJECTED_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a node's name.
const NODE_BYTES_MAX: usize = 256;

/// A greeted connection, with what was read beyond its greeting.
pub(crate) struct Wire {
    pub(crate) conn: Conn,
    pub(crate) buf: BytesMut,
    /// Its place among the connections that were accepted.
    pub(crate) permit: Option<Permit>,
}

/// A greeted pair: all that a link is made of.
pub(crate) struct Greeted {
    pub(crate) hello: Hello,
    pub(crate) address: String,
    pub(crate) dialled: bool,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) control: Wire,
    pub(crate) data: Wire,
    /// The services that the peer was told of.
    pub(crate) services_version: u64,
}

/// Names the two connections of one dial on the side that accepts.
///
/// Both connections show the same identity.
pub(crate) type HalfKey = (NodeId, Incarnation, u64, Option<Arc<str>>);

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
        let (mut first, shown) = connect(shared, address, &who).await?;
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
        let identity = identify_dialled(shared, &peer.node, shown.as_ref())
            .map_err(|status| no_connection(&who, status.message))?;
        let control = Wire { conn: first, buf, permit: None };
        hello.role = Role::Data;
        hello.services = Vec::new();
        let (mut second, shown_too) = connect(shared, address, &who).await?;
        let (second_welcome, buf) = introduce(&mut second, &hello, &who).await?;
        let other = second_welcome.hello;
        if (&other.node, other.incarnation) != (&peer.node, peer.incarnation) || shown != shown_too {
            let text = "two different nodes answered: the address is balanced, give each node its own";
            return Err(no_connection(&who, text));
        }
        Ok(Greeted {
            hello: peer,
            address: address.to_owned(),
            dialled: true,
            identity,
            control,
            data: Wire { conn: second, buf, permit: None },
            services_version: services.version,
        })
    };
    let greeted = timeout(limit, greeting)
        .await
        .map_err(|_| no_connection(&who, format!("no answer within {limit:?} (connect_timeout)")))?;
    if greeted.is_ok() {
        let span = shared.now().saturating_duration_since(started);
        shared.metrics.handshake_seconds.with_label_values(&["dial"]).observe(span.as_secs_f64());
    }
    greeted
}

/// Connects, inside TLS where that is on; the certificate that was shown.
async fn connect(shared: &Shared, address: &str, who: &str) -> Result<(Conn, Option<Shown>), Status> {
    let conn = shared.transport.connect(address).await.map_err(|error| no_connection(who, error))?;
    match shared.tls() {
        None => Ok((conn, None)),
        Some(tls) => tls.connect(conn, address).await.map_err(|error| {
            let hint = "is `tls.mode` set there too, with certificates of the same authority?";
            no_connection(who, format!("TLS: {error}; {hint}"))
        }),
    }
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
        if buf.starts_with(b"HTTP") {
            let text = "HTTP is spoken there: it may be a node's admin port, and its node port is meant";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
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
/// The metric's reason, what to log, and what the peer is to be told.
pub(crate) async fn accept(
    shared: &Arc<Shared>,
    mut conn: Conn,
    mut buf: BytesMut,
    from: &str,
    shown: Option<Shown>,
    permit: Permit,
) -> Result<(), Denied> {
    let started = shared.now();
    let hello = match hello_of(shared, &mut conn, &mut buf, from).await {
        Ok(hello) => hello,
        Err((reason, text, status)) => {
            return Err(Denied { reason, text, told: status.map(|status| (conn, status)) });
        }
    };
    let services = shared.services();
    let judged = negotiate(&hello, &shared.config.identity())
        .and_then(|minor| check_name(&hello.node).map(|()| minor))
        .and_then(|minor| Ok((minor, identify(shared, &hello, shown.as_ref())?)));
    let placed = judged.and_then(|(minor, identity)| {
        let half = place(shared, &hello, identity.as_deref())?;
        Ok((minor, half, identity))
    });
    let (minor, waiting, identity) = match placed {
        Ok(placed) => placed,
        Err(status) => {
            let reason = if status.code == Code::Unauthenticated { "unauthenticated" } else { "rejected" };
            return Err(Denied { reason, text: status.to_string(), told: Some((conn, status)) });
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
        Ok(()) => conn.write_all(&out).await.map_err(|e| Denied::silently("io", e.to_string())),
        Err(status) => Err(Denied::silently("hello", status.to_string())),
    };
    if let (Err(_), Half::First(key, _)) = (&written, &waiting) {
        shared.halves.lock().remove(key);
    }
    written?;
    let span = shared.now().saturating_duration_since(started);
    shared.metrics.handshake_seconds.with_label_values(&["accept"]).observe(span.as_secs_f64());
    let wire = Wire { conn, buf, permit: Some(permit) };
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
                let text = format!("node {} opened no data connection", hello.node);
                return Err(Denied::silently("half", text));
            };
            let address = reachable(&hello.address, from);
            shared.install(Greeted {
                hello,
                address,
                dialled: false,
                identity,
                control: wire,
                data,
                services_version: services.version,
            });
            Ok(())
        }
    }
}

/// A connection that becomes no part of a link.
pub(crate) struct Denied {
    /// The metric's reason.
    pub(crate) reason: &'static str,
    /// What to log.
    pub(crate) text: String,
    /// What to tell the peer, once the refusal is counted.
    pub(crate) told: Option<(Conn, Status)>,
}

impl Denied {
    fn silently(reason: &'static str, text: String) -> Self {
        Self { reason, text, told: None }
    }
}

/// Where an accepted connection belongs.
enum Half {
    /// The first of a pair: here the second will arrive.
    First(HalfKey, oneshot::Receiver<Wire>),
    /// The second: there the first waits.
    Second(oneshot::Sender<Wire>),
}

fn place(shared: &Arc<Shared>, hello: &Hello, identity: Option<&Identity>) -> Result<Half, Status> {
    let name = identity.map(|identity| Arc::clone(&identity.name));
    let key = (hello.node.clone(), hello.incarnation, hello.link_id, name);
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
            shared.judge(hello, identity)?;
            let (sender, receiver) = oneshot::channel();
            shared.halves.lock().insert(key.clone(), sender);
            Ok(Half::First(key, receiver))
        }
    }
}

/// Reads preface and HELLO, in time.
///
/// # Errors
/// The metric's reason, what to log, and what to tell whoever has sent our preface.
async fn hello_of(
    shared: &Shared,
    conn: &mut Conn,
    buf: &mut BytesMut,
    from: &str,
) -> Result<Hello, (&'static str, String, Option<Status>)> {
    let limit = Duration::from_millis(HELLO_MS_MAX);
    let late = |text: &str| ("hello_timeout", format!("no {text} within {limit:?}"));
    let preface = match timeout(limit, read_preface(conn, buf)).await {
        Ok(Ok(preface)) => preface,
        Ok(Err(error)) => return Err(("hello", error.to_string(), None)),
        Err(_) => {
            let (reason, text) = late("preface");
            return Err((reason, text, None));
        }
    };
    let foreign = preface.major != PROTOCOL_MAJOR;
    // Another major may greet in another way: it is not waited for as long.
    let limit = if foreign { FOREIGN_HELLO_TIMEOUT } else { limit };
    let (reason, text) = match timeout(limit, read_hello(conn, buf, &shared.config.limits)).await {
        Ok(Ok(mut hello)) => {
            // The preface is what a peer of any version gets right.
            hello.protocol.major = preface.major;
            return Ok(hello);
        }
        Ok(Err(error)) => ("hello", error.to_string()),
        Err(_) => late("HELLO"),
    };
    let this = format!("this node {} (build {})", shared.config.node, shared.config.build);
    let status = if foreign {
        Status::precondition(format!(
            "the peer at {from} speaks protocol {}.{}, {this} speaks {}: majors do not talk to each other, run one \
             major in a cluster",
            preface.major,
            preface.minor,
            ProtocolRange::CURRENT
        ))
    } else {
        Status::invalid(format!("the peer at {from} sent {this} no HELLO that it can read: {text}"))
    };
    Err((reason, text, Some(status.executed(Executed::No).stage(Stage::Connect))))
}

async fn read_preface(conn: &mut Conn, buf: &mut BytesMut) -> io::Result<Preface> {
    while buf.len() < Preface::BYTES {
        if conn.read_buf(buf).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed during the preface"));
        }
    }
    let mut preface = [0; Preface::BYTES];
    preface.copy_from_slice(&buf.split_to(Preface::BYTES));
    Preface::from_bytes(preface).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn read_hello(conn: &mut Conn, buf: &mut BytesMut, limits: &Limits) -> io::Result<Hello> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let frame = read_frame(conn, buf, limits).await?;
    match Frame::decode(&frame).map_err(|e| invalid(e.to_string()))? {
        Frame::Hello(bytes) => codec::from_slice(&bytes).map_err(|e| invalid(e.message)),
        other => Err(invalid(format!("{:?} instead of HELLO", other.kind()))),
    }
}

/// Tells the peer why not; it has five seconds to read it.
pub(crate) async fn reject(conn: &mut Conn, status: &Status) {
    let telling = async {
        tell(conn, status).await?;
        // Closing with unread bytes would reset the connection before the answer is read.
        tokio::io::copy(&mut conn.take(REJECTED_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = timeout(Duration::from_millis(HELLO_MS_MAX), telling).await;
}

/// Sends REJECT, and nothing more.
pub(crate) async fn tell(conn: &mut Conn, status: &Status) -> io::Result<()> {
    let mut out = Vec::new();
    put_reject(&mut out, status).map_err(io::Error::other)?;
    conn.write_all(&out).await?;
    conn.shutdown().await
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
