//! Zstandard files (RFC 8878): frames one behind the other, each decoded as it comes.
//!
//! By `ruzstd`, which is Rust alone: reading and writing work in every build, without a C compiler
//! and without a feature. It decodes at about a third of the C library's speed, which is still above
//! what a JSON parser takes, and writes one level, about that of `zstd -1`.

use std::io::{self, BufRead, ErrorKind, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Largest window that a frame may ask for, in bytes: what `zstd` itself decodes without `--long`.
const WINDOW_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// The text of all frames of a file.
pub(super) struct ZstdFrames<R> {
    bytes: Tail<R>,
    decoder: FrameDecoder,
    /// A frame has begun and is not yet given out whole.
    inside: bool,
}

/// The file, which remembers whether somebody has met its end.
struct Tail<R> {
    bytes: R,
    met_end: bool,
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        self.met_end |= count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

impl<R: BufRead> ZstdFrames<R> {
    pub(super) fn new(bytes: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self { bytes: Tail { bytes, met_end: false }, decoder, inside: false }
    }

    fn fault(&self, error: FrameDecoderError) -> io::Error {
        let kind = if self.bytes.met_end { ErrorKind::UnexpectedEof } else { ErrorKind::InvalidData };
        io::Error::new(kind, error.to_string())
    }

    /// Begins the next frame; `false` at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.bytes.bytes.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.bytes) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let passed = io::copy(&mut (&mut self.bytes).take(length), &mut io::sink())?;
                    if passed < length {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(self.fault(error)),
            }
        }
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let blocks = BlockDecodingStrategy::UptoBlocks(1);
                if let Err(error) = self.decoder.decode_blocks(&mut self.bytes, blocks) {
                    return Err(self.fault(error));
                }
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.inside = false;
            let (told, counted) =
                (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if told.is_some() && told != counted {
                return Err(io::Error::new(ErrorKind::InvalidData, "the checksum of a frame is another"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    /// `printf 'one\ntwo\n' | zstd -c` and `printf 'three\n' | zstd -c`, by zstd 1.5.4.
    const BY_ZSTD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x41, 0x00, 0x00, 0x6f, 0x6e, 0x65, 0x0a, 0x74, 0x77, 0x6f, 0x0a,
        0xe6, 0xa6, 0x0e, 0x40, 0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x31, 0x00, 0x00, 0x74, 0x68, 0x72, 0x65,
        0x65, 0x0a, 0xd7, 0x06, 0xfd, 0x28,
    ];

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        ZstdFrames::new(bytes).read_to_end(&mut text).map(|_| text)
    }

    #[test]
    fn frames_of_another_implementation_are_read_one_behind_the_other() {
        assert_eq!(unpacked(BY_ZSTD).unwrap(), b"one\ntwo\nthree\n");
        assert_eq!(unpacked(b"").unwrap(), b"");
    }

    #[test]
    fn a_frame_to_be_skipped_is_passed_over() {
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz", BY_ZSTD].concat();
        assert_eq!(unpacked(&skipped).unwrap(), b"one\ntwo\nthree\n");
        let cut = unpacked(&skipped[..10]).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_frame_that_is_cut_anywhere_is_an_end_too_early() {
        let text = "0123456789".repeat(50_000);
        let whole = compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
        assert_eq!(unpacked(&whole).unwrap(), text.as_bytes());
        for cut in (1..whole.len()).step_by(whole.len() / 50 + 1) {
            let error = unpacked(&whole[..cut]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "cut at {cut}: {error}");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut bytes = compress_to_vec(&b"all the same ".repeat(100)[..], CompressionLevel::Fastest);
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
        assert_eq!(unpacked(&bytes).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(unpacked(b"plain text").unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
