//! Writing a frame that is held as a value: for proxies, simulators and tests. The hot paths use the `put_*`
//! functions directly.

use super::encode::{self, FrameBuf};
use super::{Frame, Kind};
use crate::error::WireError;
use crate::status::Status;

impl Frame<'_> {
    /// Appends this frame, length prefix included. What [`Frame::decode`] gave is written back with the same meaning,
    /// though not always with the same bytes: integers take their shortest form.
    ///
    /// # Errors
    /// As the `put_*` function of its kind; [`Frame::Ignored`] has lost its content and cannot be written.
    ///
    /// ```
    /// use afflux_wire::Frame;
    ///
    /// let mut buf = Vec::new();
    /// Frame::Ping(7).put(&mut buf).unwrap();
    /// assert_eq!(buf, [0, 0, 0, 3, 0x92, 8, 7]);
    /// ```
    pub fn put<B: FrameBuf>(&self, buf: &mut B) -> Result<(), Status> {
        match self {
            Self::Request { id, method, params, meta } => {
                encode::put_request(buf, *id, *method, params, meta)?
            }
            Self::Response { id, result: Ok(result), meta } => {
                encode::put_response_ok(buf, *id, result, meta)?
            }
            Self::Response { id, result: Err(error), meta } => {
                encode::put_response_err(buf, *id, error, meta)?
            }
            Self::Notify { method, params, meta } => encode::put_notify(buf, *method, params, meta)?,
            Self::Hello(map) => encode::put_value(buf, Kind::Hello, map)?,
            Self::Welcome(map) => encode::put_value(buf, Kind::Welcome, map)?,
            Self::Reject(error) => encode::put_reject(buf, error)?,
            Self::Bind(methods) => encode::put_bind(buf, methods.iter().copied())?,
            Self::Goaway { last_id, code, reason, grace_ms } => {
                encode::put_goaway(buf, *last_id, *code, reason, *grace_ms);
            }
            Self::Ping(nonce) => encode::put_ping(buf, *nonce),
            Self::Pong(nonce) => encode::put_pong(buf, *nonce),
            Self::Cancel { id, reason } => encode::put_cancel(buf, *id, *reason),
            Self::Open { id, method, params, meta } => encode::put_open(buf, *id, *method, params, meta)?,
            Self::Item { id, first_seq, count, items } => {
                encode::put_item(buf, *id, *first_seq, *count, items)?;
            }
            Self::End { id, result: Ok(result) } => encode::put_end_ok(buf, *id, result)?,
            Self::End { id, result: Err(error) } => encode::put_end_err(buf, *id, error)?,
            Self::Chunk { id, total, last, part } => encode::put_chunk(buf, *id, *total, *last, part)?,
            Self::Credit { id, n } => encode::put_credit(buf, *id, *n),
            Self::Data { channel, seq, count, rows } => encode::put_data(buf, *channel, *seq, *count, rows)?,
            Self::Attach(attach) => encode::put_attach(buf, attach)?,
            Self::Detach { channel } => encode::put_detach(buf, *channel),
            Self::Mark { channel, seq, mark } => encode::put_mark(buf, *channel, *seq, *mark),
            Self::Watch { id, actor } => encode::put_watch(buf, *id, actor)?,
            Self::Down { id, reason, error } => encode::put_down(buf, *id, *reason, error.as_ref())?,
            Self::Redirect { id, node, incarnation } => encode::put_redirect(buf, *id, node, *incarnation)?,
            Self::Health(report) => encode::put_health(buf, report)?,
            Self::Ignored { .. } => {
                return Err(WireError::Malformed {
                    what: "frame",
                    expected: "a kind that this version knows",
                    got: "one that was skipped",
                }
                .into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_frame_cannot_be_written_back() {
        let mut buf = Vec::new();
        assert!(Frame::Ignored { kind: 99 }.put(&mut buf).is_err());
        assert!(buf.is_empty());
    }
}
