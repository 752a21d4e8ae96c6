//! Whatever bytes come, there is a value or an error; whatever is written comes back, however it is cut up.

use afflux_wire::handshake::Preface;
use afflux_wire::{
    Attach, CancelReason, Code, Executed, Frame, Frames, Hello, Limits, Mark, Meta, Method, RareMeta,
    Scanner, Status, TraceParent, Welcome, codec, next_frame, skip_value, take_frames,
};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 250..260), 1 => Just(vec![7; 66_000])]
        .prop_map(Bytes::from)
}

fn some_bytes() -> impl Strategy<Value = Option<Bytes>> {
    option::weighted(0.3, payload())
}

fn trace() -> impl Strategy<Value = Option<TraceParent>> {
    option::of(
        (any::<[u8; 16]>(), any::<[u8; 8]>(), any::<u8>())
            .prop_map(|(trace_id, parent_id, flags)| TraceParent { trace_id, parent_id, flags }),
    )
}

fn meta() -> impl Strategy<Value = Meta> {
    let small = (option::of(any::<u64>()), trace(), any::<u32>(), any::<u32>());
    let rare = (some_bytes(), some_bytes(), some_bytes(), some_bytes(), some_bytes());
    let rare = rare.prop_map(|(idempotency_key, chain, to, from, token)| RareMeta {
        baggage: chain.clone(),
        tracestate: to.clone(),
        idempotency_key,
        chain,
        to,
        from,
        token,
    });
    let full = (small, rare).prop_map(|((deadline_ms, traceparent, attempt, priority), rare)| {
        let rare = (rare != RareMeta::default()).then(|| Box::new(rare));
        Meta { deadline_ms, traceparent, attempt, priority, load: attempt / 2, rows: attempt % 2 == 1, rare }
    });
    prop_oneof![Just(Meta::default()), full]
}

fn status() -> impl Strategy<Value = Status> {
    (1u8..=16, ".{0,60}", option::of((0..3usize, option::of(vec(any::<u8>(), 0..9))))).prop_map(
        |(code, text, details)| {
            let status = Status::new(Code::from_number(code), text);
            let Some((executed, data)) = details else {
                return status;
            };
            let mut status = status.executed([Executed::No, Executed::Maybe, Executed::Yes][executed]);
            status.details_mut().data = data;
            status
        },
    )
}

/// A frame and the strings that it borrows, so that it can live in a strategy.
#[derive(Clone, Debug)]
struct Owned {
    frame: Frame<'static>,
    name: Option<String>,
}

impl Owned {
    fn frame(&self) -> Frame<'_> {
        match (&self.name, self.frame.clone()) {
            (Some(name), Frame::Request { id, params, meta, .. }) => {
                Frame::Request { id, method: Method::Name(name), params, meta }
            }
            (Some(name), Frame::Notify { params, meta, .. }) => {
                Frame::Notify { method: Method::Name(name), params, meta }
            }
            (Some(name), Frame::Redirect { id, incarnation, .. }) => {
                Frame::Redirect { id, node: name, incarnation }
            }
            (Some(name), Frame::Open { id, params, meta, .. }) => {
                Frame::Open { id, method: Method::Name(name), params, meta }
            }
            (Some(name), Frame::Attach(attach)) => Frame::Attach(Attach { job: name, ..attach }),
            (Some(name), Frame::Goaway { last_id, code, grace_ms, .. }) => {
                Frame::Goaway { last_id, code, reason: name, grace_ms }
            }
            (Some(name), Frame::Bind(methods)) => {
                Frame::Bind(methods.iter().map(|(n, _)| (*n, name.as_str())).collect())
            }
            (_, frame) => frame,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut buf = Vec::new();
        self.frame().put(&mut buf).expect("every frame of the strategy can be written");
        buf
    }
}

fn id() -> impl Strategy<Value = u64> {
    prop_oneof![0..200u64, any::<u64>()]
}

