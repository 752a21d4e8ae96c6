//! How two nodes agree: first byte, preface, HELLO and WELCOME.
//!
//! Pure decisions; who reads and writes the bytes, and for how long, is the link's business (five seconds each, see
//! [`FIRST_BYTE_MS_MAX`](crate::limits::FIRST_BYTE_MS_MAX) and [`HELLO_MS_MAX`](crate::limits::HELLO_MS_MAX)).

use serde::{Deserialize, Serialize};

use crate::error::WireError;
use crate::id::{Incarnation, NodeId};
use crate::limits::Limits;
use crate::status::{Code, Executed, Status};
use crate::text;

/// The major version that this crate speaks. Majors do not talk to each other.
pub const PROTOCOL_MAJOR: u8 = 1;

/// The minor versions of it that this crate speaks.
pub const PROTOCOL_MINORS: (u8, u8) = (0, 0);

/// First byte of the native preface: never used by MessagePack.
pub const PREFACE_FIRST: u8 = 0xc1;

/// What the first byte of a connection says that the client speaks.
///
/// ```
/// use afflux_wire::handshake::{FirstByte, first_byte};
///
/// assert_eq!(first_byte(0x16), FirstByte::Tls);
/// assert_eq!(first_byte(b'G'), FirstByte::Http);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FirstByte {
    /// A TLS ClientHello: do the handshake, then decide again inside.
    Tls,
    /// Our preface.
    Native,
    /// An array of the public MessagePack-RPC specification.
    MessagePackRpc,
    /// A method of HTTP: to be answered 426 with the admin port's address.
    Http,
    /// Nothing that is served here.
    Garbage,
}

impl FirstByte {
    /// The word for a metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Native => "native",
            Self::MessagePackRpc => "msgpack_rpc",
            Self::Http => "http",
            Self::Garbage => "garbage",
        }
    }
}

/// Decides by the first byte of a connection.
#[must_use]
pub const fn first_byte(byte: u8) -> FirstByte {
    match byte {
        0x16 => FirstByte::Tls,
        PREFACE_FIRST => FirstByte::Native,
        0x90..=0x9f | 0xdc | 0xdd => FirstByte::MessagePackRpc,
        // GET, POST, PUT, PATCH, PRI, HEAD, DELETE, OPTIONS, TRACE, CONNECT
        b'G' | b'P' | b'H' | b'D' | b'O' | b'T' | b'C' => FirstByte::Http,
        _ => FirstByte::Garbage,
    }
}

/// The eight bytes that the dialler sends before its HELLO: `C1 41 46 58 major minor flags 00`.
///
/// ```
/// use afflux_wire::handshake::Preface;
///
/// let bytes = Preface::CURRENT.to_bytes();
/// assert_eq!(bytes, [0xc1, b'A', b'F', b'X', 1, 0, 0, 0]);
/// assert_eq!(Preface::from_bytes(bytes).unwrap(), Preface::CURRENT);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// Major version of the dialler.
    pub major: u8,
    /// Highest minor version of the dialler.
    pub minor: u8,
    /// None is defined; a receiver ignores those that it does not know.
    pub flags: u8,
}

impl Preface {
    /// Bytes of a preface.
    pub const BYTES: usize = 8;

    /// What this crate sends.
    pub const CURRENT: Self = Self { major: PROTOCOL_MAJOR, minor: PROTOCOL_MINORS.1, flags: 0 };

    /// The bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        [PREFACE_FIRST, b'A', b'F', b'X', self.major, self.minor, self.flags, 0]
    }

    /// Reads the bytes. The version is not judged here: another major gets a REJECT that names both sides.
    ///
    /// # Errors
    /// [`WireError::BadPreface`].
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Result<Self, WireError> {
        match bytes {
            [PREFACE_FIRST, b'A', b'F', b'X', major, minor, flags, 0] => Ok(Self { major, minor, flags }),
            got => Err(WireError::BadPreface { got }),
        }
    }
}

/// The versions that a side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// The major version.
    pub major: u8,
    /// The lowest minor version.
    pub minor_min: u8,
    /// The highest minor version.
    pub minor_max: u8,
}

