//! A connection to a broker for what librdkafka has no call for: in the clear, or inside TLS 1.3.
//!
//! Which certificates count stands in the properties that librdkafka reads, too. What cannot be said here
//! (keystores, keys with a password, no verification) is refused rather than done otherwise than by the library.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use afflux_stream::Result;
use afflux_wire::Status;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::cluster::Kafka;

/// Properties that say something about TLS which this cannot do.
const REFUSED: [&str; 5] = [
    "ssl.key.password",
    "ssl.keystore.location",
    "ssl.ca.certificate.stores",
    "ssl.engine.location",
    "ssl.crl.location",
];

/// A connection.
pub(super) enum Line {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// How connections are made.
pub(super) struct Lines(Option<Arc<ClientConfig>>);

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Lines inside TLS" } else { "Lines in the clear" })
    }
}

impl Lines {
    /// In the clear.
    pub(super) const fn plain() -> Self {
        Self(None)
    }

    /// Inside TLS, by the cluster's properties.
    ///
    /// # Errors
    /// A property that cannot be followed, a file that cannot be read: with the cure.
    pub(super) fn tls(kafka: &Kafka) -> Result<Self> {
        let refused = |what: &str, cure: &str| {
            Status::precondition(format!(
                "Kafka at {}: `.exactly_once()` ends transactions of a process that is gone over a connection of its \
                 own, {what}; {cure}, or write at least once",
                kafka.shown()
            ))
        };
        if let Some(name) = REFUSED.iter().find(|name| kafka.property(name).is_some()) {
            let what = format!("which cannot follow `{name}`");
            return Err(refused(
                &what,
                "use PEM files (`ssl.ca.location`, `ssl.certificate.location`, `ssl.key.location`)",
            ));
        }
        for (name, off) in [
            ("enable.ssl.certificate.verification", "false"),
            ("ssl.endpoint.identification.algorithm", "none"),
        ] {
            if kafka.property(name).is_some_and(|value| value.eq_ignore_ascii_case(off)) {
                let what = format!("which looks at the broker's certificate always, and `{name}` is `{off}`");
                return Err(refused(&what, "give the broker a certificate with its name"));
            }
        }
        let Some(roots) = pem(kafka, "ssl.ca")? else {
            let what = "which does not know the machine's authorities";
            return Err(refused(what, "name those of the brokers with `ssl.ca.location`"));
        };
        let wrong = |what: &str, error: &dyn fmt::Display| {
            Status::invalid(format!("Kafka at {}: {what}: {error}", kafka.shown()))
        };
        let mut store = RootCertStore::empty();
        for root in certificates(&roots).map_err(|e| wrong("`ssl.ca`", &e))? {
            store.add(root).map_err(|e| wrong("`ssl.ca`", &e))?;
        }
        if store.is_empty() {
            return Err(wrong("`ssl.ca`", &"no certificate in it"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| wrong("TLS", &e))?
            .with_root_certificates(store);
        let config = match (pem(kafka, "ssl.certificate")?, pem(kafka, "ssl.key")?) {
            (Some(chain), Some(key)) => {
                let chain = certificates(&chain).map_err(|e| wrong("`ssl.certificate`", &e))?;
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| wrong("`ssl.key`", &e))?;
                config.with_client_auth_cert(chain, key).map_err(|e| wrong("`ssl.certificate`", &e))?
            }
            (None, None) => config.with_no_client_auth(),
            _ => {
                return Err(wrong(
                    "`ssl.certificate` and `ssl.key`",
                    &"one of them is there without the other",
                ));
            }
        };
        Ok(Self(Some(Arc::new(config))))
    }

    /// The connection over this socket, whose other end is this host.
    ///
    /// # Errors
    /// A name that no certificate can have. Whether the broker's certificate is right is seen with the first bytes.
    pub(super) fn over(&self, stream: TcpStream, host: &str) -> io::Result<Line> {
        let Some(config) = &self.0 else { return Ok(Line::Plain(stream)) };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let wrong = |error: &dyn fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("no TLS with `{host}`: {error}"))
        };
        let name = ServerName::try_from(host.clone()).map_err(|e| wrong(&e))?;
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(|e| wrong(&e))?;
        Ok(Line::Tls(Box::new(StreamOwned::new(connection, stream))))
    }
}

/// What stands in the property `NAME.pem`, or in the file that `NAME.location` names.
fn pem(kafka: &Kafka, name: &str) -> Result<Option<Vec<u8>>> {
    if let Some(text) = kafka.property(&format!("{name}.pem")) {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    let location = format!("{name}.location");
    let Some(path) = kafka.property(&location) else { return Ok(None) };
    let read = std::fs::read(path);
    read.map(Some).map_err(|error| {
        Status::invalid(format!(
            "Kafka at {}: `{location}` is {path}, which cannot be read: {error}",
            kafka.shown()
        ))
    })
}

fn certificates(
    pem: &[u8],
) -> std::result::Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::{ServerConfig, ServerConnection};
    use std::net::TcpListener;

    /// An authority's certificate, and a server that echoes one message, with a certificate for this name.
    fn server(name: &str) -> (String, String, std::thread::JoinHandle<io::Result<()>>) {
        let root = CertifiedIssuer::self_signed(
            {
                let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params
            },
            KeyPair::generate().unwrap(),
        )
        .unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            let connection = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(connection, stream);
            let mut message = [0; 4];
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
            stream.flush()
        });
        (root.pem(), address, served)
    }

    fn echo(name: &str, host: &str) -> io::Result<[u8; 4]> {
        let (root, address, served) = server(name);
        let kafka = Kafka::at(&*address).set("ssl.ca.pem", root);
        let mut line = Lines::tls(&kafka).unwrap().over(TcpStream::connect(&address)?, host)?;
        let mut answer = [0; 4];
        let asked =
            line.write_all(b"ping").and_then(|()| line.flush()).and_then(|()| line.read_exact(&mut answer));
        drop(line);
        let _ended = served.join().unwrap();
        asked.map(|()| answer)
    }

    #[test]
    fn bytes_go_through_tls_to_a_broker_whose_certificate_has_its_name_and_to_no_other() {
        assert_eq!(echo("localhost", "localhost").unwrap(), *b"ping");
        assert_eq!(echo("127.0.0.1", "127.0.0.1").unwrap(), *b"ping");
        let error = echo("localhost", "broker.example").unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
    }

    #[test]
    fn what_tls_cannot_be_told_here_is_refused_with_a_way_out() {
        for (name, value, part) in [
            ("ssl.keystore.location", "store.jks", "ssl.ca.location"),
            ("enable.ssl.certificate.verification", "false", "certificate with its name"),
            ("security.protocol", "ssl", "`ssl.ca.location`"),
            ("ssl.ca.pem", "no certificate", "no certificate in it"),
            ("ssl.ca.location", "/nowhere/ca.pem", "/nowhere/ca.pem"),
        ] {
            let error = Lines::tls(&Kafka::at("b:9093").set(name, value)).unwrap_err().message;
            assert!(error.contains(part) && error.contains("b:9093"), "{name}: {error}");
        }
    }
}
