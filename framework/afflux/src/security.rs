//! What the settings say of TLS, tokens and rules, as the mesh takes it; and the addresses that are open to others.

use std::path::Path;
use std::time::Duration;

use afflux_actor::Place;
use afflux_mesh::{Access, Mesh, Tls, TlsMode, TlsPem};
use prometheus::{IntGaugeVec, Opts, Registry};
use tokio_rustls::rustls::ServerConfig;

use crate::error::{Error, Result};
use crate::settings::Settings;

/// Bytes of a file of certificates, tokens or one token.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// `tls.mode` where nobody has set it: no TLS, and therefore no address beyond loopback.
const LOOPBACK: &str = "loopback";
/// No TLS on purpose.
const INSECURE: &str = "insecure";

/// What a process shows to others, and asks of them.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// Certificates, where links are inside TLS.
    pub tls: Option<Tls>,
    /// Who may call what.
    pub access: Access,
    /// The secret that this process shows.
    pub token: Option<String>,
}

impl Security {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it should, with the setting to change.
    pub fn of(settings: &Settings) -> Result<Self> {
        let token = match settings.auth_token_file.as_str() {
            "" => settings.token.clone(),
            path => {
                if !settings.token.is_empty() {
                    return Err(Error::usage("`token` and `auth.token_file` are both set: keep one"));
                }
                let token = text(path, "auth.token_file")?.trim().to_owned();
                if token.is_empty() {
                    return Err(Error::usage(format!("auth.token_file = {path}: the file is empty")));
                }
                token
            }
        };
        Ok(Self {
            tls: tls(settings)?,
            access: access(settings)?,
            token: (!token.is_empty()).then_some(token),
        })
    }
}

/// Who may call what, as `auth.tokens` and `auth.allow` say.
fn access(settings: &Settings) -> Result<Access> {
    let mut access = Access::default();
    if !settings.auth_tokens.is_empty() {
        access = access
            .token_lines(&text(&settings.auth_tokens, "auth.tokens")?)
            .map_err(|why| Error::usage(format!("auth.tokens = {}: {why}", settings.auth_tokens)))?;
    }
    for rule in &settings.auth_allow {
        access = access.allow(rule).map_err(|why| Error::usage(format!("auth.allow: {why}")))?;
    }
    Ok(access)
}

/// The certificates, where `tls.mode` wants some.
fn tls(settings: &Settings) -> Result<Option<Tls>> {
    let mode = match settings.tls_mode.as_str() {
        LOOPBACK | INSECURE => return Ok(None),
        "server" => TlsMode::Server,
        _ => TlsMode::Mutual,
    };
    if settings.tls_ca.is_empty() {
        return Err(Error::usage(format!("tls.mode = {}, but tls.ca is empty", settings.tls_mode))
            .hint("`certs init` makes an authority and certificates, and prints the settings for them"));
    }
    if settings.tls_certificate.is_empty() != settings.tls_key.is_empty() {
        return Err(Error::usage("tls.certificate and tls.key belong together: set both, or none"));
    }
    let read = |path: &str, setting| if path.is_empty() { Ok(Vec::new()) } else { bytes(path, setting) };
    let authorities = bytes(&settings.tls_ca, "tls.ca")?;
    let certificates = read(&settings.tls_certificate, "tls.certificate")?;
    let key = read(&settings.tls_key, "tls.key")?;
    let pem = TlsPem { authorities: &authorities, certificates: &certificates, key: &key };
    Tls::from_pem(mode, &settings.cluster, pem).map(Some).map_err(|status| {
        Error::usage(format!("tls: {}", status.message)).hint(format!(
            "tls.ca = {}, tls.certificate = {}, tls.key = {}; `certs node NAME` makes new ones",
            settings.tls_ca, settings.tls_certificate, settings.tls_key
        ))
    })
}

fn text(path: &str, setting: &str) -> Result<String> {
    String::from_utf8(bytes(path, setting)?)
        .map_err(|_| Error::usage(format!("{setting} = {path}: the file is no text")))
}

