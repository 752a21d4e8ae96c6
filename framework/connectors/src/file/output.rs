//! A file being written: beside its place first, at its place when it is whole.
//!
//! What makes a restore exact: a checkpoint has the length and CRC-32 of what was written. A new
//! attempt copies that much into a file of its own and goes on there, so an old attempt that is still
//! alive writes into a file nobody has a name for. A compressed file is cut into a member (gzip) or
//! frame (zstd) at each checkpoint, so that what is copied is whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use afflux_stream::Result;
use afflux_wire::{Code, Status};
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::{Packing, refused, shown};

/// Bytes copied at once by a restore.
const COPY_BYTES: usize = 256 * 1024;
/// Compressed bytes that are written at once.
const PACKED_BYTES: usize = 64 * 1024;
/// Text that becomes one frame of a zstd file.
const FRAME_TEXT_BYTES: usize = 1024 * 1024;

/// An unfinished file. [`Write::flush`] ends a member or frame: what was written is whole then.
pub(crate) struct Output {
    path: PathBuf,
    part: PathBuf,
    raw: Raw,
    packer: Packer,
    abandoned: AtomicBool,
}

/// The bytes as they stand on the disk.
struct Raw {
    file: File,
    bytes: u64,
    crc: Crc,
}

enum Packer {
    Plain,
    /// The member that has begun.
    Gzip(Option<Box<GzEncoder<Vec<u8>>>>),
    /// Text of the next frame.
    Zstd(Vec<u8>),
}

impl Packer {
    fn of(path: &Path) -> Self {
        match Packing::of(path) {
            Packing::Plain => Packer::Plain,
            Packing::Gzip => Packer::Gzip(None),
            Packing::Zstd => Packer::Zstd(Vec::new()),
        }
    }

    /// A file of no text: without a member or frame it is cut off to whoever unpacks it.
    fn nothing(&self) -> Vec<u8> {
        match self {
            Packer::Plain => Vec::new(),
            Packer::Gzip(_) => {
                GzEncoder::new(Vec::new(), Compression::default()).finish().unwrap_or_default()
            }
            Packer::Zstd(_) => compress_to_vec(&[][..], CompressionLevel::Fastest),
        }
    }
}

impl Output {
    /// Begins a file, or goes on where a checkpoint was: its length and CRC-32 then.
    pub(crate) fn open(path: PathBuf, saved: Option<(u64, u32)>) -> Result<Self> {
        if path.is_dir() {
            return Err(Status::invalid(format!(
                "{} is a directory; name the file to write in it",
                shown(&path)
            )));
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|e| refused("make the directory", parent, &e))?;
        }
        let part = with_suffix(&path, ".part");
        // A new file under the old name, so that an earlier attempt does not write into this one.
        let fresh = with_suffix(&path, ".part-new");
        let file = File::create(&fresh).map_err(|e| refused("write", &fresh, &e))?;
        let mut raw = Raw { file, bytes: 0, crc: Crc::new() };
        if let Some((bytes, crc)) = saved {
            copy_written(&part, &path, &mut raw.file, &mut raw.crc, (bytes, crc))?;
            raw.bytes = bytes;
        }
        fs::rename(&fresh, &part).map_err(|e| refused("rename", &fresh, &e))?;
        let packer = Packer::of(&path);
        Ok(Self { path, part, raw, packer, abandoned: AtomicBool::new(false) })
    }

    /// Begins a file as `part`, whose bytes will stand at `path`; with what a checkpoint had seen written to
    /// another file. The directories are there.
    pub(crate) fn create(path: PathBuf, part: PathBuf, from: Option<(&Path, (u64, u32))>) -> Result<Self> {
        let file = File::create(&part).map_err(|e| refused("write", &part, &e))?;
        let mut raw = Raw { file, bytes: 0, crc: Crc::new() };
        if let Some((old, written)) = from {
            copy_written(old, old, &mut raw.file, &mut raw.crc, written)?;
            raw.bytes = written.0;
        }
        let packer = Packer::of(&path);
        Ok(Self { path, part, raw, packer, abandoned: AtomicBool::new(false) })
    }

    /// Where it will stand.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are in the file; right behind a flush.
    pub(crate) fn bytes(&self) -> u64 {
        self.raw.bytes
    }

    /// Nothing more is written, whatever is asked: a writer that did not come to its end must not
    /// touch the file any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Relaxed);
    }

    /// The error for what could not be written.
    pub(crate) fn refusal(&self, error: &io::Error) -> Status {
        refused("write", &self.part, error)
    }

    /// Brings what was flushed to the disk; gives its length and checksum.
    pub(crate) fn persist(&self) -> Result<(u64, u32)> {
        self.raw.file.sync_data().map_err(|e| self.refusal(&e))?;
        self.still_ours()?;
        Ok((self.raw.bytes, self.raw.crc.sum()))
    }

    /// Brings what was flushed to the disk and the file to its place.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.raw.bytes == 0 && !self.abandoned.load(Relaxed) {
            (&self.raw.file).write_all(&self.packer.nothing()).map_err(|e| self.refusal(&e))?;
        }
        self.persist()?;
        fs::rename(&self.part, &self.path).map_err(|e| refused("rename", &self.part, &e))?;
        self.abandon();
        sync_directory(self.path.parent().unwrap_or(Path::new("")))
    }

    /// Whether the unfinished file's name still means the file in hand.
    #[cfg(unix)]
    fn still_ours(&self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let ours = self.raw.file.metadata().map_err(|e| self.refusal(&e))?;
        match fs::metadata(&self.part) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => Ok(()),
            _ => Err(Status::new(
                Code::Aborted,
                format!(
                    "{} was replaced or removed while it was written: a newer attempt or another \
                     job has the same output",
                    shown(&self.part)
                ),
            )),
        }
    }

    #[cfg(not(unix))]
    fn still_ours(&self) -> Result<()> {
        Ok(())
    }
}

