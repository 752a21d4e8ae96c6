//! Frames of streams, and frames that come in parts.

use std::time::Instant;

use afflux_actor::clock;
use afflux_wire::contract::{CallMeta, ReplyTo};
use afflux_wire::{Code, Executed, Frame, Kind, Meta, Method, Stage, Status};
use bytes::{Bytes, BytesMut};

use super::{COPY_BYTES_MAX, Control, Violation, chain_of, violation};
use crate::hash::IdMap;
use crate::services::ServiceTable;
use crate::stream::Stream;

/// Bytes of a large frame beside its params, result or items.
const LARGE_OVERHEAD_BYTES: usize = 64 << 10;

/// Large frames of which not all parts are here.
#[derive(Default)]
pub(super) struct Wholes {
    parts: IdMap<u64, (BytesMut, usize)>,
    /// What all of them will be long together.
    bytes: usize,
}

impl Wholes {
    /// Takes a part; gives the whole frame with the last one.
    pub(super) fn part(
        &mut self,
        limits: &afflux_wire::Limits,
        id: u64,
        total: Option<u64>,
        last: bool,
        part: &[u8],
    ) -> Result<Option<Bytes>, Violation> {
        if let Some(total) = total {
            let max = limits.message_bytes_max as usize + LARGE_OVERHEAD_BYTES;
            let bytes = usize::try_from(total).unwrap_or(usize::MAX);
            if bytes > max {
                return violation(
                    "message_too_large",
                    format!("a message of {bytes} bytes, message_bytes_max is {}", limits.message_bytes_max),
                );
            }
            if self.bytes > 0 && self.bytes + bytes > limits.chunked_bytes_max as usize + LARGE_OVERHEAD_BYTES
            {
                return violation(
                    "chunk_budget",
                    format!(
                        "large messages of {} bytes are under way, at most {} may be (chunked_bytes_max)",
                        self.bytes + bytes,
                        limits.chunked_bytes_max
                    ),
                );
            }
            let wholes_max = 2 * limits.in_flight_max as usize + limits.streams_max as usize;
            if self.parts.len() >= wholes_max {
                return violation(
                    "chunk_budget",
                    format!(
                        "{} large messages are under way, no more than calls and streams can be: at most \
                         {wholes_max} (twice in_flight_max, and streams_max)",
                        self.parts.len()
                    ),
                );
            }
            // All of it at once: growing would copy what has come again and again. What peers claim is bounded above.
            if self.parts.insert(id, (BytesMut::with_capacity(bytes), bytes)).is_some() {
                return violation("chunk", format!("a second message of id {id} begins inside the first"));
            }
            self.bytes += bytes;
        }
        let Some((whole, bytes)) = self.parts.get_mut(&id) else {
            return violation("chunk", format!("a part of id {id}, whose first part never came"));
        };
        let bytes = *bytes;
        if whole.len() + part.len() > bytes || (last && whole.len() + part.len() < bytes) {
            return violation(
                "chunk",
                format!("the parts of id {id} have {} bytes, not {bytes}", whole.len() + part.len()),
            );
        }
        whole.extend_from_slice(part);
        if !last {
            return Ok(None);
        }
        self.bytes -= bytes;
        Ok(self.parts.remove(&id).map(|(whole, _)| whole.freeze()))
    }
}

