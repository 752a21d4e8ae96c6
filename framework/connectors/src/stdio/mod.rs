//! The lines of stdin as a source, and stdout as a sink.

mod read;
mod write;

use std::fs::File;
use std::os::fd::AsFd;

use afflux_stream::{IoContext, Recall, Result, Sink, SinkWriter, Source, Split, SplitReader};
use afflux_wire::{Code, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::read::{StdinReader, count_of};
pub use self::write::STDOUT_BYTES_MAX;
use self::write::StdoutWriter;
use crate::lines::{Decode, Encode, decode_json, decode_text, encode_json, encode_text};

/// The lines of stdin as a [`Source`], read by one task of the process that the task runs in.
///
/// No thread waits for it: a terminal, a pipe or a socket is read when it has something, a file at
/// once. The end of stdin ends the stream.
///
/// **At most once**: stdin cannot be read again. What was read and not yet through the pipeline when
/// the job fails is lost, and a restored job goes on with what comes next. Meant for one process
/// (`flights run …`-style tools, tests, a first look); in a cluster of several nodes each has a stdin
/// of its own, and only that of the task's node is read. One source of this kind a process.
///
/// ```
/// use afflux_connectors::{Stdin, Stdout};
/// use afflux_stream::{Flow, JobSettings};
///
/// let flow = Flow::new("shout", JobSettings::default());
/// flow.source("stdin", Stdin::text()).untimed().map(|line| line.to_uppercase()).sink("stdout", Stdout::text());
/// assert!(flow.finish().is_ok());
/// ```
pub struct Stdin<T> {
    decode: Decode<T>,
    kind: &'static str,
}

impl<T: DeserializeOwned> Stdin<T> {
    /// Each line is a JSON value; blank lines are passed over.
    pub fn json() -> Self {
        Self { decode: decode_json, kind: "json lines of stdin, at most once" }
    }
}

impl Stdin<String> {
    /// Each line is a text.
    pub fn text() -> Self {
        Self { decode: decode_text, kind: "text lines of stdin, at most once" }
    }
}

impl<T: Send + 'static> Source for Stdin<T> {
    type Item = T;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        Ok(vec![Split { id: "stdin".to_owned(), payload: Vec::new(), size: None }])
    }

    fn open(&self, _: &Split, position: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SplitReader<T>>> {
        let (lines, skipped) = position.map_or(Ok((0, 0)), count_of)?;
        let file = duplicate(std::io::stdin(), "stdin")?;
        Ok(Box::new(StdinReader::new(file, lines, skipped, self.decode, cx.on_error)))
    }

    fn recall(&self) -> Recall {
        Recall::Lossy
    }

    fn kind(&self) -> &'static str {
        self.kind
    }
}

/// Lines on stdout as a [`Sink`]: one task writes all of them.
///
/// Nothing blocks: while nobody reads what stdout leads to, the pipeline waits, with at most
/// [`STDOUT_BYTES_MAX`] bytes in hand. At a checkpoint and at the end all lines have been handed to the
/// operating system. **At least once**: after a restore the lines behind the checkpoint come again.
pub struct Stdout<T> {
    encode: Encode<T>,
    kind: &'static str,
}

impl<T: Serialize> Stdout<T> {
    /// Each record becomes a line of JSON.
    pub fn json() -> Self {
        Self { encode: encode_json, kind: "json lines on stdout" }
    }
}

impl Stdout<String> {
    /// Each text becomes a line.
    pub fn text() -> Self {
        Self { encode: encode_text, kind: "text lines on stdout" }
    }
}

impl<T: Send + 'static> Sink<T> for Stdout<T> {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        Ok(Box::new(StdoutWriter::new(duplicate(std::io::stdout(), "stdout")?, self.encode)))
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn target(&self) -> Option<String> {
        Some("stdout".to_owned())
    }

    fn single(&self) -> bool {
        true
    }
}

/// The same open file under a descriptor of our own.
fn duplicate(of: impl AsFd, name: &str) -> Result<File> {
    let owned = of.as_fd().try_clone_to_owned().map_err(|error| {
        Status::new(Code::Unavailable, format!("{name} cannot be used: {error}; is it closed?"))
    })?;
    Ok(File::from(owned))
}