fn frame() -> impl Strategy<Value = Owned> {
    let map = || Just(Bytes::from(codec::to_named(&Hello::default()).expect("a HELLO")));
    let method = || any::<u32>().prop_map(Method::Number);
    let frames = prop_oneof![
        (id(), method(), payload(), meta()).prop_map(|(id, method, params, meta)| Frame::Request {
            id,
            method,
            params,
            meta
        }),
        (id(), payload(), meta()).prop_map(|(id, result, meta)| Frame::Response {
            id,
            result: Ok(result),
            meta
        }),
        (id(), status(), meta()).prop_map(|(id, error, meta)| Frame::Response {
            id,
            result: Err(error),
            meta
        }),
        (method(), payload(), meta()).prop_map(|(method, params, meta)| Frame::Notify {
            method,
            params,
            meta
        }),
        map().prop_map(Frame::Hello),
        map().prop_map(Frame::Welcome),
        status().prop_map(Frame::Reject),
        vec(any::<u32>(), 0..40)
            .prop_map(|numbers| Frame::Bind(numbers.into_iter().map(|n| (n, "")).collect())),
        (id(), any::<u32>(), any::<u64>()).prop_map(|(last_id, code, grace_ms)| Frame::Goaway {
            last_id,
            code,
            reason: "",
            grace_ms
        }),
        id().prop_map(Frame::Ping),
        id().prop_map(Frame::Pong),
        (id(), any::<u32>()).prop_map(|(id, n)| Frame::Cancel { id, reason: CancelReason::from_number(n) }),
        (id(), any::<u64>()).prop_map(|(id, n)| Frame::Credit { id, n }),
        (id(), method(), payload(), meta()).prop_map(|(id, method, params, meta)| Frame::Open {
            id,
            method,
            params,
            meta
        }),
        (id(), any::<u64>(), vec(any::<u8>(), 1..300)).prop_map(|(id, first_seq, items)| Frame::Item {
            id,
            first_seq,
            count: items.len() as u32,
            items: Bytes::from(items)
        }),
        (id(), payload()).prop_map(|(id, result)| Frame::End { id, result: Ok(result) }),
        (id(), status()).prop_map(|(id, error)| Frame::End { id, result: Err(error) }),
        (id(), option::of(any::<u64>()), any::<bool>(), payload())
            .prop_map(|(id, total, last, part)| Frame::Chunk { id, total, last, part }),
        (id(), any::<u64>(), any::<u32>(), payload())
            .prop_map(|(channel, seq, count, rows)| { Frame::Data { channel, seq, count, rows } }),
        (id(), any::<[u64; 2]>(), any::<[u32; 3]>()).prop_map(
            |(channel, [attempt, fingerprint], [edge, from, to])| {
                Frame::Attach(Attach { channel, attempt, fingerprint, job: "", edge, from, to })
            }
        ),
        id().prop_map(|channel| Frame::Detach { channel }),
        (id(), any::<u64>(), mark()).prop_map(|(channel, seq, mark)| Frame::Mark { channel, seq, mark }),
        payload().prop_map(Frame::Health),
        (id(), payload()).prop_map(|(id, actor)| Frame::Watch { id, actor }),
        (id(), any::<u32>(), option::of(status())).prop_map(|(id, reason, error)| Frame::Down {
            id,
            reason,
            error
        }),
        (id(), any::<u64>()).prop_map(|(id, incarnation)| Frame::Redirect { id, node: "", incarnation }),
    ];
    (frames, option::of(".{0,60}")).prop_map(|(frame, name)| Owned { frame, name })
}

fn mark() -> impl Strategy<Value = Mark> {
    prop_oneof![
        any::<i64>().prop_map(Mark::Watermark),
        (-40..200i64).prop_map(Mark::Watermark),
        Just(Mark::Idle),
        any::<u64>().prop_map(Mark::Barrier),
        Just(Mark::End),
    ]
}

/// MessagePack-like bytes: markers are far more frequent than in noise.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), 0x90..=0x9fu8, 0x80..=0x8fu8, 0xc0..=0xdfu8, 0..=24u8,];
    prop_oneof![vec(any::<u8>(), 0..100), vec(byte, 0..100)]
}

