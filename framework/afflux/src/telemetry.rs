//! The log of a process: `tracing` on stderr, for people or as JSON lines; and its spans, to a collector.

#[cfg(feature = "otlp")]
mod otlp;
mod recent;

pub use recent::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX, LogLine, LogLines};
pub(crate) use recent::{RECENT, level_named};

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use afflux_actor::TRACE_TARGET;
use indicatif::MultiProgress;
use prometheus::{IntCounterVec, Opts, Registry};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt as log};

use crate::error::{Error, Result};
use crate::settings::Settings;

/// The bars on this terminal: a log line steps in front of them instead of through them.
pub(crate) fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Starts logging as the settings say. A second call in a process changes nothing.
///
/// # Errors
/// A filter in `log.level` that cannot be read.
pub fn init(settings: &Settings, metrics: Option<&Registry>) -> Result<()> {
    start(settings, metrics, None)
}

/// What sends the spans of this process; nothing without `trace.otlp_endpoint`.
#[must_use = "the last spans are sent by `close`"]
#[derive(Default)]
pub(crate) struct Exports {
    #[cfg(feature = "otlp")]
    flush: Option<otlp::Flush>,
}

impl Exports {
    /// Sends what has not been sent, for two seconds at most.
    pub(crate) async fn close(self) {
        #[cfg(feature = "otlp")]
        if let Some(flush) = self.flush {
            flush.wait().await;
        }
    }
}

/// [`init`] for a node: `service` and `instance` say whose spans they are. Must be called inside a system.
///
/// # Errors
/// Those of `init`; an endpoint that is no URL, or that this program cannot export to.
#[cfg(feature = "otlp")]
pub(crate) fn init_node(
    settings: &Settings,
    metrics: &Registry,
    service: &str,
    instance: &str,
) -> Result<Exports> {
    if settings.trace_otlp_endpoint.is_empty() {
        return init(settings, Some(metrics)).map(|()| Exports::default());
    }
    let place = afflux_actor::Place::current()
        .ok_or_else(|| Error::failed("spans are sent by a task, and here is no system to run it"))?;
    let (spans, exporter) = otlp::export(&settings.trace_otlp_endpoint, service, instance, metrics)?;
    let flush = Some(exporter.flush(&spans));
    start(settings, Some(metrics), Some(spans))?;
    place.spawn_future(exporter.run());
    Ok(Exports { flush })
}

/// [`init`] for a node.
///
/// # Errors
/// Those of `init`; an endpoint for spans, which this program cannot export.
#[cfg(not(feature = "otlp"))]
pub(crate) fn init_node(settings: &Settings, metrics: &Registry, _: &str, _: &str) -> Result<Exports> {
    if !settings.trace_otlp_endpoint.is_empty() {
        return Err(Error::usage(format!(
            "trace.otlp_endpoint = {}, but this program exports no spans",
            settings.trace_otlp_endpoint
        ))
        .hint("build it with the feature `otlp` of afflux, or leave trace.otlp_endpoint empty"));
    }
    init(settings, Some(metrics)).map(|()| Exports::default())
}

#[cfg(feature = "otlp")]
type Spans = otlp::Spans;
#[cfg(not(feature = "otlp"))]
type Spans = tracing_subscriber::layer::Identity;

fn start(settings: &Settings, metrics: Option<&Registry>, spans: Option<Spans>) -> Result<()> {
    let filter = EnvFilter::builder().parse(&settings.log_level).map_err(|error| {
        Error::usage(format!("log.level: cannot read `{}`: {error}", settings.log_level))
            .hint("a level such as `info`, or directives such as `info,afflux_mesh=debug`")
    })?;
    // actix's servers announce themselves and their workers at info: nobody asked.
    let filter = ["actix_server=warn", "actix_web=warn"]
        .iter()
        .filter(|quiet| !settings.log_level.contains(quiet.split('=').next().unwrap_or_default()))
        .fold(filter, |filter, quiet| match quiet.parse() {
            Ok(directive) => filter.add_directive(directive),
            Err(_) => filter,
        });
    // Spans of sampled calls give log lines their trace; they print nothing of their own.
    let filter = match format!("{TRACE_TARGET}=info").parse() {
        Ok(directive) if !settings.log_level.contains(TRACE_TARGET) => filter.add_directive(directive),
        _ => filter,
    };
    let counted = metrics.map(LogEvents::register).transpose()?;
    let base = tracing_subscriber::registry().with(filter).with(counted).with(spans);
    let started = if settings.log_format == "json" {
        let json = log::layer().json().flatten_event(true).with_writer(Stderr { level: Level::INFO });
        base.with(json.with_filter(filter_fn(is_line))).try_init()
    } else {
        let human = log::layer()
            .compact()
            .with_timer(Clock)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(Stderr { level: Level::INFO });
        base.with(human.with_filter(filter_fn(is_line))).try_init()
    };
    // Somebody else's subscriber (a test's, a host program's) stays.
    drop(started);
    Ok(())
}

/// Whether something is for the log: the events of a span are for those who export it.
fn is_line(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() || metadata.target() != TRACE_TARGET
}

/// `12:30:59.123`, UTC: a console needs no date.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", jiff::Timestamp::now().strftime("%H:%M:%S%.3f"))
    }
}

/// Stderr, in front of any bar; what is written is kept for a while as well.
#[derive(Clone, Copy)]
struct Stderr {
    level: Level,
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().lock().write(line))
    }

    /// `tracing` hands over a line as a whole.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        RECENT.push(jiff::Timestamp::now().as_millisecond(), self.level, line);
        bars().suspend(|| io::stderr().lock().write_all(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        *self
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Stderr {
        Stderr { level: *line.level() }
    }
}

/// `afflux_log_events_total{level}`.
struct LogEvents {
    counters: [prometheus::IntCounter; 5],
}

const LEVELS: [(Level, &str); 5] = [
    (Level::ERROR, "error"),
    (Level::WARN, "warn"),
    (Level::INFO, "info"),
    (Level::DEBUG, "debug"),
    (Level::TRACE, "trace"),
];

impl LogEvents {
    fn register(metrics: &Registry) -> Result<Self> {
        let events =
            IntCounterVec::new(Opts::new("afflux_log_events_total", "Log lines by level."), &["level"])?;
        metrics.register(Box::new(events.clone()))?;
        Ok(Self { counters: LEVELS.map(|(_, name)| events.with_label_values(&[name])) })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogEvents {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !is_line(event.metadata()) {
            return;
        }
        let level = event.metadata().level();
        if let Some(at) = LEVELS.iter().position(|(known, _)| known == level) {
            self.counters[at].inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_wrong_use() {
        let settings = Settings { log_level: "info,=,,x=nonsense".into(), ..Settings::default() };
        let error = init(&settings, None).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("log.level: cannot read `info,=,,x=nonsense`"), "{error}");
    }

    #[test]
    fn every_log_line_is_counted_by_its_level() {
        let metrics = Registry::new();
        let counted = LogEvents::register(&metrics).unwrap();
        let subscriber = tracing_subscriber::registry().with(counted);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("one");
            tracing::warn!("two");
            tracing::error!("three");
        });
        let family = metrics.gather().remove(0);
        let by_level: Vec<(String, f64)> = family
            .get_metric()
            .iter()
            .map(|m| (m.get_label()[0].value().to_owned(), m.get_counter().get_value()))
            .collect();
        assert!(by_level.contains(&("warn".into(), 2.0)) && by_level.contains(&("error".into(), 1.0)));
        assert!(by_level.contains(&("debug".into(), 0.0)), "zeros are exported");
    }
}
