//! A stream of frames: never a panic, never a frame above the limit, and what is decoded can be written back.
#![no_main]

use afflux_wire::handshake::{Preface, first_byte};
use afflux_wire::{Frame, Limits, next_frame, take_frames};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

const LIMITS: fn() -> Limits = || Limits {
    frame_bytes_max: 4096,
    ..Limits::default()
};

fn check(frame: &Bytes) {
    let Ok(decoded) = Frame::decode(frame) else {
        return;
    };
    if decoded.kind().is_none() {
        return;
    }
    let mut again = Vec::new();
    decoded
        .put(&mut again)
        .expect("what was decoded can be written");
    let again = Bytes::from(again).slice(4..);
    let twice = Frame::decode(&again).expect("what was written can be decoded");
    assert_eq!(format!("{decoded:?}"), format!("{twice:?}"));
}

fuzz_target!(|data: &[u8]| {
    // Once as a frame without its prefix …
    check(&Bytes::copy_from_slice(data));
    if let Some(preface) = data.first_chunk::<8>() {
        let native = first_byte(preface[0]) == afflux_wire::handshake::FirstByte::Native;
        assert!(native || Preface::from_bytes(*preface).is_err());
    }
    // … and once as a stream, cut in two places and taken both ways.
    let limits = LIMITS();
    let mut buf = BytesMut::new();
    let (mut single, mut failed) = (Vec::new(), false);
    for chunk in data.chunks(data.len() / 3 + 1) {
        buf.extend_from_slice(chunk);
        while !failed {
            match next_frame(&mut buf, &limits) {
                Ok(Some(frame)) => single.push(frame),
                Ok(None) => break,
                Err(_) => failed = true,
            }
        }
    }
    let mut buf = BytesMut::from(data);
    let mut together = Vec::new();
    while let Ok(frames) = take_frames(&mut buf, &limits) {
        if frames.is_empty() {
            break;
        }
        together.extend(frames.iter().map(Bytes::copy_from_slice));
    }
    assert_eq!(single, together);
    for frame in &single {
        assert!(frame.len() <= 4096);
        check(frame);
    }
});
