//! How the operating system asks a process to stop.

use crate::error::Result;

/// Ctrl-C and SIGTERM.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// The name of the signal by which others end a process.
    pub(crate) const TERMINATE: &'static str = "SIGTERM";

    /// Catches the signals from now on.
    pub(crate) fn catch() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Resolves at the next signal, with its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        #[cfg(unix)]
        {
            tokio::select! {
                biased;
                _ = self.interrupt.recv() => "Ctrl-C",
                _ = self.terminate.recv() => Self::TERMINATE,
            }
        }
        #[cfg(not(unix))]
        {
            // Without a way to hear of Ctrl-C the process ends by it at once.
            let _heard = tokio::signal::ctrl_c().await;
            "Ctrl-C"
        }
    }
}