impl ProtocolRange {
    /// What this crate speaks.
    pub const CURRENT: Self =
        Self { major: PROTOCOL_MAJOR, minor_min: PROTOCOL_MINORS.0, minor_max: PROTOCOL_MINORS.1 };
}

impl Default for ProtocolRange {
    fn default() -> Self {
        Self::CURRENT
    }
}

impl std::fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { major, minor_min, minor_max } = self;
        if minor_min == minor_max {
            write!(f, "{major}.{minor_max}")
        } else {
            write!(f, "{major}.{minor_min} to {major}.{minor_max}")
        }
    }
}

/// What a connection of a link is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Calls, credits, membership.
    #[default]
    Control,
    /// Batches and chunks.
    Data,
}

/// A method of an offered service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodOffer {
    /// Its name within the service.
    pub name: String,
    /// Fingerprint of its schema; equal ones need no comparison.
    pub fingerprint: u64,
    /// The number that stands for `service/name` in REQUEST and NOTIFY on this link; 0 for none.
    pub number: u32,
}

/// A service that a node offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceOffer {
    /// Its name, `shop.orders`.
    pub name: String,
    /// Its version, `1.2`.
    pub version: String,
    /// Its methods.
    pub methods: Vec<MethodOffer>,
}

/// What the dialler says of itself. A map on the wire: unknown keys are skipped and absent ones have defaults, so that
/// even a peer of another major version can be told, by name, why it is refused.
///
/// ```
/// use afflux_wire::handshake::{Hello, LocalIdentity, negotiate};
///
/// let local = LocalIdentity { cluster: "prod".into(), ..LocalIdentity::default() };
/// let hello = Hello { cluster: "prod".into(), ..Hello::default() };
/// assert_eq!(negotiate(&hello, &local), Ok(0));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The versions it speaks.
    pub protocol: ProtocolRange,
    /// The cluster it belongs to.
    pub cluster: String,
    /// Its name.
    pub node: NodeId,
    /// Which life of that name.
    pub incarnation: Incarnation,
    /// Pairs the two connections of a link.
    pub link_id: u64,
    /// What this connection is for.
    pub role: Role,
    /// Version of the application, for people.
    pub build: String,
    /// Hash of the executable: exchange batches need equal ones.
    pub build_fingerprint: u64,
    /// Where others can dial it, `host:port`; empty for a client that does not listen.
    pub address: String,
    /// The cluster's shared secret, where one is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What it accepts.
    pub limits: Limits,
    /// It sends something at least this often; after three such times of silence the link is lost.
    pub keepalive_ms: u32,
    /// Optional parts of the protocol that it knows.
    pub features: Vec<String>,
    /// What it serves.
    pub services: Vec<ServiceOffer>,
}

/// Default of [`Hello::keepalive_ms`].
pub const KEEPALIVE_MS: u32 = 5_000;

impl Default for Hello {
    fn default() -> Self {
        Self {
            protocol: ProtocolRange::CURRENT,
            cluster: String::new(),
            node: NodeId::new(""),
            incarnation: Incarnation(0),
            link_id: 0,
            role: Role::Control,
            build: String::new(),
            build_fingerprint: 0,
            address: String::new(),
            token: None,
            limits: Limits::default(),
            keepalive_ms: KEEPALIVE_MS,
            features: Vec::new(),
            services: Vec::new(),
        }
    }
}

/// What the acceptor answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Welcome {
    /// The minor version that both speak from now on.
    pub minor: u8,
    /// The acceptor, as a HELLO would say it; `link_id` and `role` are the dialler's.
    pub hello: Hello,
}

/// What a node knows of itself when it judges a HELLO.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalIdentity {
    /// The versions it speaks.
    pub protocol: ProtocolRange,
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub node: NodeId,
    /// Version of the application.
    pub build: String,
    /// The cluster's shared secret; `None` accepts anybody.
    pub token: Option<String>,
}

impl Default for LocalIdentity {
    fn default() -> Self {
        Self {
            protocol: ProtocolRange::CURRENT,
            cluster: String::new(),
            node: NodeId::new(""),
            build: String::new(),
            token: None,
        }
    }
}

impl std::fmt::Debug for LocalIdentity {
    /// Keeps the secret out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalIdentity")
            .field("protocol", &self.protocol)
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("build", &self.build)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .finish()
    }
}

