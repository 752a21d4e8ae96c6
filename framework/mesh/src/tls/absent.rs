//! In place of TLS where the feature `tls` is off: types that nobody can make.

use std::io;

use bytes::BytesMut;

use crate::transport::Conn;

/// Who shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Whoever is dialled.
    Server,
    /// Both sides.
    Mutual,
}

/// What a mesh needs for TLS: this build has none.
#[derive(Clone, Debug)]
pub enum Tls {}

/// The names in a certificate that was shown and verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) spiffe: Option<String>,
    pub(crate) hosts: Vec<String>,
}

impl Tls {
    /// Who shows a certificate.
    pub fn mode(&self) -> TlsMode {
        match *self {}
    }

    /// Seconds since 1970 at which the first certificate of the own chain ends.
    pub fn expires_at_seconds(&self) -> Option<u64> {
        match *self {}
    }

    /// `role/name` of the own certificate, where it has one.
    pub fn own_name(&self) -> Option<&str> {
        match *self {}
    }

    /// Whether there is a certificate to show to whoever dials.
    pub fn can_accept(&self) -> bool {
        match *self {}
    }

    pub(crate) async fn accept(&self, _: Conn, _: BytesMut) -> io::Result<(Conn, Option<Shown>)> {
        match *self {}
    }

    pub(crate) async fn connect(&self, _: Conn, _: &str) -> io::Result<(Conn, Option<Shown>)> {
        match *self {}
    }
}
