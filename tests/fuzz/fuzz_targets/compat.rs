//! MessagePack-RPC clients: however a stream is cut, the same messages; what is decoded is bounded and comes back.
#![no_main]

use afflux_wire::compat::{Message, Params, Wanted, decode, peek_request_id, put_answer, split_name};
use afflux_wire::{Scanner, WireError, skip_value};
use libfuzzer_sys::fuzz_target;

const BYTES_MAX: usize = 512;
const ELEMENTS_MAX: u64 = 128;

/// All messages of a stream that comes in pieces, and how it ends.
fn messages(data: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<WireError>) {
    let mut scanner = Scanner::new(BYTES_MAX, 16).elements_max(ELEMENTS_MAX);
    let (mut buf, mut all) = (Vec::new(), Vec::new());
    for chunk in data.chunks(piece) {
        buf.extend_from_slice(chunk);
        while !buf.is_empty() {
            match scanner.advance(&buf) {
                Ok(Some(bytes)) => {
                    scanner.reset();
                    all.push(buf.drain(..bytes).collect());
                }
                Ok(None) => break,
                Err(error) => return (all, Some(error)),
            }
        }
        assert!(buf.len() <= BYTES_MAX + piece, "more is kept than one message");
    }
    (all, None)
}

fuzz_target!(|data: &[u8]| {
    let _ = peek_request_id(data);
    let whole = messages(data, data.len().max(1));
    assert_eq!(messages(data, 1), whole);
    assert_eq!(messages(data, 7), whole);
    let schema = serde_json::json!({ "required": ["a", "b"] });
    let wanted = [
        Wanted::default(),
        Wanted::new(&["a"], &schema),
        Wanted::new(&["a", "b", "c"], &schema),
    ];
    for message in &whole.0 {
        let (id, method, params) = match decode(message) {
            Ok(Message::Request { id, method, params }) => (Some(id), method, params),
            Ok(Message::Notification { method, params }) => (None, method, params),
            Err(_) => continue,
        };
        assert_eq!(peek_request_id(message), id);
        let _ = split_name(method);
        let Ok(read) = Params::read(params) else {
            continue;
        };
        for wanted in &wanted {
            if let Ok(map) = read.for_method(wanted) {
                assert_eq!(skip_value(&map, 64), Ok(map.len()), "the map is one value");
            }
        }
        let as_they_are = read.as_they_are();
        assert_eq!(skip_value(&as_they_are, 64), Ok(as_they_are.len()));
        let (_, _) = (read.first_text(), read.numbers());
        assert!(read.positional(3).len() <= 3);
        if let Some(id) = id {
            let mut out = Vec::new();
            put_answer(&mut out, id, &as_they_are);
            assert_eq!(skip_value(&out, 64), Ok(out.len()));
        }
    }
});
