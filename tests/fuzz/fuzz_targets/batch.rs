//! Rows: never a panic or a large allocation, and since the format has one form for each value, what is decoded is
//! encoded to the same bytes.
#![no_main]

use std::collections::BTreeMap;

use afflux_wire::batch::{RowDecoder, decode_rows, encode_row};
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
enum Tree {
    Leaf,
    Word(String),
    Pair(Box<Tree>, Option<Box<Tree>>),
    Named {
        at: i64,
        f: f64,
        c: char,
        b: bool,
        list: Vec<Tree>,
    },
}

#[derive(Serialize, Deserialize)]
struct Nothing {}

fn check<T: Serialize + DeserializeOwned>(data: &[u8], count: usize) {
    let mut rows = Vec::<T>::new();
    if decode_rows(data, count, &mut rows).is_ok() {
        let mut again = Vec::new();
        for row in &rows {
            encode_row(row, &mut again).expect("what was decoded can be encoded");
        }
        assert_eq!(again, data);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((count, data)) = data.split_first() else {
        return;
    };
    let count = usize::from(*count);
    check::<(u64, u64)>(data, count);
    check::<(i64, String, Option<u32>)>(data, count);
    check::<Tree>(data, count);
    check::<Vec<Vec<u16>>>(data, count);
    check::<Vec<Nothing>>(data, count);
    let mut rows = Vec::new();
    let _ = decode_rows::<BTreeMap<String, Vec<()>>>(data, count, &mut rows);
    let mut rows = RowDecoder::<Tree>::new(data, count);
    while let Some(Ok(_)) = rows.next() {}
    let _ = rows.finish();
});
