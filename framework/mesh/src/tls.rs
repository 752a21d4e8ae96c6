//! TLS on links: rustls, TLS 1.3 alone, certificates of the cluster's own authority.
//!
//! Identities follow the form of [SPIFFE](https://spiffe.io): a certificate holds `spiffe://CLUSTER/ROLE/NAME` as
//! its alternative name, and nodes have the role `node`. A node's certificate is valid for that node wherever it
//! runs, so addresses may change. Certificates of other makers, with host names only, are valid for the host that
//! was dialled, and as a caller's for the node of that name.
//!
//! Not here: files. Who starts a mesh reads them, and gives new ones to [`Mesh::set_tls`](crate::Mesh::set_tls).

mod certificate;
mod current;
mod verifier;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use afflux_wire::{Code, Status};
use bytes::{Buf, BytesMut};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use self::verifier::NodeVerifier;
use crate::transport::{Conn, Plain};

/// What is spoken inside, so that another protocol's client is not mistaken for one of ours.
const ALPN: &[u8] = b"afflux/1";
/// Bytes that wait inside a TLS session in each direction.
const SESSION_BUFFER_BYTES_MAX: usize = 128 << 10;
/// Certificates of one chain that is shown.
const CHAIN_MAX: usize = 8;

/// Who shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Whoever is dialled.
    Server,
    /// Both sides.
    Mutual,
}

/// Certificates as files hold them.
#[derive(Clone, Copy, Default)]
pub struct TlsPem<'a> {
    /// The authorities that peers' certificates must come from, PEM.
    pub authorities: &'a [u8],
    /// This process's certificate and what leads from it to an authority, PEM; empty for none.
    pub certificates: &'a [u8],
    /// The key of the first of them, PEM; empty for none.
    pub key: &'a [u8],
}

/// What a mesh needs for TLS. Cheap to clone; immutable: renewed certificates are another one.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    mode: TlsMode,
    cluster: String,
    server: Option<Arc<ServerConfig>>,
    client: Arc<ClientConfig>,
    own: Option<Shown>,
    expires_at_seconds: Option<u64>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?}, own {:?})", self.0.mode, self.0.own)
    }
}

/// The names in a certificate that was shown and verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The role and name of `spiffe://CLUSTER/role/name`.
    pub(crate) spiffe: Option<String>,
    /// Its host names, where it has no such URI.
    pub(crate) hosts: Vec<String>,
}

