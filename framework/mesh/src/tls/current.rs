//! The certificate for a listener that asks its callers for none, such as one for HTTP.

use std::fmt;
use std::sync::Arc;

use afflux_wire::{Code, Status};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Tls;

/// Shows the certificate that is current at each handshake.
struct Current<F>(F);

impl<F> fmt::Debug for Current<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl<F: Fn() -> Option<Tls> + Send + Sync> ResolvesServerCert for Current<F> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0()?.0.server.as_ref()?.cert_resolver.resolve(hello)
    }
}

impl Tls {
    /// The configuration of a listener that asks for no certificate of its callers, and shows what `current` gives at
    /// each handshake: renewed certificates count from the next connection.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when there is no certificate to show now.
    pub fn anonymous(
        current: impl Fn() -> Option<Self> + Send + Sync + 'static,
    ) -> Result<ServerConfig, Status> {
        let failed = |text: String| Status::new(Code::FailedPrecondition, text);
        if !current().is_some_and(|tls| tls.can_accept()) {
            return Err(failed("there is no certificate to show".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Current(current)));
        Ok(config)
    }
}
