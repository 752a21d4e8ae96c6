//! Links inside TLS, over pipes and over TCP: who may link, and as whom.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use afflux_mesh::{Access, MeshConfig, Tls, TlsMode, TlsPem, token_digest};
use afflux_wire::Code;
use afflux_wire::contract::IdentityKind;
use common::{Desk, Net, over_both, until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An authority that tests make certificates with.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn tls(&self, mode: TlsMode, name: SanType) -> Tls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let key = key.serialize_pem();
        let pem = TlsPem {
            authorities: self.pem.as_bytes(),
            certificates: certificate.as_bytes(),
            key: key.as_bytes(),
        };
        Tls::from_pem(mode, "test", pem).unwrap()
    }

    fn named(&self, name: &str) -> Tls {
        self.tls(TlsMode::Mutual, SanType::URI(format!("spiffe://test/{name}").try_into().unwrap()))
    }

    fn client_only(&self) -> Tls {
        let pem = TlsPem { authorities: self.pem.as_bytes(), ..TlsPem::default() };
        Tls::from_pem(TlsMode::Server, "test", pem).unwrap()
    }
}

fn with(net: &Net, node: &str, tls: Tls, rules: &[&str]) -> MeshConfig {
    let access = rules.iter().fold(Access::default(), |access, rule| access.allow(rule).unwrap());
    MeshConfig { tls: Some(tls), access, ..net.config(node) }
}

#[test]
fn two_nodes_link_inside_tls_and_know_each_other() {
    over_both(async |net: Net| {
        let authority = Authority::new();
        let a = net.node_with(with(&net, "a", authority.named("node/a"), &["node/* = *"]));
        let b = net.node_with(with(&net, "b", authority.named("node/b"), &["node/* = *"]));
        let desk = Arc::new(Desk::default());
        b.serve(&desk);
        a.link(&b).await;
        assert_eq!(a.sums().add(20, 22).await.unwrap(), 42);
        let caller = desk.callers.lock().pop().unwrap().unwrap();
        assert_eq!((&*caller.name, caller.kind), ("node/a", IdentityKind::Certificate));
        assert_eq!(caller.node, Some("a".into()));
        until(|| b.metric("afflux_connections", &["control", "true"]) == 1.0).await;
        assert_eq!(b.metric("afflux_connections", &["data", "false"]), 0.0);
        assert!(b.metric("afflux_tls_certificate_expiry_timestamp_seconds", &["node/b"]) > 1e9);
    });
}

#[test]
fn large_answers_and_many_calls_come_through_whole() {
    over_both(async |net: Net| {
        let authority = Authority::new();
        let a = net.node_with(with(&net, "a", authority.named("node/a"), &["node/* = *"]));
        let b = net.node_with(with(&net, "b", authority.named("node/b"), &["node/* = *"]));
        b.serve(&Arc::new(Desk::default()));
        a.link(&b).await;
        let sums = a.sums();
        // More than a session's buffer holds, so that a write waits for room.
        let calls = (0..10_000).map(|n| {
            let call = sums.add(n, 1);
            async move { (n, call.await.unwrap()) }
        });
        for (n, sum) in futures_util::future::join_all(calls).await {
            assert_eq!(sum, n + 1);
        }
    });
}

