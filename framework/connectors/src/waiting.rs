//! What a reader says that waits for others.

use std::task::{Context, Poll};

use afflux_stream::{ReadState, Result};

/// Rows that are there go on at once, and once after the last of them a reader says that it has caught
/// up. `state` is `Pending` where the reader's waker is registered.
pub(crate) fn caught_up(
    state: Poll<Result<ReadState>>,
    rows: bool,
    told: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<ReadState>> {
    match state {
        Poll::Pending if rows || !*told => {
            *told = true;
            Poll::Ready(Ok(ReadState::CaughtUp))
        }
        Poll::Ready(Ok(ReadState::More)) => {
            *told = false;
            if rows {
                return state;
            }
            // Bad lines only: others have their turn, then it goes on.
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        state => state,
    }
}