impl Control<'_> {
    /// OPEN came.
    pub(super) fn open(&mut self, id: u64, method: Method<'_>, params: &[u8], meta: Meta, now: Instant) {
        let services = self.shared.services();
        if let Err((service, status, reason)) = self.try_open(id, method, params, meta, now, &services) {
            self.link.metrics.rejected(service, reason);
            let status = status.executed(Executed::No).stage(Stage::Admission).node(&self.link.node);
            self.link.refuse_stream(id, &status);
        }
    }

    fn try_open(
        &mut self,
        id: u64,
        method: Method<'_>,
        params: &[u8],
        meta: Meta,
        now: Instant,
        services: &ServiceTable,
    ) -> Result<(), (&'static str, Status, &'static str)> {
        let of_actor = meta.rare().and_then(|rare| rare.to.as_ref());
        let of_actor = of_actor.map(|to| self.shared.method_of_actor(to, services, method));
        let found = match &of_actor {
            None => services.find(method),
            Some(found) => found.as_ref().map_err(Clone::clone),
        };
        let method = found.map_err(|(status, reason)| ("unknown", status, reason))?;
        let of = |(status, reason)| (method.service, status, reason);
        let identity = self.doorman.admit(self.shared, self.link, method, &meta).map_err(of)?;
        if meta.deadline_ms == Some(0) {
            let status = Status::new(Code::DeadlineExceeded, "the deadline passed before the call arrived");
            return Err(of((status, "deadline")));
        }
        if method.kind == afflux_wire::contract::MethodKind::OneWay {
            let status = Status::invalid("a one-way method cannot be opened as a stream: it has no end");
            return Err(of((status, "kind")));
        }
        let chain = chain_of(&meta).map_err(|status| of((status, "chain")))?;
        self.link.check_streams_of_peer().map_err(of)?;
        self.link.admit(id, method, now).map_err(of)?;
        self.asked.add(&method.metrics.traffic.came, method.service, params.len());
        let rows = meta.rows && self.link.same_build;
        let streams = method.kind.streams();
        let stream = Stream::served(self.link, id, streams, rows, method.metrics.traffic.clone());
        self.link.add_stream(id, &stream);
        let meta = CallMeta { chain, ..self.meta(meta, now, identity) };
        method.dispatch.dispatch(method.index, params, meta, Some(ReplyTo::stream(stream)));
        Ok(())
    }

    /// ITEM came.
    #[inline]
    pub(super) fn items(
        &mut self,
        id: u64,
        first_seq: u64,
        count: u32,
        items: Bytes,
    ) -> Result<(), Violation> {
        let Some(stream) = self.link.stream(id) else {
            self.link.metrics.items_dropped(u64::from(count));
            return Ok(());
        };
        // A small block must not keep a whole read buffer.
        let items = if items.len() < COPY_BYTES_MAX { Bytes::copy_from_slice(&items) } else { items };
        match stream.items(first_seq, count, items) {
            Ok(true) => self.link.metrics.items_in.inc_by(u64::from(count)),
            Ok(false) => self.link.metrics.items_dropped(u64::from(count)),
            Err((reason, text)) => return violation(reason, format!("stream {id}: {text}")),
        }
        Ok(())
    }

    /// END came.
    pub(super) fn end(&mut self, id: u64, result: Result<Bytes, Status>) {
        match self.link.stream(id) {
            Some(stream) if !stream.is_caller() => stream.half_closed(result.map(drop)),
            // Of a call that was cancelled meanwhile: nobody waits.
            None => {}
            Some(_) => {
                let result = result.as_deref().map_err(Clone::clone);
                self.link.answered(id, result, 0, clock::now(), &mut self.answers);
            }
        }
    }

    /// A large frame is whole.
    pub(super) fn whole(&mut self, whole: &Bytes, now: Instant) -> Result<(), Violation> {
        let frame = Frame::decode(whole)?;
        if let Some(kind) = frame.kind() {
            self.counts.add(kind);
        }
        match frame {
            Frame::Request { id, method, params, meta } => {
                if let Err(text) = self.link.check_id_of_parts(id) {
                    return violation("id", text);
                }
                let services = self.shared.services();
                self.request(id, method, &params, meta, now, &services);
            }
            Frame::Notify { method, params, meta } => {
                let services = self.shared.services();
                self.notify(method, &params, meta, now, &services);
            }
            Frame::Response { id, result, meta } => {
                let result = result.as_deref().map_err(Clone::clone);
                self.link.answered(id, result, meta.load, now, &mut self.answers);
            }
            Frame::Open { id, method, params, meta } => {
                if let Err(text) = self.link.check_id_of_parts(id) {
                    return violation("id", text);
                }
                self.open(id, method, &params, meta, now);
            }
            Frame::Item { id, first_seq, count, items } => return self.items(id, first_seq, count, items),
            Frame::End { id, result } => self.end(id, result),
            other => {
                let name = other.kind().map_or("an unknown frame", Kind::name);
                return violation("misplaced", format!("{name} in parts"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_wire::Limits;

    fn reason(result: Result<Option<Bytes>, Violation>) -> &'static str {
        result.expect_err("refused").reason
    }

    #[test]
    fn parts_of_several_messages_may_take_turns() {
        let (limits, mut wholes) = (Limits::default(), Wholes::default());
        assert!(wholes.part(&limits, 1, Some(4), false, b"ab").ok().unwrap().is_none());
        assert!(wholes.part(&limits, 3, Some(2), false, b"x").ok().unwrap().is_none());
        assert_eq!(wholes.part(&limits, 1, None, true, b"cd").ok().unwrap().unwrap(), &b"abcd"[..]);
        assert_eq!(wholes.part(&limits, 3, None, true, b"y").ok().unwrap().unwrap(), &b"xy"[..]);
        assert_eq!(wholes.bytes, 0);
    }

    #[test]
    fn what_does_not_keep_to_its_length_or_its_limits_is_refused() {
        let limits = Limits { message_bytes_max: 1 << 20, chunked_bytes_max: 1 << 20, ..Limits::default() };
        let new = Wholes::default;
        assert_eq!(reason(new().part(&limits, 1, None, false, b"a")), "chunk");
        assert_eq!(reason(new().part(&limits, 1, Some(1), false, b"ab")), "chunk");
        assert_eq!(reason(new().part(&limits, 1, Some(3), true, b"ab")), "chunk");
        assert_eq!(reason(new().part(&limits, 1, Some(u64::MAX), false, b"a")), "message_too_large");
        let mut wholes = new();
        assert!(wholes.part(&limits, 1, Some(1 << 20), false, b"a").is_ok());
        assert_eq!(reason(wholes.part(&limits, 3, Some(1 << 20), false, b"a")), "chunk_budget");
        let few = Limits { in_flight_max: 1, streams_max: 1, ..limits };
        let mut wholes = new();
        for id in 0..3 {
            assert!(wholes.part(&few, id, Some(0), false, b"").is_ok());
        }
        assert_eq!(reason(wholes.part(&few, 3, Some(0), false, b"")), "chunk_budget");
        let mut wholes = new();
        assert!(wholes.part(&limits, 1, Some(9), false, b"a").is_ok());
        assert_eq!(reason(wholes.part(&limits, 1, Some(9), false, b"a")), "chunk");
    }
}
