//! Where records come from and where they are committed: files, or topics of a Kafka.

use std::io;
use std::path::Path;
use std::time::Duration;

use afflux::{Error, Result};

use crate::ledger::Ledger;
use crate::out::{Look, Out};
use crate::pipeline;
#[cfg(feature = "kafka")]
use crate::topics::{self, Topics};

/// The outside of the pipeline.
pub(crate) enum Ends {
    /// The pipeline makes its records itself, and commits files.
    Files(Out),
    /// It reads a topic and writes another.
    #[cfg(feature = "kafka")]
    Topics(Box<Topics>),
}

impl Ends {
    /// Files below this directory, or new topics of this Kafka.
    ///
    /// # Errors
    /// What Kafka does not do; a build without it.
    #[cfg_attr(not(feature = "kafka"), allow(clippy::unused_async, reason = "Kafka is asked"))]
    pub(crate) async fn make(kafka: Option<&str>, directory: &Path) -> Result<Self> {
        match kafka {
            None => Ok(Self::Files(Out::of(directory))),
            #[cfg(feature = "kafka")]
            Some(brokers) => Ok(Self::Topics(Box::new(Topics::make(brokers, directory).await?))),
            #[cfg(not(feature = "kafka"))]
            Some(brokers) => {
                Err(Error::usage(format!("{brokers} is a Kafka, and this program was built without it"))
                    .hint("build it with `--features kafka`"))
            }
        }
    }

    /// The pipeline between them.
    pub(crate) fn pipeline(&self) -> &'static str {
        match self {
            Self::Files(_) => pipeline::PIPELINE,
            #[cfg(feature = "kafka")]
            Self::Topics(_) => topics::PIPELINE,
        }
    }

    /// What a node has to be told.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Files(_) => Vec::new(),
            #[cfg(feature = "kafka")]
            Self::Topics(topics) => topics.environment(),
        }
    }

    /// Hands all that was committed since the last look to the ledger.
    ///
    /// # Errors
    /// What cannot be read.
    pub(crate) fn look(&mut self, ledger: &mut Ledger) -> io::Result<Look> {
        match self {
            Self::Files(out) => out.look(ledger),
            #[cfg(feature = "kafka")]
            Self::Topics(topics) => topics.look(ledger),
        }
    }

    /// Ends a topic: how many records it has in all; nothing where the source ends by itself.
    ///
    /// # Errors
    /// Records that have not arrived after this long.
    #[cfg_attr(not(feature = "kafka"), allow(unused_variables, reason = "files need no time"))]
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<Option<u64>> {
        match self {
            Self::Files(_) => Ok(None),
            #[cfg(feature = "kafka")]
            Self::Topics(topics) => topics.finish(patience).map(Some),
        }
    }

    /// What is committed in a topic, read once more, and how many records each split has.
    ///
    /// # Errors
    /// A topic that cannot be read.
    #[cfg_attr(not(feature = "kafka"), allow(unused_variables, reason = "files need no time"))]
    pub(crate) async fn judged(&mut self, patience: Duration) -> Result<(Ledger, u64)> {
        match self {
            Self::Files(_) => Err(Error::failed("files are read once")),
            #[cfg(feature = "kafka")]
            Self::Topics(topics) => {
                let ledger = topics.judged(patience).await?;
                Ok((ledger, topics.each()))
            }
        }
    }
}
