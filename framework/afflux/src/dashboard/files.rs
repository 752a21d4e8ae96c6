//! What a browser loads: one page, its scripts and styles, out of the binary.
//!
//! The page names its files below `assets/VERSION/`, where VERSION is a hash of all of them: they may be kept for ever,
//! and a new build is another address. All addresses are relative, so that the page works below any path.

use std::sync::OnceLock;

use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use afflux_wire::Status;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::admin::failure;

const JS: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

/// The page; `VERSION` stands for the hash of the files.
const PAGE: &str = include_str!("index.html");

/// Names, types and contents.
const FILES: [(&str, &str, &str); 11] = [
    ("app.js", JS, include_str!("app.js")),
    ("charts.js", JS, include_str!("charts.js")),
    ("feed.js", JS, include_str!("feed.js")),
    ("graph.js", JS, include_str!("graph.js")),
    ("pages.js", JS, include_str!("pages.js")),
    ("parts.js", JS, include_str!("parts.js")),
    ("style.css", CSS, include_str!("style.css")),
    ("vendor/dagre.js", JS, include_str!("vendor/dagre.js")),
    ("vendor/htm-preact.js", JS, include_str!("vendor/htm-preact.js")),
    ("vendor/uplot.css", CSS, include_str!("vendor/uplot.css")),
    ("vendor/uplot.js", JS, include_str!("vendor/uplot.js")),
];

/// Nothing but files of this port: no script or style in the page, nothing from elsewhere, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The hash of all files.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let mut hash = Xxh3::new();
        for (name, _, content) in FILES {
            hash.update(name.as_bytes());
            hash.update(content.as_bytes());
        }
        format!("{:016x}", hash.digest())
    })
}

fn page() -> &'static (String, String) {
    static TEXT: OnceLock<(String, String)> = OnceLock::new();
    TEXT.get_or_init(|| {
        let text = PAGE.replace("VERSION", version());
        let tag = tag(&text);
        (text, tag)
    })
}

fn tag(content: &str) -> String {
    format!("\"{:016x}\"", xxh3_64(content.as_bytes()))
}

pub(super) async fn index(request: HttpRequest) -> HttpResponse {
    let (text, tag) = page();
    // Asked for each time, so that a browser sees the page of the build that runs.
    answer(&request, tag, "no-cache", "text/html; charset=utf-8", text)
}

pub(super) async fn asset(request: HttpRequest) -> HttpResponse {
    let path = request.match_info();
    let name = path.query("name");
    let Some((_, kind, content)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return failure(&Status::not_found(format!("the dashboard has no file {name}")));
    };
    // A page of another build asks for its own files: what is sent is not kept under that name.
    let kept = match path.query("version") == version() {
        true => "public, max-age=31536000, immutable",
        false => "no-store",
    };
    answer(&request, &tag(content), kept, kind, content)
}

fn answer(request: &HttpRequest, tag: &str, kept: &str, kind: &str, content: &'static str) -> HttpResponse {
    if has(request.headers(), tag) {
        return with_headers(HttpResponse::NotModified(), tag, kept).finish();
    }
    with_headers(HttpResponse::Ok(), tag, kept).content_type(kind).body(content)
}

fn with_headers(mut response: HttpResponseBuilder, tag: &str, kept: &str) -> HttpResponseBuilder {
    response
        .insert_header((header::ETAG, tag.to_owned()))
        .insert_header((header::CACHE_CONTROL, kept.to_owned()))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"));
    response
}

/// Whether the browser has this content already.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_page_names_nothing_but_its_own_files_and_has_no_script_in_it() {
        let (text, _) = page();
        assert!(!text.contains("VERSION") && text.contains(version()));
        let mut named = 0;
        for opening in ["src=\"", "href=\""] {
            for address in text.split(opening).skip(1).filter_map(|rest| rest.split('"').next()) {
                if address.starts_with('#') || address.starts_with("data:") {
                    continue;
                }
                let name = address.strip_prefix(&format!("assets/{}/", version())).unwrap_or("?");
                assert!(FILES.iter().any(|(known, ..)| *known == name), "{address}");
                named += 1;
            }
        }
        assert!(named >= 3, "{named} files");
        let scripts = text.split("<script").skip(1).map(|rest| rest.split_once('>').unwrap());
        for (attributes, behind) in scripts {
            assert!(attributes.contains("src=") && behind.trim_start().starts_with("</script>"), "{behind}");
        }
        assert!(!text.contains("style=") && !text.contains("<style") && !text.contains("onclick"));
    }

    #[test]
    fn every_module_is_imported_by_a_relative_name_that_is_there() {
        for (file, kind, content) in FILES.iter().filter(|(name, ..)| !name.starts_with("vendor/")) {
            if *kind != JS {
                assert!(!content.contains("url(") && !content.contains("@import"), "{file} loads more");
                continue;
            }
            for name in content.split("from \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let name = name.strip_prefix("./").unwrap_or_else(|| panic!("{file} imports {name}"));
                assert!(FILES.iter().any(|(known, ..)| *known == name), "{file} imports {name}");
            }
            for word in
                ["eval(", "new Function", "innerHTML", "http://", "https://", "\"/api", "\"/rpc", "`/"]
            {
                assert!(!content.contains(word), "{file} has {word}");
            }
        }
    }

    #[test]
    fn files_of_others_are_those_that_the_list_names() {
        let list = include_str!("vendor/VENDOR.md");
        let mut listed = 0;
        for (name, _, content) in FILES {
            let Some(name) = name.strip_prefix("vendor/") else { continue };
            let digest: String =
                Sha256::digest(content.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
            let row =
                list.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap_or_default();
            assert!(row.contains(&format!("`{digest}`")), "VENDOR.md on {name} lacks {digest}");
            listed += 1;
        }
        assert_eq!(listed, list.matches("\n| `").count());
    }

    #[test]
    fn together_they_are_small() {
        let bytes: usize = FILES.iter().map(|(.., content)| content.len()).sum::<usize>() + PAGE.len();
        println!("{bytes} bytes");
        assert!(bytes < 180_000, "the dashboard adds {bytes} bytes to every binary");
    }

    #[test]
    fn a_browser_that_has_the_content_is_told_so_in_every_form_of_the_header() {
        let request = |value: &'static str| {
            TestRequest::default().insert_header(("if-none-match", value)).to_http_request()
        };
        assert!(has(request("\"a\"").headers(), "\"a\""));
        assert!(has(request("\"b\", W/\"a\"").headers(), "\"a\""));
        assert!(!has(request("\"b\"").headers(), "\"a\""));
        assert!(!has(TestRequest::default().to_http_request().headers(), "\"a\""));
    }
}
