//! Bytes in any pieces become lines.

use std::io;

use memchr::memchr;

/// Longest line of a file or of stdin, in bytes.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// What a byte order mark is in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// What [`LineSplitter::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A line without its end.
    Line(&'a [u8]),
    /// The end of a line that was longer than allowed.
    TooLong,
    /// No whole line: more bytes are needed.
    Nothing,
}

/// Splits bytes at `\n`, drops a `\r` in front of it, and a byte order mark at the beginning. Holds
/// no more than the longest line and one read.
pub(crate) struct LineSplitter {
    buffer: Vec<u8>,
    /// What lies before is consumed.
    begin: usize,
    /// What lies between `begin` and this has no line end.
    searched: usize,
    bytes_max: usize,
    /// Bytes of the line at `begin` that were dropped already, it being too long.
    dropped: u64,
    /// Bytes of whole lines.
    consumed: u64,
    lines: u64,
}

impl LineSplitter {
    /// Lines of at most so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), begin: 0, searched: 0, bytes_max, dropped: 0, consumed: 0, lines: 0 }
    }

    /// Goes on behind so many bytes and lines.
    pub(crate) fn at(mut self, consumed: u64, lines: u64) -> Self {
        (self.consumed, self.lines) = (consumed, lines);
        self
    }

    /// Bytes of the lines that were given out.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Lines that were given out, the long ones too: the number of the last one, counted from 1.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether the line in hand is too long already, before its end is seen.
    pub(crate) fn is_overlong(&self) -> bool {
        self.dropped > 0
    }

    /// Whether a line has begun and not ended.
    pub(crate) fn is_within(&self) -> bool {
        self.dropped > 0 || self.begin < self.buffer.len()
    }

    /// Reads once, as many bytes as there is room for; how many it were.
    pub(crate) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        if self.begin > 0 {
            self.buffer.drain(..self.begin);
            self.searched -= self.begin;
            self.begin = 0;
        }
        let held = self.buffer.len();
        self.buffer.resize(held + READ_BYTES, 0);
        let count = read(self.buffer.get_mut(held..).unwrap_or_default());
        self.buffer.truncate(held + *count.as_ref().unwrap_or(&0));
        count
    }

    /// The next whole line.
    pub(crate) fn next(&mut self) -> Found<'_> {
        let unseen = self.buffer.get(self.searched..).unwrap_or_default();
        match memchr(b'\n', unseen) {
            Some(at) => {
                let end = self.searched + at;
                self.take(end, end + 1)
            }
            None => {
                self.searched = self.buffer.len();
                let begun = self.searched - self.begin;
                if begun > self.bytes_max || self.dropped > 0 {
                    self.dropped += begun as u64;
                    self.begin = self.searched;
                }
                Found::Nothing
            }
        }
    }

    /// The line that no line end closes: to be asked for at the end of the input.
    pub(crate) fn last(&mut self) -> Found<'_> {
        let end = self.buffer.len();
        if self.is_within() { self.take(end, end) } else { Found::Nothing }
    }

    fn take(&mut self, end: usize, next: usize) -> Found<'_> {
        let first = self.consumed == 0;
        let begin = self.begin;
        let dropped = std::mem::take(&mut self.dropped);
        let too_long = dropped > 0 || end - begin > self.bytes_max;
        self.consumed += dropped + (next - begin) as u64;
        self.lines += 1;
        self.begin = next;
        self.searched = next;
        if too_long {
            return Found::TooLong;
        }
        let line = self.buffer.get(begin..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Found::Line(if first { line.strip_prefix(MARK).unwrap_or(line) } else { line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Splits text that comes in pieces of these sizes; `None` for a line that is too long.
    fn split(text: &[u8], pieces: &[usize], bytes_max: usize) -> Vec<Option<Vec<u8>>> {
        let mut splitter = LineSplitter::new(bytes_max);
        let (mut lines, mut rest, mut turn) = (Vec::new(), text, 0);
        loop {
            let found = match splitter.next() {
                Found::Nothing if rest.is_empty() => splitter.last(),
                found => found,
            };
            match found {
                Found::Line(line) => lines.push(Some(line.to_vec())),
                Found::TooLong => lines.push(None),
                Found::Nothing if rest.is_empty() => break,
                Found::Nothing => {
                    let count = pieces[turn % pieces.len()].min(rest.len());
                    turn += 1;
                    let (piece, behind) = rest.split_at(count);
                    rest = behind;
                    let read = |into: &mut [u8]| {
                        into[..count].copy_from_slice(piece);
                        Ok(count)
                    };
                    splitter.fill(read).unwrap();
                    assert!(splitter.buffer.len() <= bytes_max + 2 * READ_BYTES);
                }
            }
        }
        assert_eq!((splitter.consumed(), splitter.lines()), (text.len() as u64, lines.len() as u64));
        lines
    }

    proptest! {
        #[test]
        fn however_the_bytes_come_the_lines_are_those_of_the_text(
            lines in prop::collection::vec("[a-z\u{e9}]{0,12}\r?", 0..40),
            ended in any::<bool>(),
            pieces in prop::collection::vec(1_usize..20, 1..8),
        ) {
            let mut text = lines.join("\n");
            if ended && !text.is_empty() {
                text.push('\n');
            }
            let expected: Vec<Option<Vec<u8>>> =
                text.lines().map(|l| Some(l.strip_suffix('\r').unwrap_or(l).into())).collect();
            // `lines` leaves the `\r` of a last line that nothing ends; a file's last line may lack its end.
            prop_assert_eq!(split(text.as_bytes(), &pieces, 100), expected);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_told_at_its_end_and_not_held() {
        let text = [&b"a\n"[..], &[b'x'; 300_000], b"\nb\n", &[b'y'; 11], b"\nc"].concat();
        let expected = [Some(&b"a"[..]), None, Some(b"b"), None, Some(b"c")];
        for pieces in [&[1_000][..], &[64 * 1024], &[7, 60_000]] {
            let lines = split(&text, pieces, 10);
            let lines: Vec<_> = lines.iter().map(|l| l.as_deref()).collect();
            assert_eq!(lines, expected);
        }
        assert_eq!(split(&[b'x'; 50], &[9], 10), [None]);
    }

    #[test]
    fn a_byte_order_mark_is_dropped_at_the_beginning_alone() {
        let lines = split("\u{feff}a\n\u{feff}b".as_bytes(), &[1], 10);
        assert_eq!(lines, [Some(b"a".to_vec()), Some("\u{feff}b".into())]);
    }
}
