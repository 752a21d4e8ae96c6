//! The frames of `tests/golden/frames.hex` are what other implementations, and older builds of this one, rely on.
//! A changed line there is a changed protocol.

use afflux_wire::{
    Attach, CancelReason, Code, Executed, Frame, Mark, Meta, Method, NodeId, RareMeta, Stage, Status,
    WireError,
};
use bytes::Bytes;

const FILE: &str = include_str!("golden/frames.hex");

/// A line: whether encoding must give it back, its bytes with the prefix, its meaning.
struct Line {
    canonical: bool,
    bytes: Vec<u8>,
    meaning: &'static str,
}

fn lines() -> Vec<Line> {
    let rows = FILE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|row| {
        let (hex, meaning) = row.split_once('|').expect("bytes | meaning");
        let (canonical, hex) = match hex.trim().strip_prefix('<') {
            Some(hex) => (false, hex),
            None => (true, hex.trim()),
        };
        let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| {
            u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex digits")
        };
        Line { canonical, bytes: digits.chunks(2).map(byte).collect(), meaning: meaning.trim() }
    })
    .collect()
}

/// What the lines say, in their order.
fn expected() -> Vec<Result<Frame<'static>, WireError>> {
    let bytes = Bytes::from_static;
    let deadline = |ms| Meta { deadline_ms: Some(ms), ..Meta::default() };
    let full = Meta {
        deadline_ms: Some(1_500),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok(),
        attempt: 1,
        priority: 2,
        load: 0,
        rows: false,
        rare: Some(Box::new(RareMeta {
            idempotency_key: Some(bytes(b"key")),
            chain: Some(bytes(b"chain")),
            to: Some(bytes(b"to")),
            from: Some(bytes(b"from")),
            token: Some(bytes(b"token")),
            ..RareMeta::default()
        })),
    };
    let rich = Status::new(Code::ResourceExhausted, "full")
        .executed(Executed::No)
        .retry_after_ms(50)
        .stage(Stage::Admission)
        .node(&NodeId::new("n1"));
    let attach = Attach {
        channel: 7,
        attempt: 3,
        fingerprint: 0x0123_4567_89ab_cdef,
        job: "flights",
        edge: 1,
        from: 2,
        to: 3,
    };
    vec![
        Ok(Frame::Request {
            id: 1,
            method: Method::Name("shop.orders/Place"),
            params: bytes(&[0x91, 0x2a]),
            meta: Meta::default(),
        }),
        Ok(Frame::Request {
            id: 3,
            method: Method::Number(300),
            params: bytes(&[0xc0]),
            meta: deadline(1_500),
        }),
        Ok(Frame::Request { id: u64::MAX, method: Method::Number(4), params: Bytes::new(), meta: full }),
        Ok(Frame::Response { id: 1, result: Ok(bytes(&[0x2a])), meta: Meta::default() }),
        Ok(Frame::Response {
            id: 1,
            result: Err(Status::new(Code::NotFound, "no such order")),
            meta: Meta::default(),
        }),
        Ok(Frame::Response { id: 1, result: Err(rich), meta: Meta::default() }),
        Ok(Frame::Notify { method: Method::Number(5), params: bytes(&[0xc3]), meta: Meta::default() }),
        Ok(Frame::Hello(bytes(&[0x80]))),
        Ok(Frame::Welcome(bytes(&[0x81, 0xa5, b'm', b'i', b'n', b'o', b'r', 0]))),
        Ok(Frame::Reject(Status::new(Code::FailedPrecondition, "cluster"))),
        Ok(Frame::Bind(vec![(1, "a/B"), (256, "c/D")])),
        Ok(Frame::Goaway { last_id: 9, code: 14, reason: "drain", grace_ms: 5_000 }),
        Ok(Frame::Ping(1)),
        Ok(Frame::Pong(256)),
        Ok(Frame::Cancel { id: 5, reason: CancelReason::Deadline }),
        Ok(Frame::Credit { id: 7, n: 65_536 }),
        Ok(Frame::Data { channel: 7, seq: 1, count: 2, rows: bytes(&[1, 0, 2, 0]) }),
        Ok(Frame::Attach(attach)),
        Ok(Frame::Detach { channel: 7 }),
        Ok(Frame::Mark { channel: 7, seq: 2, mark: Mark::Watermark(1_436_918_400_000) }),
        Ok(Frame::Mark { channel: 7, seq: 3, mark: Mark::Watermark(i64::MIN) }),
        Ok(Frame::Mark { channel: 7, seq: 4, mark: Mark::Idle }),
        Ok(Frame::Mark { channel: 7, seq: 5, mark: Mark::Barrier(42) }),
        Ok(Frame::Mark { channel: 7, seq: 6, mark: Mark::End }),
        Ok(Frame::Health(bytes(&[0x80]))),
        Ok(Frame::Watch { id: 9, actor: bytes(&[0x80]) }),
        Ok(Frame::Down { id: 9, reason: 0, error: None }),
        Ok(Frame::Down { id: 9, reason: 2, error: Some(Status::new(Code::Internal, "no")) }),
        Ok(Frame::Redirect { id: 9, node: "n2", incarnation: 300 }),
        Ok(Frame::Open {
            id: 5,
            method: Method::Name("a/Watch"),
            params: bytes(&[0x80]),
            meta: deadline(1_500),
        }),
        Ok(Frame::Item { id: 5, first_seq: 1, count: 3, items: bytes(&[7, 8, 9]) }),
        Ok(Frame::End { id: 5, result: Ok(bytes(&[0x2a])) }),
        Ok(Frame::End { id: 5, result: Ok(Bytes::new()) }),
        Ok(Frame::End { id: 5, result: Err(Status::new(Code::NotFound, "gone")) }),
        Ok(Frame::Chunk { id: 7, total: Some(70_000), last: false, part: bytes(&[1, 2]) }),
        Ok(Frame::Chunk { id: 7, total: None, last: false, part: bytes(&[3]) }),
        Ok(Frame::Chunk { id: 7, total: None, last: true, part: bytes(&[4]) }),
        // Not the form that is written, but to be read.
        Ok(Frame::Ping(1)),
        Ok(Frame::Ping(1)),
        Ok(Frame::Request { id: 1, method: Method::Number(4), params: Bytes::new(), meta: Meta::default() }),
        Ok(Frame::Credit { id: 7, n: 1 }),
        Ok(Frame::Ignored { kind: 64 }),
        Err(WireError::UnknownKind { kind: 24 }),
    ]
}

#[test]
fn every_golden_frame_is_decoded_to_its_meaning() {
    let (lines, expected) = (lines(), expected());
    assert_eq!(lines.len(), expected.len());
    for (line, expected) in lines.iter().zip(expected) {
        let (prefix, frame) = line.bytes.split_at(4);
        assert_eq!(prefix, (frame.len() as u32).to_be_bytes(), "prefix of {}", line.meaning);
        assert_eq!(Frame::decode(&Bytes::copy_from_slice(frame)), expected, "{}", line.meaning);
    }
}

#[test]
fn every_golden_frame_is_encoded_to_its_bytes() {
    for (line, expected) in lines().iter().zip(expected()).filter(|(line, _)| line.canonical) {
        let mut buf = Vec::new();
        expected.unwrap().put(&mut buf).unwrap();
        assert_eq!(buf, line.bytes, "{}: {}", line.meaning, hex(&buf));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
