//! The door for gRPC clients, by a client that writes HTTP/2 itself: streams of both sides, TLS, tokens, rules, and
//! clients that mean harm.

#![cfg(feature = "grpc")]
#![allow(clippy::unwrap_used, missing_docs, reason = "these are tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use afflux::certs::Authority;
use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder};
use afflux_mesh::{MemoryNetwork, Transport};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// SHA-256 of `open-sesame`.
const DIGEST: &str = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";
/// As much as a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sums and talks.
#[derive(Service)]
#[service(name = "test.talk", version = "1.0")]
pub enum Talk {
    #[rpc(returns = String)]
    Greet { name: String },
    #[rpc(accepts = u32, returns = u64)]
    Sum,
    #[rpc(accepts = String, streams = String)]
    Echo,
    #[rpc(accepts = u32, returns = String)]
    Import { batch: String },
    /// Takes two items, and answers.
    #[rpc(accepts = u32, returns = u64)]
    Two,
}

#[derive(Actor)]
#[actor(serves(Talk), concurrent = 64)]
struct Talker;

impl TalkShared for Talker {
    async fn greet(&self, cx: &mut Cx, name: String) -> Result<String, Fault> {
        let who = cx.identity().map(|identity| identity.name.to_string()).unwrap_or_default();
        Ok(format!("Hello {name}{}{who}", if who.is_empty() { "" } else { ", " }))
    }
    async fn sum(&self, _: &mut Cx, mut numbers: Incoming<u32>) -> Result<u64, Fault> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += u64::from(number?);
        }
        Ok(sum)
    }
    async fn echo(
        &self,
        _: &mut Cx,
        mut texts: Incoming<String>,
        mut out: Emit<String>,
    ) -> Result<(), Fault> {
        while let Some(text) = texts.next().await {
            out.send(format!("{}!", text?)).await?;
        }
        out.finish();
        Ok(())
    }
    async fn import(&self, _: &mut Cx, batch: String, mut numbers: Incoming<u32>) -> Result<String, Fault> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(format!("{batch}: {sum}"))
    }
    async fn two(&self, _: &mut Cx, mut numbers: Incoming<u32>) -> Result<u64, Fault> {
        let mut sum = 0;
        for _ in 0..2 {
            if let Some(number) = numbers.next().await {
                sum += u64::from(number?);
            }
        }
        Ok(sum)
    }
}

fn settings() -> Settings {
    Settings {
        node_id: "n1".into(),
        node_listen: "host:0".into(),
        node_slots: 1,
        admin_listen: String::new(),
        drain_grace_ms: 200,
        grpc_listen: "127.0.0.1:0".into(),
        ..Settings::default()
    }
}

async fn node(settings: Settings) -> Result<(Node, SocketAddr)> {
    let node = NodeBuilder::new(settings)
        .transport(Transport::Memory(MemoryNetwork::default()))
        .inline()
        .service("talk", || Ok::<_, Error>(Talker))
        .start()
        .await?;
    node.ready().await;
    let address = node.grpc_address().unwrap();
    Ok((node, address))
}

/// Runs a test on a node of its own.
fn with_node<F: Future<Output = ()>>(settings: Settings, test: impl FnOnce(SocketAddr) -> F) {
    let limited = || async {
        let test = async {
            let (node, address) = node(settings).await?;
            test(address).await;
            node.close().await;
            Ok::<_, Error>(())
        };
        tokio::time::timeout(3 * PATIENCE, test).await.expect("took over a minute")
    };
    afflux::actor::system(limited).unwrap().unwrap();
}

// ---- A client.

type Client = SendRequest<Bytes>;

async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(socket: S) -> Client {
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    client
}

async fn connect(address: SocketAddr) -> Client {
    over(TcpStream::connect(address).await.unwrap()).await
}

