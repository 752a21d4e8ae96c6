//! Names: cases, neighbours, and words that cannot be used.

use proc_macro2::{Ident, Span};

/// `PlaceOrder` as `place_order`; `GetHTTPBody` as `get_http_body`.
pub(crate) fn snake(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 4);
    for (i, letter) in letters.iter().enumerate() {
        let before = i.checked_sub(1).map(|j| letters[j]);
        if letter.is_uppercase()
            && before.is_some_and(|b| {
                b.is_lowercase()
                    || b.is_ascii_digit()
                    || (b.is_uppercase() && letters.get(i + 1).is_some_and(|n| n.is_lowercase()))
            })
        {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// An identifier for a method; a keyword becomes a raw one. `None` for the few that cannot.
pub(crate) fn method_ident(snake: &str, span: Span) -> Option<Ident> {
    if matches!(snake, "self" | "super" | "crate" | "_") {
        return None;
    }
    match syn::parse_str::<Ident>(snake) {
        Ok(_) => Some(Ident::new(snake, span)),
        Err(_) => Some(Ident::new_raw(snake, span)),
    }
}

/// The known name that is most like this one, when one is like it at all.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Below this Jaro-Winkler similarity a suggestion confuses more than it helps.
    const SIMILARITY_MIN: f64 = 0.75;
    let plain = |s: &str| s.replace(['_', '-'], "").to_lowercase();
    let wanted = plain(name);
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(&wanted, &plain(k)), *k))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// " — did you mean `x`? (known: …)", the end of every message about an unknown word.
pub(crate) fn suggestion(name: &str, known: &[&str]) -> String {
    let list = known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`? Known are {list}"),
        None => format!("known are {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_becomes_a_method_in_snake_case() {
        for (variant, method) in [
            ("Place", "place"),
            ("PlaceOrder", "place_order"),
            ("GetHTTPBody", "get_http_body"),
            ("GetHTTP", "get_http"),
            ("V2Get", "v2_get"),
            ("A", "a"),
        ] {
            assert_eq!(snake(variant), method);
        }
    }

    #[test]
    fn a_keyword_becomes_a_raw_identifier_and_self_none() {
        let span = Span::call_site();
        assert_eq!(method_ident("type", span).unwrap().to_string(), "r#type");
        assert_eq!(method_ident("place", span).unwrap().to_string(), "place");
        assert!(method_ident("super", span).is_none());
    }

    #[test]
    fn the_nearest_name_is_found_over_a_slip_or_another_case() {
        assert_eq!(nearest("retruns", &["returns", "deadline"]), Some("returns"));
        assert_eq!(nearest("NOT_FOUND", &["NotFound", "Internal"]), Some("NotFound"));
        assert_eq!(nearest("zzz", &["returns", "deadline"]), None);
    }
}
