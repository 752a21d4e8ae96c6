//! The admin port inside TLS, and what it counts of calls.

#![allow(clippy::unwrap_used, missing_docs, reason = "these are tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use afflux::certs::Authority;
use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder};
use afflux_mesh::{MemoryNetwork, Transport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Service)]
#[service(name = "test.greeter", version = "1.0")]
pub enum Greeter {
    #[rpc(returns = String)]
    Greet { name: String },
}

#[derive(Actor)]
#[actor(serves(Greeter))]
struct Host;

impl GreeterHandler for Host {
    async fn greet(&mut self, _: &mut Cx, name: String) -> Result<String, Fault> {
        Ok(format!("Hello {name}"))
    }
}

fn settings() -> Settings {
    Settings {
        node_id: "n1".into(),
        node_listen: "host:0".into(),
        node_slots: 1,
        drain_grace_ms: 200,
        admin_tls: "on".into(),
        ..Settings::default()
    }
}

fn builder(settings: Settings) -> NodeBuilder {
    NodeBuilder::new(settings)
        .transport(Transport::Memory(MemoryNetwork::default()))
        .inline()
        .service("greeter", || Ok::<_, Error>(Host))
}

/// Writes a new certificate of the node, where the settings say.
fn issue(authority: &Authority, dir: &Path) {
    let issued = authority.issue("node/n1", &["localhost".to_owned()], 1).unwrap();
    std::fs::write(dir.join("key.pem"), issued.key).unwrap();
    std::fs::write(dir.join("node.pem"), issued.certificate).unwrap();
}

/// A connection, and the certificate that was shown.
async fn connect(
    address: SocketAddr,
    authority: &Authority,
) -> std::io::Result<(impl AsyncRead + AsyncWrite + Unpin, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((stream, shown))
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A peer that ends without a TLS farewell has still said everything.
    let _end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn run<F: Future<Output = Result<()>>>(test: impl FnOnce() -> F) {
    let limited = || async { tokio::time::timeout(3 * PATIENCE, test()).await.expect("took over a minute") };
    afflux::actor::system(limited).unwrap().unwrap();
}

#[test]
fn the_admin_port_is_inside_tls_and_takes_a_new_certificate_while_it_runs() {
    run(|| async {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("afflux").unwrap();
        issue(&authority, dir.path());
        std::fs::write(dir.path().join("ca.pem"), authority.certificate()).unwrap();
        let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let settings = Settings {
            // Of links both sides show one; here callers are asked for none.
            tls_mode: "mutual".into(),
            tls_ca: file("ca.pem"),
            tls_certificate: file("node.pem"),
            tls_key: file("key.pem"),
            tls_reload_ms: 20,
            ..settings()
        };
        let node: Node = builder(settings).start().await?;
        node.ready().await;
        let address = node.admin_address().unwrap();
        let (stream, first) = connect(address, &authority).await?;
        let answer = ask(stream, &get("/livez")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (stream, _) = connect(address, &authority).await?;
        assert!(ask(stream, &get("/metrics")).await.contains("afflux_build_info"));
        // Nobody else's authority, and nothing without TLS.
        let stranger = Authority::create("afflux").unwrap();
        assert!(connect(address, &stranger).await.is_err());
        let plain = ask(TcpStream::connect(address).await?, &get("/livez")).await;
        assert!(!plain.contains("200"), "{plain}");

        issue(&authority, dir.path());
        let renewed = async {
            loop {
                let (_, shown) = connect(address, &authority).await.unwrap();
                if shown != first {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, renewed).await.expect("the old certificate is shown for ever");
        node.close().await;
        Ok(())
    });
}

#[test]
fn without_a_certificate_the_admin_port_cannot_be_inside_tls() {
    run(|| async {
        let error = builder(settings()).start().await.err().expect("it started");
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("admin.tls = on") && text.contains("certs init"), "{text}");
        Ok(())
    });
}

#[test]
fn calls_over_http_are_counted_by_the_status_of_their_answer_and_made_up_names_are_no_labels() {
    run(|| async {
        let node = builder(Settings { admin_tls: "off".into(), ..settings() }).start().await?;
        node.ready().await;
        let address = node.admin_address().unwrap();
        for (path, body) in [
            ("/rpc/test.greeter/Greet", r#"{"name":"Ada"}"#),
            ("/rpc/test.greeter/Greet", r#"{"name":7}"#),
            ("/rpc/made.up/Name", "{}"),
        ] {
            ask(TcpStream::connect(address).await?, &post(path, body)).await;
        }
        let metrics = ask(TcpStream::connect(address).await?, &get("/metrics")).await;
        for line in [
            "afflux_http_requests_total{method=\"Greet\",service=\"test.greeter\",status=\"200\"} 1",
            "afflux_http_requests_total{method=\"unknown\",service=\"unknown\",status=\"400\"} 1",
            "afflux_http_requests_total{method=\"unknown\",service=\"unknown\",status=\"404\"} 1",
            "afflux_http_request_duration_seconds_count{service=\"test.greeter\"} 1",
        ] {
            assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
        }
        node.close().await;
        Ok(())
    });
}
