//! Whether the certificate of a node that was dialled is good.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate;

/// The role of a certificate whose owner may be dialled.
const NODE_ROLE: &str = "node/";

/// Accepts certificates of the cluster's authorities: of its nodes by their identity, others by the host's name.
///
/// What rustls itself does is not enough: it knows host names only, and nodes move from address to address.
#[derive(Debug)]
pub(super) struct NodeVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    cluster: String,
}

impl NodeVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: &CryptoProvider, cluster: &str) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { roots, algorithms, cluster: cluster.to_owned() }
    }

    /// Whether the authorities vouch for a chain now.
    pub(super) fn check_chain(
        &self,
        first: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        self.verify_chain(first, rest, UnixTime::now())
    }

    fn verify_chain(
        &self,
        first: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(first)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, rest, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        first: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain(first, rest, now)?;
        let shown = certificate::shown(first, &self.cluster)
            .map_err(|why| Error::General(format!("the peer's certificate: {why}")))?;
        match shown.spiffe {
            // Which node it is, is compared with its WELCOME.
            Some(identity) if identity.starts_with(NODE_ROLE) => {}
            Some(identity) => {
                return Err(Error::General(format!(
                    "the peer's certificate is that of {identity}, which is no node: give it one of role `node`"
                )));
            }
            None => verify_server_name(&ParsedCertificate::try_from(first)?, name)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