proptest! {
    #[test]
    fn any_frame_comes_back(owned in frame()) {
        let bytes = Bytes::from(owned.bytes()).slice(4..);
        prop_assert_eq!(Frame::decode(&bytes).unwrap(), owned.frame());
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in noise()) {
        let bytes = Bytes::from(bytes);
        if let Ok(frame) = Frame::decode(&bytes) {
            let mut again = Vec::new();
            if frame.kind().is_some() {
                frame.put(&mut again).unwrap();
                let again = Bytes::from(again).slice(4..);
                // HELLO and WELCOME keep their bytes, floats may be NaN: the meaning is compared by its text.
                prop_assert_eq!(format!("{:?}", Frame::decode(&again).unwrap()), format!("{frame:?}"));
            }
        }
    }

    #[test]
    fn a_damaged_frame_is_a_frame_or_an_error(owned in frame(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = owned.bytes().split_off(4);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = Frame::decode(&Bytes::from(bytes));
    }

    #[test]
    fn a_cut_frame_is_an_error(owned in frame(), at in any::<prop::sample::Index>()) {
        let mut bytes = owned.bytes().split_off(4);
        bytes.truncate(at.index(bytes.len()));
        prop_assert!(Frame::decode(&Bytes::from(bytes)).is_err());
    }

    #[test]
    fn however_a_stream_is_cut_up_the_same_frames_come_out(
        owned in vec(frame(), 1..8), chunks in vec(1usize..400, 1..20), one_by_one in any::<bool>()
    ) {
        let stream: Vec<u8> = owned.iter().flat_map(Owned::bytes).collect();
        let (mut buf, mut got, limits) = (BytesMut::new(), Vec::new(), Limits::default());
        let mut rest = stream.as_slice();
        for bytes in chunks.iter().cycle() {
            let (now, later) = rest.split_at((*bytes).min(rest.len()));
            rest = later;
            buf.extend_from_slice(now);
            if one_by_one {
                while let Some(frame) = next_frame(&mut buf, &limits).unwrap() {
                    got.push(frame);
                }
            } else {
                let frames: Frames = take_frames(&mut buf, &limits).unwrap();
                got.extend(frames.iter().map(|part| frames.block().slice_ref(part)));
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(buf.is_empty());
        prop_assert_eq!(got.len(), owned.len());
        for (bytes, owned) in got.iter().zip(&owned) {
            prop_assert_eq!(Frame::decode(bytes).unwrap(), owned.frame());
        }
    }

    #[test]
    fn any_stream_is_frames_or_an_error(bytes in noise(), max in 1u32..64) {
        let limits = Limits { frame_bytes_max: max, ..Limits::default() };
        let mut buf = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = next_frame(&mut buf, &limits) {
            prop_assert!(frame.len() <= max as usize);
        }
        let mut buf = BytesMut::from(&bytes[..]);
        while let Ok(frames) = take_frames(&mut buf, &limits) {
            if frames.is_empty() {
                break;
            }
            prop_assert!(frames.iter().all(|part| part.len() <= max as usize));
        }
    }

    #[test]
    fn any_bytes_are_a_value_or_an_error(bytes in noise()) {
        let _ = codec::from_slice::<serde_json::Value>(&bytes);
        let _ = codec::from_slice::<Hello>(&bytes);
        let _ = codec::from_slice::<Welcome>(&bytes);
        let _ = codec::from_slice::<Status>(&bytes);
        let _ = codec::from_slice::<Option<(u8, String)>>(&bytes);
        if let Some(preface) = bytes.first_chunk::<8>() {
            let _ = Preface::from_bytes(*preface);
        }
    }

    #[test]
    fn the_scanner_ends_where_the_decoder_ends(bytes in noise()) {
        if codec::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() {
            prop_assert_eq!(skip_value(&bytes, 64), Ok(bytes.len()));
        }
    }

    #[test]
    fn scanning_in_pieces_gives_what_scanning_at_once_gives(bytes in noise(), step in 1usize..9, max in 1usize..120) {
        let whole = Scanner::new(max, 8).advance(&bytes);
        let mut scanner = Scanner::new(max, 8);
        let mut pieces = Ok(None);
        for end in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
            pieces = scanner.advance(&bytes[..end]);
            if !matches!(pieces, Ok(None)) {
                break;
            }
        }
        // Of two claims that both pass the limit, pieces may meet the earlier one.
        let reason = |result: Result<Option<usize>, afflux_wire::WireError>| result.map_err(|error| error.reason());
        prop_assert_eq!(reason(pieces), reason(whole));
    }
}
