//! One Rust file, with its comments, its texts and its tests set apart.

/// What a byte of a file belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Text,
    Comment,
}

/// A Rust file.
///
/// ```
/// let source = afflux_tidy::Source::new(
///     "a.rs",
///     "fn main() { say(\"actix\"); } // actix\n#[cfg(test)]\nmod tests { use actix; }\n",
/// );
/// assert!(source.find("actix").is_empty(), "a text, a comment and a test do not count");
/// assert_eq!(source.find("say"), [1]);
/// assert_eq!(source.texts_behind("say("), [(1, "actix".to_owned())]);
/// ```
#[derive(Debug)]
pub struct Source {
    /// Its path below the root.
    pub path: String,
    /// Its code: comments, the insides of texts, and items under `#[cfg(test)]` are spaces.
    pub code: String,
    /// The file as it is.
    pub whole: String,
}

impl Source {
    /// Reads a file.
    pub fn new(path: &str, whole: &str) -> Self {
        let parts = parts(whole.as_bytes());
        let mut code: Vec<u8> = whole
            .bytes()
            .zip(&parts)
            .map(|(byte, part)| if *part == Part::Code || byte == b'\n' { byte } else { b' ' })
            .collect();
        blank_tests(&mut code);
        // A byte of a longer character can only be outside of code.
        let code = String::from_utf8_lossy(&code).into_owned();
        Self { path: path.to_owned(), code, whole: whole.to_owned() }
    }

    /// The lines, counted from 1, in whose code a path such as `actix` or `std::env` stands as whole words.
    pub fn find(&self, name: &str) -> Vec<usize> {
        self.places(name).map(|at| self.line(at)).collect()
    }

    /// The offsets in the code at which a name stands as whole words.
    pub fn places<'s>(&'s self, name: &'s str) -> impl Iterator<Item = usize> + 's {
        let code = self.code.as_bytes();
        let word = |at: Option<&u8>| at.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let starts = name.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let ends = name.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        self.code.match_indices(name).map(|(at, _)| at).filter(move |at| {
            let before = at.checked_sub(1).and_then(|at| code.get(at));
            !(starts && word(before) || ends && word(code.get(at + name.len())))
        })
    }

    /// The line of an offset, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        1 + self.code.bytes().take(at).filter(|b| *b == b'\n').count()
    }

    /// The texts that stand first behind an opening such as `Opts::new(`, each with its line.
    pub fn texts_behind(&self, opening: &str) -> Vec<(usize, String)> {
        self.places(opening)
            .filter_map(|at| {
                let behind = at + opening.len();
                let quote = behind + self.code.get(behind..)?.find(|c: char| !c.is_whitespace())?;
                let text = self.whole.get(quote..)?.strip_prefix('"')?;
                Some((self.line(at), text.split('"').next()?.to_owned()))
            })
            .collect()
    }
}

/// What each byte belongs to. The quotes of a text are code, its inside is not.
fn parts(bytes: &[u8]) -> Vec<Part> {
    let mut parts = vec![Part::Code; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (end, part, quote) = if rest.starts_with(b"//") {
            (at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()), Part::Comment, 0)
        } else if rest.starts_with(b"/*") {
            (at + block_comment(rest), Part::Comment, 0)
        } else if let Some((opening, length)) = raw_text(rest, at.checked_sub(1).and_then(|b| bytes.get(b))) {
            (at + length, Part::Text, opening)
        } else if rest[0] == b'"' {
            (at + text(rest), Part::Text, 1)
        } else if rest[0] == b'\'' {
            (at + character(rest), Part::Text, 1)
        } else {
            at += 1;
            continue;
        };
        let closing = if part == Part::Text { 1 } else { 0 };
        for inside in parts.iter_mut().take(end.saturating_sub(closing)).skip(at + quote) {
            *inside = part;
        }
        at = end.max(at + 1);
    }
    parts
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of the opening and of the whole of `r"…"`, `r#"…"#`, `br"…"`.
fn raw_text(rest: &[u8], before: Option<&u8>) -> Option<(usize, usize)> {
    if before.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
        return None;
    }
    let prefix = if rest.starts_with(b"br") {
        2
    } else if rest.starts_with(b"r") {
        1
    } else {
        return None;
    };
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    let opening = prefix + hashes + 1;
    if rest.get(opening - 1) != Some(&b'"') {
        return None;
    }
    let mut closing = vec![b'"'];
    closing.resize(hashes + 1, b'#');
    let body = rest[opening..].windows(closing.len()).position(|w| w == closing.as_slice());
    Some((opening, body.map_or(rest.len(), |at| opening + at + closing.len())))
}

fn text(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a character literal; 0 when the quote begins a lifetime.
fn character(rest: &[u8]) -> usize {
    match rest.get(1) {
        Some(b'\\') => rest.iter().skip(3).position(|b| *b == b'\'').map_or(rest.len(), |at| at + 4),
        Some(_) => {
            // One character, of up to four bytes, and a quote.
            let end = rest.iter().skip(2).take(4).position(|b| *b == b'\'');
            let one = |at: usize| std::str::from_utf8(&rest[1..at + 2]).is_ok_and(|c| c.chars().count() == 1);
            end.filter(|at| one(*at)).map_or(0, |at| at + 3)
        }
        None => 0,
    }
}

/// Makes spaces of every item under `#[cfg(test)]`.
fn blank_tests(code: &mut [u8]) {
    const MARK: &[u8] = b"#[cfg(test)]";
    let mut from = 0;
    while let Some(at) = code[from..].windows(MARK.len()).position(|w| w == MARK) {
        let start = from + at;
        let mut end = start + MARK.len();
        let (mut depth, mut square) = (0_usize, 0_usize);
        while end < code.len() {
            let byte = code[end];
            end += 1;
            match byte {
                b'[' | b'(' => square += 1,
                b']' | b')' => square = square.saturating_sub(1),
                b'{' => depth += 1,
                b'}' if depth <= 1 => break,
                b'}' => depth -= 1,
                b';' if depth == 0 && square == 0 => break,
                _ => {}
            }
        }
        code[start..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        from = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(whole: &str) -> String {
        Source::new("a.rs", whole).code
    }

    #[test]
    fn comments_texts_and_characters_are_no_code() {
        assert_eq!(code("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(code(r#"f("x\"y", 'z', '\'')"#), r#"f("    ", ' ', '  ')"#);
        assert_eq!(code("f(r#\"x\"y\"#) + g"), "f(r#\"    #) + g");
        assert_eq!(code("fn f<'a>(x: &'a str) {} // it's"), "fn f<'a>(x: &'a str) {}        ");
    }

    #[test]
    fn an_item_under_cfg_test_is_no_code_and_what_follows_it_is() {
        let text = "#[cfg(test)]\n#[expect(x)]\nmod tests { fn a() { { b } } }\nfn c() {}";
        assert_eq!(code(text).trim(), "fn c() {}");
        assert_eq!(code("#[cfg(test)]\nconst A: [u8; 2] = [0; 2];\nfn d() {}").trim(), "fn d() {}");
    }

    #[test]
    fn a_name_is_found_as_whole_words_only_with_its_line() {
        let source = Source::new("a.rs", "use actix_web;\nuse actix::A;\nlet my_actix = actix;");
        assert_eq!(source.find("actix"), [2, 3]);
        assert_eq!(source.find("actix::"), [2]);
    }
}
