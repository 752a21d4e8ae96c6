//! Whether what a source or sink talks to answers: asked by `check --connect`, before any job is begun.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::Result;
use crate::flow::Plan;
use crate::source::IoContext;

/// The answer of what a source or sink talks to: a sentence on what is there, or an error that names the
/// address and says what to do. It changes nothing there, and has a bound of its own on how long it waits.
pub type Reaching = Pin<Box<dyn Future<Output = Result<String>>>>;

/// Asks for one step of a pipeline.
pub(crate) type Reach = Arc<dyn Fn(&IoContext) -> Option<Reaching> + Send + Sync>;

impl Plan {
    /// The steps that talk to somebody outside, such as a broker, each with what becomes of asking for it.
    /// Nothing is asked until the future is polled. See [`Source::reach`](crate::Source::reach).
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("evens", JobSettings::default());
    /// flow.source("numbers", generate(10, |i| i)).untimed().count("evens");
    /// assert!(flow.finish().unwrap().reaches().is_empty(), "numbers are made here");
    /// ```
    pub fn reaches(&self) -> Vec<(String, Reaching)> {
        let asked = self.outside().iter().filter_map(|(operator, reach)| {
            let io = IoContext {
                attempt: 0,
                on_error: self.settings().on_error,
                ..IoContext::new(&self.graph().pipeline, operator)
            };
            Some((operator.clone(), reach(&io)?))
        });
        asked.collect()
    }
}

#[cfg(test)]
mod tests {
    use afflux_wire::Status;

    use super::*;
    use crate::context::JobSettings;
    use crate::errors::{DeadLetter, replay};
    use crate::flow::Flow;
    use crate::sink::{Sink, SinkWriter};
    use crate::source::{Source, Split, SplitReader};

    /// A broker that is not there.
    struct Away;

    fn away(cx: &IoContext) -> Option<Reaching> {
        let text = format!("{} of {} is not at b:1", cx.operator, cx.pipeline);
        Some(Box::pin(async move { Err(Status::unavailable(text)) }))
    }

    impl Source for Away {
        type Item = DeadLetter<u64>;
        fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
            Ok(Vec::new())
        }
        fn open(
            &self,
            _: &Split,
            _: Option<&[u8]>,
            _: &IoContext,
        ) -> Result<Box<dyn SplitReader<DeadLetter<u64>>>> {
            Err(Status::unavailable("not here"))
        }
        fn kind(&self) -> &'static str {
            "away"
        }
        fn reach(&self, cx: &IoContext) -> Option<Reaching> {
            away(cx)
        }
    }

    impl<T> Sink<T> for Away {
        fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
            Err(Status::unavailable("not here"))
        }
        fn kind(&self) -> &'static str {
            "away"
        }
        fn reach(&self, cx: &IoContext) -> Option<Reaching> {
            away(cx)
        }
    }

    #[test]
    fn sources_and_sinks_that_talk_to_somebody_are_asked_and_wrappers_pass_it_on() {
        let flow = Flow::new("shop", JobSettings::default());
        flow.source("letters", replay(Away)).untimed().sink("out", Away);
        let asked = flow.finish().unwrap().reaches();
        let told: Vec<String> = asked
            .into_iter()
            .map(|(operator, reaching)| {
                format!(
                    "{operator}: {}",
                    futures_util::FutureExt::now_or_never(reaching).unwrap().unwrap_err().message
                )
            })
            .collect();
        assert_eq!(told, ["letters: letters of shop is not at b:1", "out: out of shop is not at b:1"]);
    }
}
