//! What happened, line by line, with the played time: two runs of one seed have the same bytes.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use xxhash_rust::xxh3::Xxh3;

/// How much is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// What the simulation does and what the outside world sees.
    #[default]
    Story,
    /// Also every packet and every line of the log.
    All,
}

struct Page {
    text: String,
    hash: Xxh3,
    /// Whether the lines themselves are kept.
    kept: bool,
    lines: u64,
    now: Duration,
}

thread_local! {
    static PAGE: RefCell<Option<Page>> = const { RefCell::new(None) };
}

/// A trace that is being written on this thread, until it is taken.
pub(crate) struct Trace {
    _log: Option<tracing::subscriber::DefaultGuard>,
}

/// A trace that is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// The lines, where they were kept.
    pub text: String,
    /// XXH3 over all lines.
    pub hash: u64,
    /// How many there were.
    pub lines: u64,
}

impl Trace {
    pub(crate) fn begin(detail: Detail, kept: bool) -> Self {
        let page = Page { text: String::new(), hash: Xxh3::new(), kept, lines: 0, now: Duration::ZERO };
        PAGE.set(Some(page));
        let log = match detail {
            Detail::Story => tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new()),
            Detail::All => {
                let log = tracing_subscriber::fmt()
                    .with_max_level(tracing::Level::TRACE)
                    .with_ansi(false)
                    .with_timer(Played)
                    .with_writer(Lines)
                    .finish();
                tracing::subscriber::set_default(log)
            }
        };
        Self { _log: Some(log) }
    }

    pub(crate) fn take(self) -> Traced {
        drop(self);
        let page = PAGE.take();
        page.map(|page| Traced { hash: page.hash.digest(), text: page.text, lines: page.lines })
            .unwrap_or_default()
    }
}

/// The simulation has come so far.
pub(crate) fn advance(now: Duration) {
    PAGE.with_borrow_mut(|page| {
        if let Some(page) = page {
            page.now = now;
        }
    });
}

/// Writes a line of the story.
pub(crate) fn note(line: fmt::Arguments<'_>) {
    PAGE.with_borrow_mut(|page| {
        if let Some(page) = page {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:>9.3} {line}", page.now.as_secs_f64());
            page.push(&text);
        }
    });
}

impl Page {
    fn push(&mut self, text: &str) {
        self.lines += text.matches('\n').count() as u64;
        self.hash.update(text.as_bytes());
        if self.kept {
            self.text.push_str(text);
        }
    }
}

struct Played;

impl FormatTime for Played {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = turmoil::sim_elapsed().or_else(|| PAGE.with_borrow(|page| page.as_ref().map(|p| p.now)));
        write!(writer, "{:>9.3}", now.unwrap_or_default().as_secs_f64())
    }
}

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        PAGE.with_borrow_mut(|page| {
            if let Some(page) = page {
                page.push(&String::from_utf8_lossy(bytes));
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;
    fn make_writer(&'a self) -> Lines {
        Lines
    }
}
