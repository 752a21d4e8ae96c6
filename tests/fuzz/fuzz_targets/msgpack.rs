//! MessagePack values: never a panic or a stack overflow; the scanner ends where the decoder ends.
#![no_main]

use afflux_wire::{Hello, Scanner, Status, Welcome, codec, skip_value};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Deserialize)]
#[allow(dead_code)]
enum Tree {
    Leaf,
    Branch(Box<Tree>),
    Both {
        left: Option<Box<Tree>>,
        words: Vec<String>,
    },
}

fuzz_target!(|data: &[u8]| {
    let _ = codec::from_slice::<serde_json::Value>(data);
    let _ = codec::from_slice::<Tree>(data);
    let _ = codec::from_slice::<Hello>(data);
    let _ = codec::from_slice::<Welcome>(data);
    if let Ok(status) = codec::from_slice::<Status>(data) {
        let again = codec::to_named(&status).expect("what was decoded can be encoded");
        assert_eq!(
            codec::from_slice::<Status>(&again).expect("and decoded again"),
            status
        );
    }
    if codec::from_slice::<IgnoredAny>(data).is_ok() {
        assert_eq!(skip_value(data, 64), Ok(data.len()));
    }
    let whole = Scanner::new(256, 16).advance(data);
    let mut scanner = Scanner::new(256, 16);
    let mut pieces = Ok(None);
    for end in 0..=data.len() {
        pieces = scanner.advance(&data[..end]);
        if !matches!(pieces, Ok(None)) {
            break;
        }
    }
    assert_eq!(pieces, whole);
});
