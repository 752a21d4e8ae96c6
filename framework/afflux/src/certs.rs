//! Certificates of a cluster of one's own: an authority, nodes, callers.
//!
//! For clusters without another authority: what is made here is what [`Tls`](afflux_mesh::Tls) takes, no more.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::error::{Error, Result};

/// Days that an authority is valid, at the least.
const AUTHORITY_DAYS: u32 = 3_650;
/// Days that certificates of nodes and callers are valid, unless said otherwise.
pub const DAYS_DEFAULT: u32 = 365;
/// The authority's certificate, in every directory that is made.
const CA: &str = "ca.pem";
/// The authority's key, in the first directory alone.
const CA_KEY: &str = "ca-key.pem";

/// Who signs the certificates of a cluster.
pub struct Authority {
    cluster: String,
    certificate: String,
    key: String,
}

/// A certificate with its key, PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

fn failed(error: rcgen::Error) -> Error {
    Error::failed(format!("no certificate can be made: {error}"))
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn create(cluster: &str) -> Result<Self> {
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params(cluster, AUTHORITY_DAYS)?.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { cluster: cluster.to_owned(), certificate, key: key.serialize_pem() })
    }

    /// The one in this directory.
    ///
    /// # Errors
    /// Files that are missing.
    pub fn open(cluster: &str, dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|error| {
                Error::usage(format!(
                    "there is no authority in {}: {}: {error}",
                    dir.display(),
                    path.display()
                ))
                .hint("`certs init` makes one; `--dir` names its directory")
            })
        };
        Ok(Self { cluster: cluster.to_owned(), certificate: read(CA)?, key: read(CA_KEY)? })
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for `role/name`; `node/NAME` for the node of that name. `hosts` are names and addresses by
    /// which clients that know no identities find it.
    ///
    /// # Errors
    /// A name or a host that is none.
    pub fn issue(&self, name: &str, hosts: &[String], days: u32) -> Result<Issued> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() != 2 || parts.iter().any(|part| part.is_empty() || !part.chars().all(legal)) {
            return Err(Error::usage(format!("`{name}` is no identity: expected ROLE/NAME"))
                .hint("such as node/orders-7 or support/alice, of letters, digits, `-`, `_`, `.` and `@`"));
        }
        let key = KeyPair::from_pem(&self.key).map_err(failed)?;
        let issuer = Issuer::new(params(&self.cluster, AUTHORITY_DAYS)?, key);
        let own = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(hosts.to_vec())
            .map_err(|error| Error::usage(format!("--host: {error}")))?;
        let uri = format!("spiffe://{}/{name}", self.cluster);
        params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(failed)?));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        set_validity(&mut params, days)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if name.starts_with("node/") {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let certificate = params.signed_by(&own, &issuer).map_err(failed)?.pem();
        Ok(Issued { certificate, key: own.serialize_pem() })
    }

    /// Writes certificate and key, where nothing is yet.
    ///
    /// # Errors
    /// Files that are there already, unless `force`; a directory that cannot be written.
    pub fn write(&self, dir: &Path, force: bool) -> Result<Vec<PathBuf>> {
        write_all(dir, &[(CA, &self.certificate), (CA_KEY, &self.key)], force)
    }
}

/// What every authority of a cluster has in common, so that its issuer's name can be made again.
fn params(cluster: &str, days: u32) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{cluster} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, days)?;
    Ok(params)
}

/// From yesterday, so that clocks may differ, for so many days.
fn set_validity(params: &mut CertificateParams, days: u32) -> Result<()> {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = |shift: i64| {
        let date = today
            .checked_add(jiff::Span::new().days(shift))
            .map_err(|error| Error::usage(format!("--days {days}: {error}")))?;
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        Ok::<_, Error>(rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day())))
    };
    params.not_before = day(-1)?;
    params.not_after = day(i64::from(days) + 1)?;
    Ok(())
}