#[test]
fn a_node_of_another_authority_and_one_with_anothers_certificate_are_refused() {
    over_both(async |net: Net| {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let a = net.node_with(with(&net, "a", ours.named("node/a"), &[]));
        let stranger = net.node_with(with(&net, "b", theirs.named("node/b"), &[]));
        let error = stranger.mesh.connect_unknown(&a.mesh.local_address()).await.unwrap_err();
        assert!(error.message.contains("TLS") && error.message.contains("BadSignature"), "{error}");
        // It trusts our authority and has a certificate of its own: now the node has to refuse it.
        let both = format!("{}{}", ours.pem, theirs.pem);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://test/node/b".try_into().unwrap())];
        let certificate = params.signed_by(&key, &theirs.issuer).unwrap().pem();
        let key = key.serialize_pem();
        let pem = TlsPem {
            authorities: both.as_bytes(),
            certificates: certificate.as_bytes(),
            key: key.as_bytes(),
        };
        let tls = Tls::from_pem(TlsMode::Mutual, "test", pem).unwrap();
        let stranger = net.node_with(with(&net, "c", tls, &[]));
        assert!(stranger.mesh.connect_unknown(&a.mesh.local_address()).await.is_err());
        until(|| a.metric("afflux_connections_closed_total", &["tls_handshake"]) >= 1.0).await;
        // The right authority, another node's name.
        let poser = net.node_with(with(&net, "b", ours.named("node/d"), &[]));
        let error = poser.mesh.connect_unknown(&a.mesh.local_address()).await.unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated);
        for part in ["peer b", "node a", "node/d"] {
            assert!(error.message.contains(part), "{part} is missing in: {error}");
        }
        until(|| a.metric("afflux_connections_closed_total", &["unauthenticated"]) == 1.0).await;
    });
}

#[test]
fn who_answers_with_a_callers_certificate_is_no_node() {
    over_both(async |net: Net| {
        let authority = Authority::new();
        let a = net.node_with(with(&net, "a", authority.named("client/a"), &[]));
        let b = net.node_with(with(&net, "b", authority.named("node/b"), &[]));
        let error = b.mesh.connect_unknown(&a.mesh.local_address()).await.unwrap_err();
        assert!(error.message.contains("client/a, which is no node"), "{error}");
    });
}

#[test]
fn without_tls_nobody_gets_in_and_is_told_why() {
    over_both(async |net: Net| {
        let authority = Authority::new();
        let a = net.node_with(with(&net, "a", authority.named("node/a"), &[]));
        let plain = net.node("b");
        let error = plain.mesh.connect_unknown(&a.mesh.local_address()).await.unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("`tls.mode`") && error.message.contains("node a"), "{error}");
        assert_eq!(a.metric("afflux_connections_closed_total", &["plaintext"]), 1.0);
        let mut raw = net.raw(&a.mesh.local_address()).await;
        raw.write_all(b"\x94\x00\x01").await.unwrap();
        let mut answer = Vec::new();
        let _ = raw.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        until(|| a.metric("afflux_connections_closed_total", &["plaintext"]) == 2.0).await;
        // The other way round: TLS where there is none.
        let error = a.mesh.connect_unknown(&plain.mesh.local_address()).await.unwrap_err();
        assert!(
            error.message.contains("HandshakeFailure") && error.message.contains("`tls.mode`"),
            "{error}"
        );
        assert_eq!(plain.metric("afflux_connections_closed_total", &["unknown", "tls"]), 1.0);
    });
}

#[test]
fn a_second_hello_of_tls_inside_tls_is_garbage() {
    over_both(async |net: Net| {
        let authority = Authority::new();
        let a = net.node_with(with(&net, "a", authority.named("node/a"), &[]));
        let raw = net.raw(&a.mesh.local_address()).await;
        let pem = authority.pem.clone();
        let mut tls = client(&pem, &authority, raw).await;
        tls.write_all(b"\x16\x03\x01").await.unwrap();
        tls.flush().await.unwrap();
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer).await;
        until(|| a.metric("afflux_connections_closed_total", &["garbage"]) == 1.0).await;
    });
}

/// A TLS client of its own making.
async fn client(
    pem: &str,
    authority: &Authority,
    io: Box<dyn common::Stream>,
) -> tokio_rustls::client::TlsStream<Box<dyn common::Stream>> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://test/client/x".try_into().unwrap())];
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_client_auth_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let name = rustls::pki_types::ServerName::try_from("a").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io).await.unwrap()
}

