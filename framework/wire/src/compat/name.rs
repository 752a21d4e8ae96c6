//! Names of methods as other languages write them: `shop.orders.place_order` for `shop.orders/PlaceOrder`.

/// Service and method of a name: split at its slash, or at its last dot.
///
/// ```
/// use afflux_wire::compat::split_name;
/// assert_eq!(split_name("shop.orders.place"), Some(("shop.orders", "place")));
/// assert_eq!(split_name("shop.orders/Place"), Some(("shop.orders", "Place")));
/// assert_eq!(split_name("place"), None);
/// ```
#[must_use]
pub fn split_name(name: &str) -> Option<(&str, &str)> {
    let (service, method) = name.rsplit_once('/').or_else(|| name.rsplit_once('.'))?;
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

/// Whether `called` means the method declared as `declared`: the same, or its snake case.
#[must_use]
pub fn is_method(declared: &str, called: &str) -> bool {
    declared == called || snake(declared) == called
}

/// The name under which `rpc.list` shows a method.
///
/// ```
/// assert_eq!(afflux_wire::compat::plain_name("shop.orders", "PlaceOrder"), "shop.orders.place_order");
/// ```
#[must_use]
pub fn plain_name(service: &str, method: &str) -> String {
    format!("{service}.{}", snake(method))
}

/// `PlaceOrder` as `place_order`, `GetHTTPBody` as `get_http_body`: as the derive names handlers.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut before: Option<char> = None;
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_uppercase()
            && before.is_some_and(|b| {
                b.is_lowercase()
                    || b.is_ascii_digit()
                    || (b.is_uppercase() && letters.peek().is_some_and(|n| n.is_lowercase()))
            })
        {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
        before = Some(letter);
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_called_as_declared_or_in_snake_case() {
        for called in ["GetHTTPBody", "get_http_body"] {
            assert!(is_method("GetHTTPBody", called));
        }
        assert!(!is_method("GetHTTPBody", "gethttpbody"));
        assert!(is_method("V2Get", "v2_get"));
        assert!(is_method("plain", "plain"));
    }

    #[test]
    fn a_name_without_a_service_is_none() {
        for name in ["", ".", "/", "a", "a.", ".a", "a/"] {
            assert_eq!(split_name(name), None, "{name}");
        }
        assert_eq!(split_name("a.b/c.d"), Some(("a.b", "c.d")));
    }
}
