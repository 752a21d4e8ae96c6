//! What is read of a certificate: its names and its end.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::Shown;
use crate::guard::is_name;

/// The scheme of an identity's URI.
const SPIFFE: &str = "spiffe://";

/// The names of a certificate that was verified.
///
/// # Errors
/// A certificate that cannot be read, or one of another cluster.
pub(super) fn shown(certificate: &CertificateDer<'_>, cluster: &str) -> Result<Shown, String> {
    let certificate =
        EndEntityCert::try_from(certificate).map_err(|error| format!("it cannot be read: {error:?}"))?;
    for uri in certificate.valid_uri_names() {
        let Some((domain, name)) = uri.strip_prefix(SPIFFE).and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        if domain != cluster {
            return Err(format!(
                "it is {uri} of cluster `{domain}`, this one is `{cluster}`: use one cluster's authority"
            ));
        }
        if !is_name(name) || !name.contains('/') {
            return Err(format!("it is {uri}: expected spiffe://{cluster}/ROLE/NAME"));
        }
        return Ok(Shown { spiffe: Some(name.to_owned()), hosts: Vec::new() });
    }
    Ok(Shown { spiffe: None, hosts: certificate.valid_dns_names().map(str::to_owned).collect() })
}

/// Seconds since 1970 at which a certificate ends: `notAfter` of RFC 5280, 4.1.2.5.
pub(super) fn not_after_seconds(certificate: &CertificateDer<'_>) -> Option<u64> {
    let mut whole = Der(certificate.as_ref());
    let mut signed = Der(Der(whole.take(0x30)?).take(0x30)?);
    if signed.tag() == Some(0xa0) {
        signed.take(0xa0)?; // version
    }
    signed.take(0x02)?; // serial number
    signed.take(0x30)?; // signature algorithm
    signed.take(0x30)?; // issuer
    let mut validity = Der(signed.take(0x30)?);
    let tag = validity.tag()?;
    validity.take(tag)?; // notBefore
    match validity.tag()? {
        0x17 => {
            let text = validity.take(0x17)?;
            let year = number(text.get(..2)?)?;
            seconds(if year >= 50 { 1900 + year } else { 2000 + year }, text.get(2..)?)
        }
        0x18 => {
            let text = validity.take(0x18)?;
            seconds(number(text.get(..4)?)?, text.get(4..)?)
        }
        _ => None,
    }
}

/// The rest of a DER value.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&found, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        if found != tag {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits
        .iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

/// `MMDDHHMMSSZ` of a year, as seconds since 1970.
fn seconds(year: u64, rest: &[u8]) -> Option<u64> {
    let part = |at: usize| number(rest.get(at..at + 2)?);
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    if rest.get(10..) != Some(b"Z") || !(1..=12).contains(&month) || day == 0 || year < 1970 {
        return None;
    }
    // Days from the civil calendar (Howard Hinnant), years beginning in March.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(days.checked_sub(719_468)? * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use rustls::pki_types::pem::PemObject;

    /// The PEM of an authority, and certificate and key of a name that it vouches for, for so many years from 2025.
    pub(crate) fn authority_and(uri: &str, years: i32) -> (String, (String, String)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_after = rcgen::date_time_ymd(2025 + years, 2, 28);
        let certificate = params.signed_by(&own, &issuer).unwrap().pem();
        (authority, (certificate, own.serialize_pem()))
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms() {
        let (_, (before_2050, _)) = authority_and("spiffe://test/node/a", 5);
        assert_eq!(not_after_seconds(&der(&before_2050)), Some(1_898_467_200)); // 2030-02-28
        let (_, (after_2050, _)) = authority_and("spiffe://test/node/a", 75);
        assert_eq!(not_after_seconds(&der(&after_2050)), Some(4_107_456_000)); // 2100-02-28
        assert_eq!(not_after_seconds(&CertificateDer::from(vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff])), None);
        assert_eq!(not_after_seconds(&CertificateDer::from(Vec::new())), None);
    }

    #[test]
    fn calendar_days_count_from_1970() {
        assert_eq!(seconds(1970, b"0101000000Z"), Some(0));
        assert_eq!(seconds(2000, b"0229235959Z"), Some(951_868_799));
        assert_eq!(seconds(2024, b"1231235959Z"), Some(1_735_689_599));
        assert_eq!(seconds(2024, b"1331000000Z"), None);
        assert_eq!(seconds(2024, b"123100000Z"), None);
    }

    #[test]
    fn an_identity_is_of_this_cluster_and_has_role_and_name() {
        let (_, (node, _)) = authority_and("spiffe://test/node/a", 5);
        assert_eq!(shown(&der(&node), "test").unwrap().spiffe.as_deref(), Some("node/a"));
        assert!(shown(&der(&node), "prod").unwrap_err().contains("cluster `test`"));
        for uri in ["spiffe://test/a", "spiffe://test/node/a/b", "spiffe://test/node/*"] {
            let (_, (odd, _)) = authority_and(uri, 5);
            assert!(shown(&der(&odd), "test").unwrap_err().contains("ROLE/NAME"), "{uri}");
        }
        let (_, (other, _)) = authority_and("https://test/node/a", 5);
        assert_eq!(shown(&der(&other), "test").unwrap(), Shown::default());
    }
}
