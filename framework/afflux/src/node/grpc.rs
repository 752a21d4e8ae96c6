//! The node's door for gRPC clients.

use super::Node;
use crate::error::{Error, Result};

impl Node {
    /// Opens the door that the settings ask for.
    ///
    /// # Errors
    /// An address that cannot be listened on or is open without protection, a `.proto` file with a fault, a
    /// program without the feature.
    pub(super) fn open_grpc(&self, protos: &[(String, String)]) -> Result<()> {
        let settings = &self.inner.settings;
        if settings.grpc_listen.is_empty() {
            return Ok(());
        }
        #[cfg(not(feature = "grpc"))]
        {
            let _ = protos;
            Err(Error::usage(format!(
                "grpc.listen = {}, but this program speaks no gRPC",
                settings.grpc_listen
            ))
            .hint("build it with the feature `grpc` of afflux, or leave grpc.listen empty"))
        }
        #[cfg(feature = "grpc")]
        {
            if settings.tls_mode == "loopback" && crate::security::is_open(&settings.grpc_listen) {
                return Err(Error::usage(format!(
                    "grpc.listen = {} is open beyond this machine, and is not inside TLS (tls.mode = loopback)",
                    settings.grpc_listen
                ))
                .hint("`certs init` makes certificates; on a network that nobody else is in, set tls.mode = insecure"));
            }
            let mut known = crate::grpc::Protos::default();
            for (name, text) in protos {
                known.add(name, text)?;
            }
            for file in &settings.grpc_proto {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| Error::usage(format!("grpc.proto: {file} cannot be read: {error}")))?;
                known.add(file, &text)?;
            }
            let catalogue = crate::catalogue::Catalogue::new(self.cluster());
            let closing = self.inner.closing.subscribe();
            let door = crate::grpc::Door::open(&settings.grpc_listen, catalogue, known, self.io(), closing)?;
            tracing::info!(address = %door.address(), "gRPC clients are served");
            *self.inner.grpc.lock() = Some(door.address());
            Ok(())
        }
    }

    /// Where gRPC clients reach it; nothing without `grpc.listen`.
    pub fn grpc_address(&self) -> Option<std::net::SocketAddr> {
        *self.inner.grpc.lock()
    }
}
