//! What a stranger says first: the first byte, the preface, HELLO, WELCOME and REJECT. Never a panic; what is judged is
//! judged alike twice; and a refusal never tells the token.
#![no_main]

use afflux_wire::handshake::{FirstByte, Hello, LocalIdentity, Preface, Welcome, first_byte, negotiate};
use afflux_wire::{Frame, Limits, codec, next_frame};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

const TOKEN: &str = "the-secret-of-the-cluster";

fuzz_target!(|data: &[u8]| {
    let Some(&first) = data.first() else { return };
    let decided = first_byte(first);
    assert_eq!(decided, first_byte(first));
    // As if the preface were right, whatever it is: what is behind it shall be reached.
    let rest = match data.first_chunk::<{ Preface::BYTES }>() {
        Some(preface) if Preface::from_bytes(*preface).is_ok() => {
            assert_eq!(decided, FirstByte::Native);
            &data[Preface::BYTES..]
        }
        _ => data,
    };
    let limits = Limits { hello_bytes_max: 16 << 10, ..Limits::default() }.before_hello();
    let mut buf = BytesMut::from(rest);
    while let Ok(Some(frame)) = next_frame(&mut buf, &limits) {
        assert!(frame.len() <= 16 << 10, "a stranger's frame of {} bytes was taken", frame.len());
        match Frame::decode(&frame) {
            Ok(Frame::Hello(bytes)) => hello(&bytes),
            Ok(Frame::Welcome(bytes)) => {
                let _ = codec::from_slice::<Welcome>(&bytes);
            }
            _ => {}
        }
    }
    hello(data);
});

fn hello(bytes: &[u8]) {
    let Ok(hello) = codec::from_slice::<Hello>(bytes) else { return };
    let local = LocalIdentity {
        cluster: hello.cluster.clone(),
        node: "fuzzed".into(),
        token: Some(TOKEN.to_owned()),
        ..LocalIdentity::default()
    };
    let judged = negotiate(&hello, &local);
    assert_eq!(judged, negotiate(&hello, &local));
    match judged {
        Ok(_) => assert_eq!(hello.token.as_deref(), Some(TOKEN)),
        Err(status) => assert!(!status.message.contains(TOKEN)),
    }
}