impl Tls {
    /// Reads certificates; each error says which of the three is at fault.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: not PEM, no authority, a key that is not the certificate's, a certificate that its own
    /// authorities do not vouch for, that is for another cluster, or that is not valid now.
    pub fn from_pem(mode: TlsMode, cluster: &str, pem: TlsPem<'_>) -> Result<Self, Status> {
        let wrong = |text: String| Status::new(Code::InvalidArgument, text);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in
            read_certificates(pem.authorities).map_err(|why| wrong(format!("authorities: {why}")))?
        {
            roots.add(authority).map_err(|error| wrong(format!("authorities: {error}")))?;
        }
        if roots.is_empty() {
            return Err(wrong("authorities: there is no certificate in them".to_owned()));
        }
        let roots = Arc::new(roots);
        let verifier = Arc::new(NodeVerifier::new(Arc::clone(&roots), &provider, cluster));
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| wrong(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
        let chain =
            read_certificates(pem.certificates).map_err(|why| wrong(format!("certificate: {why}")))?;
        let mut own = None;
        let mut expires_at_seconds = None;
        let mut server = None;
        let mut client = if let Some(first) = chain.first() {
            let key =
                PrivateKeyDer::from_pem_slice(pem.key).map_err(|error| wrong(format!("key: {error:?}")))?;
            let names =
                certificate::shown(first, cluster).map_err(|why| wrong(format!("certificate: {why}")))?;
            match verifier.check_chain(first, chain.get(1..).unwrap_or_default()) {
                // A caller's certificate may be good for nothing but calling.
                Ok(()) | Err(Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })) => {}
                Err(error) => {
                    return Err(wrong(format!("certificate: the authorities do not vouch for it: {error}")));
                }
            }
            own = Some(names);
            expires_at_seconds = chain.iter().filter_map(|c| certificate::not_after_seconds(c)).min();
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| wrong(error.to_string()))?;
            let builder = match mode {
                TlsMode::Server => builder.with_no_client_auth(),
                TlsMode::Mutual => builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(roots, provider)
                        .build()
                        .map_err(|error| wrong(format!("authorities: {error}")))?,
                ),
            };
            let mut config = builder
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(|error| wrong(format!("certificate and key: {error}")))?;
            config.alpn_protocols = vec![ALPN.to_vec()];
            // A resumed session would outlive the certificates that it was made with.
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            server = Some(Arc::new(config));
            client
                .with_client_auth_cert(chain, key)
                .map_err(|error| wrong(format!("certificate and key: {error}")))?
        } else if mode == TlsMode::Mutual {
            return Err(wrong(
                "certificate: none is there, and mutual TLS wants one of both sides".to_owned(),
            ));
        } else {
            client.with_no_client_auth()
        };
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        let client = Arc::new(client);
        let cluster = cluster.to_owned();
        Ok(Self(Arc::new(Inner { mode, cluster, server, client, own, expires_at_seconds })))
    }

    /// Who shows a certificate.
    pub fn mode(&self) -> TlsMode {
        self.0.mode
    }

    /// Seconds since 1970 at which the first certificate of the own chain ends.
    pub fn expires_at_seconds(&self) -> Option<u64> {
        self.0.expires_at_seconds
    }

    /// `role/name` of the own certificate, where it has one.
    pub fn own_name(&self) -> Option<&str> {
        self.0.own.as_ref()?.spiffe.as_deref()
    }

    /// Whether there is a certificate to show to whoever dials.
    pub fn can_accept(&self) -> bool {
        self.0.server.is_some()
    }

    /// The configuration for another listener of this process with the same certificates, such as one for HTTP/2.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Option<Arc<ServerConfig>> {
        let mut config = ServerConfig::clone(self.0.server.as_ref()?);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Some(Arc::new(config))
    }

    /// `role/name` of a caller's verified certificate on such a listener.
    ///
    /// # Errors
    /// A certificate of another cluster, or one that cannot be read.
    pub fn caller_name(&self, certificate: &CertificateDer<'_>) -> Result<Option<String>, String> {
        Ok(certificate::shown(certificate, &self.0.cluster)?.spiffe)
    }

    /// The server's side; `read` is what was read of the connection already.
    pub(crate) async fn accept(&self, conn: Conn, read: BytesMut) -> io::Result<(Conn, Option<Shown>)> {
        let Some(server) = &self.0.server else {
            return Err(io::Error::other("there is no certificate to show"));
        };
        let stream =
            TlsAcceptor::from(Arc::clone(server)).accept_with(Rewind { read, conn: plain(conn)? }, |c| {
                c.set_buffer_limit(Some(SESSION_BUFFER_BYTES_MAX));
            });
        let stream = stream.await?;
        let shown = self.shown(stream.get_ref().1.peer_certificates())?;
        Ok((Conn::Tls(Box::new(TlsStream::Server(stream))), shown))
    }

    /// The client's side; `address` is `host:port` as it was dialled.
    pub(crate) async fn connect(&self, conn: Conn, address: &str) -> io::Result<(Conn, Option<Shown>)> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{host}` is no host name")))?;
        let io = Rewind { read: BytesMut::new(), conn: plain(conn)? };
        let connecting = TlsConnector::from(Arc::clone(&self.0.client)).connect_with(name, io, |c| {
            c.set_buffer_limit(Some(SESSION_BUFFER_BYTES_MAX));
        });
        let stream = connecting.await?;
        let shown = self.shown(stream.get_ref().1.peer_certificates())?;
        Ok((Conn::Tls(Box::new(TlsStream::Client(stream))), shown))
    }

    fn shown(&self, chain: Option<&[CertificateDer<'_>]>) -> io::Result<Option<Shown>> {
        let Some(first) = chain.and_then(<[_]>::first) else { return Ok(None) };
        let shown = certificate::shown(first, &self.0.cluster);
        shown.map(Some).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

/// A stream of a connection inside TLS.
pub(crate) type Stream = TlsStream<Rewind>;

fn plain(conn: Conn) -> io::Result<Plain> {
    match conn {
        Conn::Plain(plain) => Ok(plain),
        Conn::Tls(_) => Err(io::Error::other("TLS inside TLS")),
    }
}

fn read_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .take(CHAIN_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{error:?}: expected PEM"))?;
    if chain.is_empty() && !pem.iter().all(u8::is_ascii_whitespace) {
        return Err("there is no CERTIFICATE section: expected PEM".to_owned());
    }
    if chain.len() > CHAIN_MAX {
        return Err(format!("more than {CHAIN_MAX} certificates"));
    }
    Ok(chain)
}

/// A connection of which the first bytes were read already.
pub(crate) struct Rewind {
    read: BytesMut,
    conn: Plain,
}

impl AsyncRead for Rewind {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.conn).poll_read(cx, buf);
        }
        let n = this.read.len().min(buf.remaining());
        buf.put_slice(&this.read[..n]);
        this.read.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewind {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().conn).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().conn).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().conn).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().conn).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_are_none_are_refused_by_name() {
        let of = |authorities: &str, certificates: &str, key: &str| {
            let pem = TlsPem {
                authorities: authorities.as_bytes(),
                certificates: certificates.as_bytes(),
                key: key.as_bytes(),
            };
            Tls::from_pem(TlsMode::Mutual, "test", pem).unwrap_err().message
        };
        let (authority, node) = certificate::tests::authority_and("spiffe://test/node/a", 30);
        let (other, _) = certificate::tests::authority_and("spiffe://test/node/a", 30);
        let (_, foreign) = certificate::tests::authority_and("spiffe://elsewhere/node/a", 30);
        assert!(of("", "", "").starts_with("authorities: there is no certificate"));
        assert!(of("hello", "", "").starts_with("authorities: there is no CERTIFICATE section"));
        assert!(of(&authority, "", "").contains("mutual TLS wants one of both sides"));
        assert!(of(&authority, &node.0, "").starts_with("key: "));
        assert!(of(&authority, &node.0, &foreign.1).starts_with("certificate and key: "));
        assert!(of(&other, &node.0, &node.1).contains("the authorities do not vouch for it"));
        let (authority, foreign) = certificate::tests::authority_and("spiffe://elsewhere/node/a", 30);
        let text = of(&authority, &foreign.0, &foreign.1);
        assert!(text.contains("cluster `elsewhere`") && text.contains("`test`"), "{text}");
        let (authority, old) = certificate::tests::authority_and("spiffe://test/node/a", -1);
        assert!(of(&authority, &old.0, &old.1).contains("expired"), "{}", of(&authority, &old.0, &old.1));
    }
}