/// The directory of one identity: `NAME` of `role/NAME`.
///
/// It has certificate, key, the authority's certificate, and a settings file that names them, so that it can be
/// copied to another machine as a whole. Returns the settings file.
///
/// # Errors
/// As [`Authority::issue`] and [`Authority::write`].
pub fn write_identity(
    authority: &Authority,
    dir: &Path,
    name: &str,
    hosts: &[String],
    days: u32,
    force: bool,
) -> Result<PathBuf> {
    let issued = authority.issue(name, hosts, days)?;
    let (role, own) = name.split_once('/').unwrap_or(("", name));
    let dir = dir.join(own);
    let mut settings = format!(
        "# {name}, made by `certs`. Paths are beside this file.\ncluster = \"{}\"\n\n",
        authority.cluster
    );
    settings +=
        "[tls]\nmode = \"mutual\"\nca = \"ca.pem\"\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n";
    if role == "node" {
        settings += &format!("\n[node]\nid = \"{own}\"\n");
        settings += "\n[auth]\n# Who may call what; the framework's own services are open to nodes.\n\
                     allow = [\"node/* = *\", \"admin = *\", \"admin = afflux.*\"]\n";
    }
    let file = if role == "node" { "node.toml" } else { "client.toml" };
    write_all(
        &dir,
        &[
            (CA, authority.certificate()),
            ("certificate.pem", &issued.certificate),
            ("key.pem", &issued.key),
            (file, &settings),
        ],
        force,
    )?;
    Ok(dir.join(file))
}

/// Writes files that only their owner can read; all or none of those that are there already.
fn write_all(dir: &Path, files: &[(&str, &str)], force: bool) -> Result<Vec<PathBuf>> {
    let context = |path: &Path, error: std::io::Error| {
        Error::failed(format!("cannot write {}: {error}", path.display()))
    };
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
    if !force && let Some(there) = paths.iter().find(|path| path.exists()) {
        return Err(Error::usage(format!("{} is there already", there.display()))
            .hint("`--force` replaces it; whoever trusts what it replaces has to get the new one"));
    }
    fs::create_dir_all(dir).map_err(|error| context(dir, error))?;
    for (path, (_, text)) in paths.iter().zip(files) {
        // A new file each time: one that others could read must not stay so.
        let _ = fs::remove_file(path);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(|error| context(path, error))?;
        file.write_all(text.as_bytes()).map_err(|error| context(path, error))?;
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_mesh::{Tls, TlsMode, TlsPem};

    fn accepted(ca: &str, issued: &Issued) -> std::result::Result<Tls, afflux_wire::Status> {
        let pem = TlsPem {
            authorities: ca.as_bytes(),
            certificates: issued.certificate.as_bytes(),
            key: issued.key.as_bytes(),
        };
        Tls::from_pem(TlsMode::Mutual, "prod", pem)
    }

    #[test]
    fn an_authority_signs_what_it_signed_before_its_files_were_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("prod").unwrap();
        authority.write(dir.path(), false).unwrap();
        let again = Authority::open("prod", dir.path()).unwrap();
        for name in ["node/a", "support/alice"] {
            let issued = again.issue(name, &["localhost".into(), "10.0.0.1".into()], 30).unwrap();
            let tls = accepted(authority.certificate(), &issued).unwrap();
            assert_eq!(tls.own_name(), Some(name));
            let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
            let days = (tls.expires_at_seconds().unwrap() - now) / 86_400;
            assert!((30..=31).contains(&days), "{days}");
        }
        let other = Authority::create("prod").unwrap().issue("node/a", &[], 30).unwrap();
        assert!(accepted(authority.certificate(), &other).is_err());
    }

    #[test]
    fn nothing_is_replaced_unless_asked_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("prod").unwrap();
        let file = write_identity(&authority, dir.path(), "node/a", &[], 30, false).unwrap();
        assert_eq!(file, dir.path().join("a/node.toml"));
        let error = write_identity(&authority, dir.path(), "node/a", &[], 30, false).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("--force"), "{error}");
        let before = fs::read_to_string(dir.path().join("a/key.pem")).unwrap();
        write_identity(&authority, dir.path(), "node/a", &[], 30, true).unwrap();
        assert_ne!(before, fs::read_to_string(dir.path().join("a/key.pem")).unwrap());
        #[cfg(unix)]
        for name in ["ca.pem", "certificate.pem", "key.pem", "node.toml"] {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(dir.path().join("a").join(name)).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn an_identity_has_role_and_name() {
        let authority = Authority::create("prod").unwrap();
        for wrong in ["a", "a/b/c", "/a", "a/", "a/b c", "a/*"] {
            assert!(
                authority.issue(wrong, &[], 1).err().unwrap().to_string().contains("ROLE/NAME"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_settings_beside_a_certificate_start_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("prod").unwrap();
        let file = write_identity(&authority, dir.path(), "node/a", &[], 30, false).unwrap();
        let mut layers = crate::settings::Layers::default();
        layers.file(&file).unwrap();
        let settings = layers.settings();
        assert_eq!((settings.node_id.as_str(), settings.cluster.as_str()), ("a", "prod"));
        let security = crate::security::Security::of(&settings).unwrap();
        assert_eq!(security.tls.unwrap().own_name(), Some("node/a"));
    }
}
