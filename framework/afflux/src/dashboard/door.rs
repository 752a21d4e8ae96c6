//! Who may read the cluster's state, and who may change it.

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use afflux_mesh::Mesh;
use afflux_wire::{Code, Executed, Status};

use crate::admin::{by_own_name, only_from_here};

fn text<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn refused(code: Code, text: impl Into<String>) -> Status {
    Status::new(code, text).executed(Executed::No)
}

/// The secret that a request shows.
fn token(request: &HttpRequest) -> Result<Option<&str>, Status> {
    let Some(value) = text(request, AUTHORIZATION.as_str()) else { return Ok(None) };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(refused(Code::Unauthenticated, "the Authorization header is not `Bearer TOKEN`")),
    }
}

/// Whether `/api/v1` may be read: with a token, where there are any, and without one by programs of this machine
/// and by pages that were reached under a name of this node.
///
/// # Errors
/// `UNAUTHENTICATED` where a token would help, else `PERMISSION_DENIED`: what to show, or what to set.
pub(crate) fn may_read(mesh: &Mesh, request: &HttpRequest) -> Result<(), Status> {
    let here = request.peer_addr().is_none_or(|peer| peer.ip().is_loopback());
    let guard = mesh.guard();
    if !guard.is_on() {
        return by_own_name(request).map_err(|strange| refused(Code::PermissionDenied, strange));
    }
    let known = match token(request) {
        Ok(Some(token)) => guard.authenticate(token).map(|_| ()),
        Ok(None) => Err(refused(
            Code::Unauthenticated,
            "from another machine the pages are read with a token: send `Authorization: Bearer TOKEN`",
        )),
        Err(status) => Err(status),
    };
    if !here || known.is_ok() {
        return known;
    }
    by_own_name(request).map_err(|strange| {
        refused(Code::Unauthenticated, format!("{strange}, or send `Authorization: Bearer TOKEN`"))
    })
}

/// Whether a request may change something: with the right of `service/method`, and never for a page of another site.
///
/// # Errors
/// `PERMISSION_DENIED` for such a page, `UNAUTHENTICATED` without a token where one is asked for.
pub(super) fn may_change(
    mesh: &Mesh,
    request: &HttpRequest,
    service: &str,
    method: &str,
) -> Result<(), Status> {
    same_site(request)?;
    let kind = text(request, CONTENT_TYPE.as_str()).unwrap_or_default();
    if !kind.trim().to_ascii_lowercase().starts_with("application/json") {
        // A form of another site could send any other without asking.
        let told = format!("Content-Type is `{kind}`: what changes something is sent as application/json");
        return Err(refused(Code::InvalidArgument, told));
    }
    let guard = mesh.guard();
    if !guard.is_on() {
        return only_from_here(request);
    }
    let identity = token(request)?.map(|token| guard.authenticate(token)).transpose()?;
    mesh.authorize(identity.as_deref(), service, method)
}

/// Refuses what a browser sends for a page that is not ours.
fn same_site(request: &HttpRequest) -> Result<(), Status> {
    let strange = |what: String| {
        refused(
            Code::PermissionDenied,
            format!("{what}: a page of another site may not change anything here"),
        )
    };
    match text(request, "sec-fetch-site") {
        // A browser sets it and no page can.
        Some("same-origin") => return Ok(()),
        Some("none") | None => {}
        Some(other) => return Err(strange(format!("Sec-Fetch-Site is `{other}`"))),
    }
    let Some(origin) = text(request, ORIGIN.as_str()) else { return Ok(()) };
    let host = text(request, HOST.as_str()).unwrap_or_default();
    match origin.split_once("://") {
        Some((_, authority)) if !host.is_empty() && authority.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(strange(format!("Origin is `{origin}` and Host is `{host}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn asked(headers: &[(&'static str, &'static str)]) -> Result<(), Status> {
        let request =
            headers.iter().fold(TestRequest::default(), |request, header| request.insert_header(*header));
        same_site(&request.to_http_request())
    }

    #[test]
    fn a_page_of_another_site_is_refused_by_either_header() {
        assert!(asked(&[]).is_ok(), "a program says neither");
        assert!(asked(&[("sec-fetch-site", "same-origin")]).is_ok());
        assert!(asked(&[("host", "node:1"), ("origin", "http://node:1")]).is_ok());
        for headers in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("host", "node:1"), ("origin", "http://evil.example")],
            &[("host", "node:1"), ("origin", "null")],
            &[("origin", "http://node:1")],
            &[("sec-fetch-site", "none"), ("host", "node:1"), ("origin", "http://node:2")],
        ] {
            assert_eq!(asked(headers).unwrap_err().code, Code::PermissionDenied, "{headers:?}");
        }
    }

    #[test]
    fn a_token_is_read_from_its_header_and_nothing_else_is_taken_for_one() {
        let of = |value: &'static str| {
            TestRequest::default().insert_header(("authorization", value)).to_http_request()
        };
        assert_eq!(token(&of("Bearer x")).unwrap(), Some("x"));
        assert_eq!(token(&of("bearer  x ")).unwrap(), Some("x"));
        assert_eq!(token(&of("Basic x")).unwrap_err().code, Code::Unauthenticated);
        assert_eq!(token(&TestRequest::default().to_http_request()).unwrap(), None);
    }
}
