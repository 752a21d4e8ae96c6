//! Cutting texts that come from elsewhere.

/// The longest beginning of `text` of at most `bytes_max` bytes that ends between two characters.
pub(crate) fn shorten(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(shorten("éé", 4), "éé");
        assert_eq!(shorten("éé", 3), "é");
        assert_eq!(shorten("éé", 1), "");
    }
}