/// Brings the names in a directory to the disk.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    // Some systems cannot open one, and need not.
    match File::open(directory) {
        Ok(opened) => opened.sync_all().map_err(|e| refused("write", directory, &e)),
        Err(_) => Ok(()),
    }
}

impl Write for Raw {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let bytes = self.file.write(buffer)?;
        self.crc.update(buffer.get(..bytes).unwrap_or_default());
        self.bytes += bytes as u64;
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Write for Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.abandoned.load(Relaxed) {
            return Ok(text.len());
        }
        match &mut self.packer {
            Packer::Plain => return self.raw.write(text),
            Packer::Gzip(member) => {
                let member = member
                    .get_or_insert_with(|| Box::new(GzEncoder::new(Vec::new(), Compression::default())));
                member.write_all(text)?;
                let packed = member.get_mut();
                if packed.len() >= PACKED_BYTES {
                    self.raw.write_all(packed)?;
                    packed.clear();
                }
            }
            Packer::Zstd(frame) => {
                frame.extend_from_slice(text);
                if frame.len() >= FRAME_TEXT_BYTES {
                    self.raw.write_all(&compress_to_vec(&frame[..], CompressionLevel::Fastest))?;
                    frame.clear();
                }
            }
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.abandoned.load(Relaxed) {
            return Ok(());
        }
        match &mut self.packer {
            Packer::Plain => {}
            Packer::Gzip(member) => {
                if let Some(member) = member.take() {
                    self.raw.write_all(&member.finish()?)?;
                }
            }
            Packer::Zstd(frame) => {
                if !frame.is_empty() {
                    self.raw.write_all(&compress_to_vec(&frame[..], CompressionLevel::Fastest))?;
                    frame.clear();
                }
            }
        }
        self.raw.flush()
    }
}

/// `out/x.csv` and `.part` give `out/x.csv.part`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Copies what a checkpoint had seen written, from the unfinished file, or from the finished one
/// when the failure came after the end.
fn copy_written(
    part: &Path,
    path: &Path,
    to: &mut File,
    crc: &mut Crc,
    (bytes, expected): (u64, u32),
) -> Result<()> {
    let (name, file) = match File::open(part) {
        Err(error) if error.kind() == ErrorKind::NotFound && bytes > 0 => (path, File::open(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => (part, opened),
    };
    let mut from = file.map_err(|e| refused("go on with", name, &e))?.take(bytes);
    let mut buffer = vec![0; COPY_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = from.read(&mut buffer).map_err(|e| refused("read", name, &e))?;
        let text = buffer.get(..count).unwrap_or_default();
        if text.is_empty() {
            break;
        }
        crc.update(text);
        to.write_all(text).map_err(|e| refused("write", part, &e))?;
        left = left.saturating_sub(count as u64);
    }
    if left > 0 || crc.sum() != expected {
        return Err(Status::new(
            Code::DataLoss,
            format!(
                "the first {bytes} bytes of {} are not those that the checkpoint saw; start without \
                 the checkpoint, or bring the file back",
                shown(name)
            ),
        ));
    }
    Ok(())
}