/// Judges a HELLO: the minor version to speak, or the error that goes into REJECT.
///
/// The order is major, minor, cluster, token: what is judged first makes the later comparisons meaningful.
///
/// # Errors
/// `FAILED_PRECONDITION` for versions without overlap and for another cluster, `UNAUTHENTICATED` for a missing or
/// wrong token. Each text names both sides and the cure, and never a token.
pub fn negotiate(hello: &Hello, local: &LocalIdentity) -> Result<u8, Status> {
    let (theirs, ours) = (hello.protocol, local.protocol);
    let peer = format!("peer {}", side(hello.node.as_str(), &hello.build));
    let this = format!("this node {}", side(local.node.as_str(), &local.build));
    if theirs.major != ours.major {
        return Err(Status::precondition(format!(
            "{peer} speaks protocol {theirs}, {this} speaks {ours}: majors do not talk to each other, run one major in a cluster"
        )));
    }
    let minor = theirs.minor_max.min(ours.minor_max);
    if minor < theirs.minor_min.max(ours.minor_min) {
        return Err(Status::precondition(format!(
            "{peer} speaks protocol {theirs}, {this} speaks {ours}: no minor version in common, upgrade the older one first"
        )));
    }
    if hello.cluster != local.cluster {
        return Err(Status::precondition(format!(
            "{peer} belongs to cluster `{}`, {this} to cluster `{}`: set the same cluster on both, or correct the address",
            shorten(&hello.cluster),
            local.cluster
        )));
    }
    let Some(expected) = &local.token else {
        return Ok(minor);
    };
    let fault = match &hello.token {
        Some(token) if equal_in_constant_time(token.as_bytes(), expected.as_bytes()) => {
            return Ok(minor);
        }
        Some(_) => "a token that is not the one",
        None => "no token, but one is what",
    };
    Err(Status::new(
        Code::Unauthenticated,
        format!(
            "{peer} sent {fault} {this} of cluster `{}` expects: set the same token on both",
            local.cluster
        ),
    )
    .executed(Executed::No))
}

/// `orders-7 (build 1.4.2)`.
fn side(node: &str, build: &str) -> String {
    let node = if node.is_empty() { "without a name" } else { shorten(node) };
    if build.is_empty() { node.to_owned() } else { format!("{node} (build {})", shorten(build)) }
}

/// A peer's text in an error: not longer than this.
const TEXT_BYTES_MAX: usize = 128;

fn shorten(text: &str) -> &str {
    text::shorten(text, TEXT_BYTES_MAX)
}

