//! The entry: an actor system on the calling thread.

use std::future::Future;

use afflux_wire::{Code, Status};

/// Runs a future on the calling thread, as the first thread of an actor system, to its end.
///
/// What it has spawned on this thread is dropped when it returns.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` when the operating system refuses what a runtime needs.
///
/// ```
/// assert_eq!(afflux_actor::system(|| async { 1 + 1 }).unwrap(), 2);
/// ```
pub fn system<F: Future>(main: impl FnOnce() -> F) -> Result<F::Output, Status> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Status::new(Code::ResourceExhausted, format!("no runtime can be made: {error}")))?;
    Ok(run(runtime, main))
}

fn run<F: Future>(runtime: tokio::runtime::Runtime, main: impl FnOnce() -> F) -> F::Output {
    let runner = actix_rt::System::with_tokio_rt(|| runtime);
    runner.block_on(async move { main().await })
}

/// Actor systems for tests.
#[cfg(any(test, feature = "test"))]
pub mod test {
    use std::future::Future;

    /// Runs a test on a system whose clock stands still while anything can run, and then leaps to
    /// the next timer: an hour passes at once.
    ///
    /// # Panics
    /// When no runtime can be made.
    pub fn paused<F: Future>(test: impl FnOnce() -> F) -> F::Output {
        #[expect(clippy::expect_used, reason = "a test cannot go on without a runtime")]
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime can be made");
        super::run(runtime, test)
    }

    /// Runs a test on a system with the real clock: for sockets and for other threads.
    ///
    /// # Panics
    /// When no runtime can be made.
    pub fn system<F: Future>(test: impl FnOnce() -> F) -> F::Output {
        #[expect(clippy::expect_used, reason = "a test cannot go on without a runtime")]
        crate::system(test).expect("a runtime can be made")
    }

    /// Lets everything that can run now have `turns` turns.
    pub async fn turns(turns: usize) {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}
