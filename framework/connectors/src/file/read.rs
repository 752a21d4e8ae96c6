//! A file being read, unpacked as its name says, and how much of it was.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use afflux_stream::Result;
use afflux_wire::{Code, Status};
use flate2::bufread::MultiGzDecoder;

use super::zstd::ZstdFrames;
use super::{Packing, refused, shown};

/// Bytes of a compressed file that are read at once.
const COMPRESSED_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of text that are passed over at once.
const SKIP_BYTES: usize = 64 * 1024;

/// A file being read, and how much of it was.
pub(crate) struct Opened {
    /// Its text.
    pub(crate) bytes: Box<dyn Read + Send>,
    /// Bytes taken from the file, compressed ones if it is compressed.
    pub(crate) taken: Arc<AtomicU64>,
}

/// Opens a file behind so many bytes of its text, of which the last must end a line or the file.
///
/// # Errors
/// `DATA_LOSS` when the file has fewer or others now.
pub(crate) fn open(path: &Path, behind: u64) -> Result<Opened> {
    let mut file = File::open(path).map_err(|e| refused("read", path, &e))?;
    let packing = Packing::of(path);
    let taken = Arc::new(AtomicU64::new(0));
    let mut skip = behind;
    if packing == Packing::Plain && behind > 0 {
        let bytes = file.metadata().map_err(|e| refused("read", path, &e))?.len();
        if bytes < behind {
            return Err(shorter(path, bytes, behind));
        }
        skip = 1;
        file.seek(SeekFrom::Start(behind - 1)).map_err(|e| refused("read", path, &e))?;
        taken.store(behind - 1, Relaxed);
    }
    let file = Counted { file, taken: Arc::clone(&taken) };
    let mut bytes: Box<dyn Read + Send> = match packing {
        Packing::Plain => Box::new(file),
        Packing::Gzip => {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, file)))
        }
        Packing::Zstd => Box::new(ZstdFrames::new(BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, file))),
    };
    if skip > 0 {
        pass_over(&mut bytes, skip, behind, path, &taken)?;
    }
    Ok(Opened { bytes, taken })
}

/// Reads `skip` bytes and drops them.
fn pass_over(
    bytes: &mut Box<dyn Read + Send>,
    skip: u64,
    behind: u64,
    path: &Path,
    taken: &AtomicU64,
) -> Result<()> {
    let mut buffer = vec![0; SKIP_BYTES];
    let (mut left, mut last) = (skip, 0);
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(SKIP_BYTES).min(SKIP_BYTES);
        let read = bytes.read(buffer.get_mut(..want).unwrap_or_default());
        let count = read.map_err(|e| unreadable(path, None, &e, taken.load(Relaxed)))?;
        match buffer.get(..count).and_then(<[u8]>::last) {
            Some(byte) => last = *byte,
            None => return Err(shorter(path, behind - left, behind)),
        }
        left -= count as u64;
    }
    if last != b'\n' && bytes.read(&mut [0]).is_ok_and(|more| more > 0) {
        return Err(Status::new(
            Code::DataLoss,
            format!(
                "{} was changed since the checkpoint: byte {behind} of its text ended a line then and \
                 does not now; bring the file back or start without the checkpoint",
                shown(path)
            ),
        ));
    }
    Ok(())
}

fn shorter(path: &Path, has: u64, read: u64) -> Status {
    Status::new(
        Code::DataLoss,
        format!(
            "{} has {has} bytes of text, but {read} of it had been read at the checkpoint; bring the \
             file back or start without the checkpoint",
            shown(path)
        ),
    )
}

/// The error for a file that is damaged, or no longer there, somewhere in its middle.
#[cold]
pub(crate) fn unreadable(path: &Path, near_line: Option<u64>, error: &io::Error, taken: u64) -> Status {
    let packing = Packing::of(path);
    let named = match packing {
        Packing::Plain => "",
        Packing::Gzip => "gzip",
        Packing::Zstd => "zstd",
    };
    let (code, what) = match error.kind() {
        io::ErrorKind::Other => (Code::InvalidArgument, error.to_string()),
        io::ErrorKind::UnexpectedEof if packing != Packing::Plain => {
            (Code::DataLoss, format!("the {named} file is cut off behind its byte {taken}; copy it again"))
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if packing != Packing::Plain => (
            Code::DataLoss,
            format!(
                "not {named} data, as the name says, or damaged in front of byte {taken} ({error}); \
                 rename it or copy it again"
            ),
        ),
        _ => (Code::Unavailable, error.to_string()),
    };
    let line = near_line.map(|line| format!(" near line {line}")).unwrap_or_default();
    Status::new(code, format!("{}{line}: {what}", path.display()))
}

struct Counted {
    file: File,
    taken: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.taken.fetch_add(bytes as u64, Relaxed);
        Ok(bytes)
    }
}
