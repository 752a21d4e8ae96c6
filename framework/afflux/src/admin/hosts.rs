//! The names under which the admin port answers who is not asked for a token.
//!
//! A browser sends requests of a page to any address, and by a name of the page's own that leads here (DNS
//! rebinding) it would let the page read the answers. Such a request names the page's host, which a page cannot
//! change; so only names that nobody else can have are answered: this machine's addresses, `localhost`, and what
//! the setting `admin.hosts` lists.

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::http::header::HOST;
use actix_web::{HttpRequest, web};

/// Names beside this machine's addresses and `localhost`, in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts(Arc<[String]>);

impl Hosts {
    /// The names of `admin.hosts`, and that of `admin.listen` where it is one.
    pub(crate) fn of(listed: &[String], listen: &str) -> Self {
        let names = listed.iter().map(String::as_str).chain([name_of(listen)]);
        Self(names.map(plain).filter(|name| !name.is_empty()).collect())
    }

    fn knows(&self, name: &str) -> bool {
        let name = plain(name);
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok()
            || self.0.contains(&name)
    }
}

/// A name without its dot at the end, in lower case.
fn plain(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

/// The name of `HOST:PORT`.
fn name_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Whether a request asks for this node by a name that is its own.
///
/// # Errors
/// The name, and what to do.
pub(crate) fn by_own_name(request: &HttpRequest) -> Result<(), String> {
    // Where the connection is HTTP/2 the name stands in the address.
    let authority = match request.headers().get(HOST) {
        Some(host) => host.to_str().unwrap_or_default(),
        None => request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default(),
    };
    let name = name_of(authority);
    let known = match request.app_data::<web::Data<Hosts>>() {
        Some(hosts) => hosts.knows(name),
        None => Hosts::default().knows(name),
    };
    match known {
        true => Ok(()),
        false => Err(format!(
            "Host is `{name}`: without authentication this node answers as localhost or by its IP address; if `{name}` is a \
             name of this node, list it in `admin.hosts`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn asked(hosts: &Hosts, name: &'static str) -> Result<(), String> {
        let request =
            TestRequest::default().insert_header((HOST, name)).app_data(web::Data::new(hosts.clone()));
        by_own_name(&request.to_http_request())
    }

    #[test]
    fn addresses_localhost_and_listed_names_are_own_and_a_name_that_only_leads_here_is_not() {
        let hosts = Hosts::of(&["Ops.Example.".to_owned()], "node-1.internal:7002");
        for own in [
            "127.0.0.1:7002",
            "[::1]:7002",
            "10.0.0.5",
            "localhost",
            "LOCALHOST:7002",
            "afflux.localhost:7002",
            "ops.example",
            "ops.example.:443",
            "node-1.internal:7002",
        ] {
            assert_eq!(asked(&hosts, own), Ok(()), "{own}");
        }
        for strange in ["evil.example", "127.0.0.1.evil.example", "xlocalhost", "localhost.evil.example", ""]
        {
            let error = asked(&hosts, strange).unwrap_err();
            assert!(error.contains(strange) && error.contains("admin.hosts"), "{error}");
        }
        assert!(asked(&Hosts::of(&[], "127.0.0.1:0"), "ops.example").is_err());
        assert!(
            by_own_name(&TestRequest::default().to_http_request()).is_err(),
            "whoever says no name is a stranger"
        );
    }
}