fn bytes(path: &str, setting: &str) -> Result<Vec<u8>> {
    let wrong = |why: String| Error::usage(format!("{setting} = {path}: {why}"));
    let length = std::fs::metadata(path).map_err(|error| wrong(format!("cannot be read: {error}")))?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(format!("has {length} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))
}

/// Whether others than this machine can reach an address that is listened on.
pub(crate) fn is_open(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    !(listen.is_empty()
        || bare == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()))
}

/// Refuses addresses that are open to others and protected by nothing.
///
/// # Errors
/// Which address, and the settings that protect it or allow it nevertheless.
pub(crate) fn check_exposure(settings: &Settings) -> Result<()> {
    if settings.tls_mode != LOOPBACK {
        return Ok(());
    }
    let cure = "`certs init` makes certificates and prints the settings for them (tls.mode = mutual); on a network \
                that nobody else is in, set tls.mode = insecure (AFFLUX_TLS_MODE)";
    if is_open(&settings.node_listen) {
        return Err(Error::usage(format!(
            "node.listen = {} is open beyond this machine, and links are not inside TLS (tls.mode = {LOOPBACK})",
            settings.node_listen
        ))
        .hint(cure));
    }
    let asked = !settings.token.is_empty()
        || !settings.auth_token_file.is_empty()
        || !settings.auth_tokens.is_empty();
    if is_open(&settings.admin_listen) && !asked {
        return Err(Error::usage(format!(
            "admin.listen = {} is open beyond this machine, and callers are not asked who they are",
            settings.admin_listen
        ))
        .hint("set `token` or `auth.tokens`, or, on a network that nobody else is in, tls.mode = insecure"));
    }
    Ok(())
}

/// What the admin port shows its callers, where `admin.tls` is on.
///
/// # Errors
/// That there is no certificate, and the settings for one.
pub(crate) fn admin_tls(settings: &Settings, mesh: &Mesh) -> Result<Option<ServerConfig>> {
    if settings.admin_tls != "on" {
        return Ok(None);
    }
    let mesh = mesh.clone();
    Tls::anonymous(move || mesh.tls()).map(Some).map_err(|status| {
        Error::usage(format!("admin.tls = on, but {} (tls.mode = {})", status.message, settings.tls_mode))
            .hint("`certs init` makes certificates and prints the settings for them")
    })
}

/// What is open to others without TLS, on purpose.
pub(crate) fn warning(settings: &Settings) -> Option<String> {
    (settings.tls_mode == INSECURE).then(|| {
        let who = match settings.token.is_empty()
            && settings.auth_token_file.is_empty()
            && settings.auth_tokens.is_empty()
        {
            true => "anybody who reaches a port may call everything",
            false => "tokens and calls can be read on the way",
        };
        format!(
            "tls.mode = insecure: links are not encrypted, and {who} (node.listen = {}, admin.listen = {}); \
             `certs init` makes certificates",
            settings.node_listen, settings.admin_listen
        )
    })
}

/// Registers `afflux_tls_mode`, and says loudly when there is no protection.
///
/// # Errors
/// A name that is taken already.
pub(crate) fn announce(settings: &Settings, metrics: &Registry) -> Result<()> {
    let mode = IntGaugeVec::new(
        Opts::new("afflux_tls_mode", "1 for the value of tls.mode; `insecure` wants a reason."),
        &["mode"],
    )?;
    mode.with_label_values(&[INSECURE]).set(0);
    mode.with_label_values(&[settings.tls_mode.as_str()]).set(1);
    metrics.register(Box::new(mode))?;
    if let Some(warning) = warning(settings) {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Looks every `tls.reload_ms` whether the files of certificates, tokens and rules have changed, and gives what is
/// new to the mesh: it counts from the next handshake, and for rules from the next call. What cannot be read leaves
/// the old in place, and says so. Ends with the place.
pub(crate) fn keep_fresh(settings: &Settings, mesh: Mesh, place: &Place) {
    let every = Duration::from_millis(settings.tls_reload_ms);
    let files: Vec<String> =
        [&settings.tls_ca, &settings.tls_certificate, &settings.tls_key, &settings.auth_tokens]
            .into_iter()
            .filter(|path| !path.is_empty())
            .cloned()
            .collect();
    if every.is_zero() || files.is_empty() {
        return;
    }
    let settings = settings.clone();
    let mut seen = stamps(&files);
    place.spawn_future(async move {
        loop {
            tokio::time::sleep(every).await;
            let now = stamps(&files);
            if now == seen {
                continue;
            }
            // Kept whatever comes of it: a wrong file is told of once, not at every look.
            seen = now;
            match Security::of(&settings) {
                Ok(fresh) => {
                    mesh.set_security(fresh.tls, fresh.access);
                    mesh.count_tls_reload("ok");
                    tracing::info!("certificates and tokens were read again");
                }
                Err(error) => {
                    mesh.count_tls_reload("failed");
                    tracing::error!(%error, "changed certificates or tokens are not used, the old ones stay");
                }
            }
        }
    });
}

/// When each file was changed, and its length; a link is followed, as Kubernetes changes links.
fn stamps(files: &[String]) -> Vec<Option<(std::time::SystemTime, u64)>> {
    files
        .iter()
        .map(|path| {
            let metadata = std::fs::metadata(Path::new(path)).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_closed_to_others() {
        for closed in ["", "127.0.0.1:0", "127.9.9.9:7000", "localhost:7000", "[::1]:7000"] {
            assert!(!is_open(closed), "{closed}");
        }
        for open in ["0.0.0.0:7000", "[::]:7000", "10.0.0.5:7000", "orders-7:7000", "127.example.com:7000"] {
            assert!(is_open(open), "{open}");
        }
    }

    #[test]
    fn an_address_open_to_others_needs_tls_or_a_word_that_it_does_not() {
        let open = Settings { node_listen: "0.0.0.0:7000".into(), ..Settings::default() };
        let error = check_exposure(&open).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for part in ["node.listen = 0.0.0.0:7000", "tls.mode = mutual", "tls.mode = insecure", "certs init"] {
            assert!(error.to_string().contains(part), "{part} is missing in: {error}");
        }
        for mode in ["insecure", "server", "mutual"] {
            assert!(check_exposure(&Settings { tls_mode: mode.into(), ..open.clone() }).is_ok());
        }
        assert!(check_exposure(&Settings { token: "x".into(), ..open }).is_err(), "a token is no encryption");
        assert!(check_exposure(&Settings::default()).is_ok());
        let admin = Settings { admin_listen: "0.0.0.0:9400".into(), ..Settings::default() };
        assert!(check_exposure(&admin).unwrap_err().to_string().contains("admin.listen"));
        assert!(check_exposure(&Settings { token: "x".into(), ..admin }).is_ok());
    }

    #[test]
    fn what_is_insecure_on_purpose_is_said() {
        assert_eq!(warning(&Settings::default()), None);
        let settings = Settings { tls_mode: "insecure".into(), ..Settings::default() };
        assert!(warning(&settings).unwrap().contains("anybody"));
        let settings = Settings { token: "x".into(), ..settings };
        assert!(warning(&settings).unwrap().contains("tokens and calls can be read"));
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_named_with_its_setting() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_string_lossy().into_owned()
        };
        let of = |settings: Settings| Security::of(&settings).map(|_| ()).unwrap_err().to_string();
        let missing = Settings {
            auth_tokens: dir.path().join("no").to_string_lossy().into_owned(),
            ..Settings::default()
        };
        assert!(of(missing).contains("auth.tokens = "));
        let wrong = Settings { auth_tokens: file("tokens", "a"), ..Settings::default() };
        assert!(of(wrong).contains("line 1"));
        let rule = Settings { auth_allow: vec!["x".into()], ..Settings::default() };
        assert!(of(rule).contains("auth.allow: the rule `x` has no `=`"));
        let bare = Settings { tls_mode: "mutual".into(), ..Settings::default() };
        assert!(of(bare.clone()).contains("tls.ca is empty"));
        let half = Settings { tls_ca: file("ca", "x"), tls_key: file("key", "x"), ..bare };
        assert!(of(half.clone()).contains("belong together"));
        let garbage = Settings { tls_key: String::new(), ..half };
        assert!(of(garbage).contains("tls: authorities: "));
        let both = Settings { token: "x".into(), auth_token_file: file("token", "y"), ..Settings::default() };
        assert!(of(both).contains("keep one"));
        let from_file = Settings { auth_token_file: file("token", " y\n"), ..Settings::default() };
        assert_eq!(Security::of(&from_file).unwrap().token.as_deref(), Some("y"));
    }
}