/// Takes as long for a wrong first byte as for a wrong last one. The length is no secret.
#[must_use]
pub fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && std::hint::black_box(a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn local() -> LocalIdentity {
        LocalIdentity {
            protocol: ProtocolRange { major: 1, minor_min: 2, minor_max: 5 },
            cluster: "prod".into(),
            node: "orders-7".into(),
            build: "1.4.2".into(),
            token: Some("secret-of-prod".into()),
        }
    }

    fn hello() -> Hello {
        Hello {
            protocol: ProtocolRange { major: 1, minor_min: 0, minor_max: 3 },
            cluster: "prod".into(),
            node: "billing-2".into(),
            build: "1.3.0".into(),
            token: Some("secret-of-prod".into()),
            ..Hello::default()
        }
    }

    fn assert_names(status: &Status, code: Code, words: &[&str]) {
        assert_eq!((status.code, status.was_executed()), (code, Executed::No));
        for word in words {
            assert!(status.message.contains(word), "`{}` lacks `{word}`", status.message);
        }
        assert!(!status.message.contains("secret"), "`{}` tells the token", status.message);
    }

    #[test]
    fn the_highest_common_minor_wins() {
        assert_eq!(negotiate(&hello(), &local()), Ok(3));
        let newer = Hello { protocol: ProtocolRange { major: 1, minor_min: 5, minor_max: 9 }, ..hello() };
        assert_eq!(negotiate(&newer, &local()), Ok(5));
    }

    #[test]
    fn another_major_is_refused_by_naming_both_sides() {
        let other = Hello { protocol: ProtocolRange { major: 2, minor_min: 0, minor_max: 1 }, ..hello() };
        let status = negotiate(&other, &local()).unwrap_err();
        assert_names(
            &status,
            Code::FailedPrecondition,
            &["billing-2", "1.3.0", "2.0 to 2.1", "orders-7", "1.4.2", "1.5"],
        );
    }

    #[test]
    fn minors_without_overlap_are_refused() {
        let older = Hello { protocol: ProtocolRange { major: 1, minor_min: 0, minor_max: 1 }, ..hello() };
        let status = negotiate(&older, &local()).unwrap_err();
        assert_names(
            &status,
            Code::FailedPrecondition,
            &["billing-2", "1.0 to 1.1", "orders-7", "1.2 to 1.5", "upgrade"],
        );
    }

    #[test]
    fn another_cluster_is_refused_by_naming_both_sides() {
        let status = negotiate(&Hello { cluster: "staging".into(), ..hello() }, &local()).unwrap_err();
        assert_names(&status, Code::FailedPrecondition, &["billing-2", "staging", "orders-7", "prod"]);
    }

    #[test]
    fn a_bad_token_is_refused_without_telling_one() {
        for token in [None, Some(String::new()), Some("secret-of-proD".into()), Some("secret".into())] {
            let status = negotiate(&Hello { token, ..hello() }, &local()).unwrap_err();
            assert_names(&status, Code::Unauthenticated, &["billing-2", "orders-7", "token", "prod"]);
        }
        assert!(!format!("{:?}", local()).contains("secret"));
    }

    #[test]
    fn a_node_without_a_token_accepts_any() {
        assert!(negotiate(&hello(), &LocalIdentity { token: None, ..local() }).is_ok());
    }

    #[test]
    fn a_hello_of_a_later_version_is_understood() {
        let json = serde_json::json!({"cluster": "prod", "protocol": {"major": 9, "minor_min": 0, "minor_max": 0, "x": 1},
            "limits": {"frame_bytes_max": 5, "new_max": 1}, "later": {"a": [1]}});
        let hello: Hello = codec::from_slice(&codec::to_named(&json).unwrap()).unwrap();
        assert_eq!((hello.protocol.major, hello.limits.frame_bytes_max), (9, 5));
        assert_eq!(hello.limits.depth_max, Limits::default().depth_max);
    }

    #[test]
    fn hello_and_welcome_come_back() {
        let service = ServiceOffer {
            name: "shop.orders".into(),
            version: "1.2".into(),
            methods: vec![MethodOffer { name: "Place".into(), fingerprint: u64::MAX, number: 1 }],
        };
        let hello =
            Hello { services: vec![service], features: vec!["x".into()], role: Role::Data, ..hello() };
        let bytes = codec::to_named(&hello).unwrap();
        assert_eq!(codec::from_slice::<Hello>(&bytes).unwrap(), hello);
        let welcome = Welcome { minor: 3, hello };
        assert_eq!(codec::from_slice::<Welcome>(&codec::to_named(&welcome).unwrap()).unwrap(), welcome);
    }

    #[test]
    fn the_first_byte_decides() {
        let expected = |byte: u8| match byte {
            0x16 => FirstByte::Tls,
            0xc1 => FirstByte::Native,
            0x90..=0x9f | 0xdc | 0xdd => FirstByte::MessagePackRpc,
            _ if ["GET", "POST", "PUT", "PRI", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH"]
                .iter()
                .any(|method| method.as_bytes()[0] == byte) =>
            {
                FirstByte::Http
            }
            _ => FirstByte::Garbage,
        };
        for byte in 0..=255 {
            assert_eq!(first_byte(byte), expected(byte), "{byte:02x}");
        }
    }

    #[test]
    fn a_wrong_preface_is_refused_in_every_byte_that_is_fixed() {
        for at in [0, 1, 2, 3, 7] {
            let mut bytes = Preface::CURRENT.to_bytes();
            bytes[at] ^= 1;
            assert_eq!(Preface::from_bytes(bytes), Err(WireError::BadPreface { got: bytes }));
        }
        assert_eq!(
            Preface::from_bytes([0xc1, b'A', b'F', b'X', 9, 8, 7, 0]).map(|p| (p.major, p.minor, p.flags)),
            Ok((9, 8, 7))
        );
    }
}