/// Takes every certificate: what is tested is the other side.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn new_certificates_count_from_the_next_handshake_on() {
    over_both(async |net: Net| {
        let (old, new) = (Authority::new(), Authority::new());
        let a = net.node_with(with(&net, "a", old.named("node/a"), &["node/* = *"]));
        let b = net.node_with(with(&net, "b", old.named("node/b"), &["node/* = *"]));
        b.serve(&Arc::new(Desk::default()));
        a.link(&b).await;
        b.mesh.set_tls(new.named("node/b"));
        // The link that is up is left alone.
        assert_eq!(a.sums().add(1, 1).await.unwrap(), 2);
        let late = net.node_with(with(&net, "c", old.named("node/c"), &[]));
        assert!(late.mesh.connect_unknown(&b.mesh.local_address()).await.is_err());
        late.mesh.set_tls(new.named("node/c"));
        late.mesh.connect_unknown(&b.mesh.local_address()).await.unwrap();
    });
}

#[test]
fn a_servers_certificate_alone_leaves_the_caller_to_its_token() {
    over_both(async |net: Net| {
        let authority = Authority::new();
        let host = SanType::IpAddress("127.0.0.1".parse().unwrap());
        let access = Access::default()
            .token_digest("support/alice", &token_digest("of alice"))
            .and_then(|access| access.allow("support = math.sums/Add"))
            .unwrap();
        let tls = Some(authority.tls(TlsMode::Server, host));
        let server = net.node_with(MeshConfig { tls, access, ..net.config("server") });
        let desk = Arc::new(Desk::default());
        server.serve(&desk);
        let config = |name: &str, token: Option<&str>| MeshConfig {
            tls: Some(authority.client_only()),
            token: token.map(str::to_owned),
            listen: None,
            ..net.config(name)
        };
        let unknown = net.node_with(config("client-1", None));
        let error = unknown.mesh.connect_unknown(&server.mesh.local_address()).await.unwrap_err();
        assert!(error.code == Code::Unauthenticated && error.message.contains("sent no token"), "{error}");
        let alice = net.node_with(config("client-2", Some("of alice")));
        alice.mesh.connect_unknown(&server.mesh.local_address()).await.unwrap();
        assert_eq!(alice.sums().add(1, 2).await.unwrap(), 3);
        let caller = desk.callers.lock().pop().unwrap().unwrap();
        assert_eq!((&*caller.name, caller.kind, caller.node), ("support/alice", IdentityKind::Token, None));
        // No rule for the other method: nothing is executed, and it is counted.
        alice.sums().touch(7).await.unwrap();
        // Behind it on the same connection.
        alice.sums().add(1, 1).await.unwrap();
        assert_eq!(server.metric("afflux_rpc_server_rejected_total", &["math.sums", "forbidden"]), 1.0);
        assert!(desk.touched.lock().is_empty());
    });
}

#[test]
fn a_call_may_be_made_as_the_owner_of_another_token() {
    over_both(async |net: Net| {
        let access = Access::default()
            .token_digest("gate/http", &token_digest("of the gate"))
            .and_then(|access| access.token_digest("support/alice", &token_digest("of alice")))
            .and_then(|access| access.allow("support = math.sums"))
            .unwrap();
        let server = net.node_with(MeshConfig { access, ..net.config("server") });
        let desk = Arc::new(Desk::default());
        server.serve(&desk);
        let config = MeshConfig { token: Some("of the gate".into()), listen: None, ..net.config("client-1") };
        let gate = net.node_with(config);
        gate.mesh.connect_unknown(&server.mesh.local_address()).await.unwrap();
        assert_eq!(gate.sums().add(1, 2).token("of alice").await.unwrap(), 3);
        assert_eq!(&*desk.callers.lock().pop().unwrap().unwrap().name, "support/alice");
        for (token, code, reason) in [
            (None, Code::PermissionDenied, "forbidden"),
            (Some("of nobody"), Code::Unauthenticated, "unauthenticated"),
        ] {
            let call = gate.sums().add(1, 2);
            let call = match token {
                Some(token) => call.token(token),
                None => call,
            };
            let error = call.await.unwrap_err();
            assert_eq!(error.code(), code);
            assert!(error.to_string().contains("server"), "{error}");
            assert_eq!(server.metric("afflux_rpc_server_rejected_total", &["math.sums", reason]), 1.0);
        }
        assert_eq!(desk.callers.lock().len(), 0, "nothing that was refused reached the mailbox");
    });
}