/// A message behind its prefix.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// Field 1 as a text, or as a number below 128.
fn text(text: &str) -> Vec<u8> {
    [&[0x0A, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn number(number: u8) -> Vec<u8> {
    assert!(number < 128);
    vec![0x08, number]
}

/// A message as field `at` of another.
fn inside(at: u8, message: &[u8]) -> Vec<u8> {
    [&[at << 3 | 2, u8::try_from(message.len()).unwrap()], message].concat()
}

fn request(method: &str, more: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://n/test.talk/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// What a call came to: its messages, its status and the status' text.
#[derive(Debug)]
struct Ended {
    messages: Vec<Vec<u8>>,
    status: String,
    text: String,
}

async fn ended(response: h2::client::ResponseFuture) -> Ended {
    let response = tokio::time::timeout(PATIENCE, response).await.expect("no answer").unwrap();
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    let trailers: HeaderMap = body.trailers().await.unwrap().unwrap_or(head.headers);
    let mut messages = Vec::new();
    while bytes.len() >= 5 {
        let prefix = bytes.split_to(5);
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        messages.push(bytes.split_to(length).to_vec());
    }
    let field = |name: &str| trailers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    Ended { messages, status: field("grpc-status"), text: field("grpc-message") }
}

/// A call whose messages are all sent at once.
async fn call(client: &Client, method: &str, more: &[(&'static str, &str)], messages: &[Vec<u8>]) -> Ended {
    let mut ready = client.clone().ready().await.unwrap();
    let (response, mut body) = ready.send_request(request(method, more), false).unwrap();
    for message in messages {
        body.send_data(framed(message), false).unwrap();
    }
    body.send_data(Bytes::new(), true).unwrap();
    ended(response).await
}

fn is(ended: &Ended, status: &str, messages: &[Vec<u8>]) {
    assert_eq!((ended.status.as_str(), ended.messages.as_slice()), (status, messages), "{ended:?}");
}

// ---- Streams.

#[test]
fn a_client_streams_items_and_gets_one_answer() {
    with_node(settings(), |address| async move {
        let client = connect(address).await;
        is(&call(&client, "Greet", &[], &[text("you")]).await, "0", &[text("Hello you")]);
        is(&call(&client, "Sum", &[], &[number(3), number(4), number(5)]).await, "0", &[number(12)]);
        // No item: protobuf does not write a zero.
        is(&call(&client, "Sum", &[], &[]).await, "0", &[vec![]]);
        // The first message has the parameters, all others are items.
        let parts = [inside(1, &text("b")), inside(2, &number(1)), inside(2, &number(2))];
        is(&call(&client, "Import", &[], &parts).await, "0", &[text("b: 3")]);
        is(&call(&client, "Import", &[], &parts[..1]).await, "0", &[text("b: 0")]);
        let wrong = call(&client, "Import", &[], &parts[1..]).await;
        assert!(wrong.status == "3" && wrong.text.contains("params"), "{wrong:?}");
        let wrong = call(&client, "Import", &[], &[parts[0].clone(), parts[0].clone()]).await;
        assert!(wrong.status == "3" && wrong.text.contains("item"), "{wrong:?}");
        let wrong = call(&client, "Import", &[], &[]).await;
        assert!(wrong.status == "3" && wrong.text.contains("missing"), "{wrong:?}");
        let wrong = call(&client, "Sum", &[], &[number(3), vec![0xFF, 0xFF]]).await;
        assert_eq!(wrong.status, "3", "{wrong:?}");
    });
}

#[test]
fn a_two_way_stream_answers_each_item_before_the_next_is_sent() {
    with_node(settings(), |address| async move {
        let mut client = connect(address).await.ready().await.unwrap();
        let (response, mut body) = client.send_request(request("Echo", &[]), false).unwrap();
        body.send_data(framed(&text("a")), false).unwrap();
        let mut answers = response.await.unwrap().into_body();
        for (answer, next) in [("a!", Some("b")), ("b!", Some("c")), ("c!", None)] {
            let data = tokio::time::timeout(PATIENCE, answers.data()).await.unwrap().unwrap().unwrap();
            let _ = answers.flow_control().release_capacity(data.len());
            assert_eq!(data, framed(&text(answer)));
            match next {
                Some(next) => body.send_data(framed(&text(next)), false).unwrap(),
                None => body.send_data(Bytes::new(), true).unwrap(),
            }
        }
        assert!(answers.data().await.is_none());
        assert_eq!(answers.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn an_answer_that_does_not_wait_for_all_items_ends_the_call() {
    with_node(settings(), |address| async move {
        let client = connect(address).await;
        let mut ready = client.clone().ready().await.unwrap();
        let (response, mut body) = ready.send_request(request("Two", &[]), false).unwrap();
        for _ in 0..2 {
            body.send_data(framed(&number(4)), false).unwrap();
        }
        // Without an end of the items.
        is(&ended(response).await, "0", &[number(8)]);
        is(&call(&client, "Greet", &[], &[text("you")]).await, "0", &[text("Hello you")]);
    });
}

// ---- Who may.

#[test]
fn a_token_and_a_rule_decide_who_may_call() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, format!("support/alice:{DIGEST}\n")).unwrap();
    let settings = Settings {
        auth_tokens: tokens.to_str().unwrap().into(),
        auth_allow: vec!["support = test.talk/Greet".into(), "node/* = *".into()],
        ..settings()
    };
    with_node(settings, |address| async move {
        let client = connect(address).await;
        let with = |token: &'static str| [("authorization", token)];
        let you = [text("you")];
        assert_eq!(call(&client, "Greet", &[], &you).await.status, "16", "nobody says who it is");
        assert_eq!(call(&client, "Greet", &with("Bearer nonsense"), &you).await.status, "16");
        assert_eq!(call(&client, "Greet", &with("Basic b3Blbg=="), &you).await.status, "16");
        let alice = with("Bearer open-sesame");
        is(&call(&client, "Greet", &alice, &you).await, "0", &[text("Hello you, support/alice")]);
        assert_eq!(call(&client, "Sum", &alice, &[number(1)]).await.status, "7", "no rule allows it");
    });
}

/// A client's TLS, with a certificate of its own or without.
async fn tls(address: SocketAddr, authority: &Authority, own: Option<&str>) -> std::io::Result<Client> {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let issued = authority.issue(name, &[], 1).unwrap();
            let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    stream.flush().await?;
    Ok(over(stream).await)
}

#[test]
fn inside_mutual_tls_the_certificate_says_who_calls_and_others_are_not_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create("afflux").unwrap();
    let issued = authority.issue("node/n1", &["localhost".to_owned()], 1).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let settings = Settings {
        tls_mode: "mutual".into(),
        tls_ca: file("ca.pem", authority.certificate()),
        tls_certificate: file("node.pem", &issued.certificate),
        tls_key: file("node.key", &issued.key),
        auth_allow: vec!["support = test.talk/Greet".into(), "node/* = *".into()],
        ..settings()
    };
    with_node(settings, |address| async move {
        let alice = tls(address, &authority, Some("support/alice")).await.unwrap();
        let you = [text("you")];
        is(&call(&alice, "Greet", &[], &you).await, "0", &[text("Hello you, support/alice")]);
        assert_eq!(call(&alice, "Sum", &[], &[number(1)]).await.status, "7");
        // A certificate of somebody else's authority, none at all, and no TLS.
        let stranger = Authority::create("afflux").unwrap();
        assert!(tls(address, &stranger, Some("support/alice")).await.is_err());
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _closed = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.len() < 64, "an alert and no more: {rest:?}");
        is(&call(&alice, "Greet", &[], &you).await, "0", &[text("Hello you, support/alice")]);
    });
}

// ---- Clients that mean harm. Each costs itself something, and nobody else.

#[test]
fn a_message_that_is_too_long_cut_or_compressed_fails_its_call_alone() {
    with_node(settings(), |address| async move {
        let client = connect(address).await;
        let raw = async |bytes: Vec<u8>| {
            let mut ready = client.clone().ready().await.unwrap();
            let (response, mut body) = ready.send_request(request("Greet", &[]), false).unwrap();
            body.send_data(bytes.into(), true).unwrap();
            ended(response).await
        };
        let claim = raw([&[0][..], &u32::MAX.to_be_bytes(), b"x"].concat()).await;
        assert!(claim.status == "8" && claim.text.contains("4294967295"), "{claim:?}");
        assert_eq!(raw(vec![0, 0, 0, 0, 9, 1]).await.status, "3", "the message is cut");
        assert_eq!(raw(vec![0, 0]).await.status, "3", "its prefix is cut");
        assert_eq!(raw(vec![1, 0, 0, 0, 0]).await.status, "12", "it is compressed");
        assert_eq!(raw(vec![]).await.status, "3", "there is none");
        let two = [framed(&text("a")), framed(&text("b"))].concat();
        assert_eq!(raw(two).await.status, "3", "there is a second one");
        is(&call(&client, "Greet", &[], &[text("you")]).await, "0", &[text("Hello you")]);
    });
}

#[test]
fn bytes_that_are_no_http_2_cost_their_connection_and_nobody_elses() {
    with_node(settings(), |address| async move {
        let client = connect(address).await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let hostile: [Vec<u8>; 5] = [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xFF; 4_096],
            // A frame longer than was agreed; DATA of a stream that nobody opened; a window of nothing.
            [preface, &settings, &[0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1]].concat(),
            [preface, &settings, &[0, 0, 1, 0, 0, 0, 0, 0, 1, 7]].concat(),
            [preface, &settings, &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
        ];
        for bytes in hostile {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(&bytes).await.unwrap();
            let mut rest = Vec::new();
            let closed = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "{bytes:?} did not cost the connection");
        }
        is(&call(&client, "Greet", &[], &[text("you")]).await, "0", &[text("Hello you")]);
    });
}

#[test]
fn who_sends_nothing_is_let_go_and_a_slow_message_has_the_time_of_its_call() {
    with_node(settings(), |address| async move {
        // No preface: five seconds.
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the connection is held");
        // Half a message, and then nothing.
        let client = connect(address).await;
        for method in ["Greet", "Import"] {
            let mut ready = client.clone().ready().await.unwrap();
            let asked = request(method, &[("grpc-timeout", "200m")]);
            let (response, mut body) = ready.send_request(asked, false).unwrap();
            body.send_data(Bytes::from_static(&[0, 0, 0]), false).unwrap();
            let late = ended(response).await;
            assert!(late.status == "4" && late.text.contains("200ms"), "{method}: {late:?}");
        }
    });
}

#[test]
fn calls_beyond_the_bound_of_a_connection_are_refused_and_other_connections_have_their_own() {
    const SENT: u32 = 300;
    const TAKEN: u32 = 256;
    with_node(settings(), |address| async move {
        // A client that does not care for the bound it was told: requests whose messages never come.
        let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let head = [
            &[0x83, 0x86, 0x04][..], // POST, http, and a path
            &literal("/test.talk/Greet"),
            &[0x01],
            &literal("n"),
            &[0x0F, 0x10], // content-type
            &literal("application/grpc"),
            &[0x00],
            &literal("grpc-timeout"),
            &literal("1M"),
        ]
        .concat();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        for n in 0..SENT {
            bytes.extend_from_slice(&[0, 0, u8::try_from(head.len()).unwrap(), 1, 4]);
            bytes.extend_from_slice(&(2 * n + 1).to_be_bytes());
            bytes.extend_from_slice(&head);
        }
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        let mut refused = Vec::new();
        let reading = async {
            while refused.len() < (SENT - TAKEN) as usize {
                let mut frame = [0; 9];
                socket.read_exact(&mut frame).await.unwrap();
                let mut payload = vec![0; u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize];
                socket.read_exact(&mut payload).await.unwrap();
                let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
                match frame[3] {
                    3 => refused.push((stream, payload)),
                    4 | 6 | 8 => {}
                    other => panic!("a frame of kind {other} for {stream}: {payload:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("too few calls are refused");
        // REFUSED_STREAM, of the last ones.
        let last = (TAKEN..SENT).map(|n| (2 * n + 1, vec![0, 0, 0, 7])).collect::<Vec<_>>();
        assert_eq!(refused, last);
        let other = connect(address).await;
        is(&call(&other, "Greet", &[], &[text("you")]).await, "0", &[text("Hello you")]);
    });
}
