//! Names as parts of keys and paths.

/// A name as one segment of a key or a path: letters, digits, `-`, `_` and inner dots stay, every other
/// byte is `%` and two hexadecimal digits.
pub(crate) fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        // ZooKeeper has no node `.` or `..`.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && at > 0 {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The name of a segment; `None` for what is none.
#[cfg(feature = "zookeeper")]
pub(crate) fn unsegment(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_names_share_a_segment_and_none_leaves_its_folder() {
        assert_eq!(segment("afflux.jobs"), "afflux.jobs");
        assert_eq!(segment("service/book"), "service%2Fbook");
        assert_eq!(segment("service%2Fbook"), "service%252Fbook");
        assert_eq!(segment(".."), "%2E.");
        assert_eq!(segment("ü"), "%C3%BC");
    }
}
