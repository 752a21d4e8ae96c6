//! What a snapshot says about itself: any value comes back, a changed type is read by its names or
//! refused by them, and no bytes make a reader panic.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use afflux_stream::{Block, BlockWriter, Content, Part, PartKind, Restore, Schema, Shape, TaskSnapshot};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wrapped(Option<Box<Any>>);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pair(i8, String);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Empty {}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Any {
    None,
    Bool(bool),
    Numbers { small: i64, large: u64, wide: i128, real: f64, short: f32 },
    Text(String, char),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    List(Vec<Any>),
    Map(BTreeMap<String, Any>),
    Options(Option<Option<Option<u8>>>, Option<()>, Option<Unit>),
    Named(Node),
    Wrapped(Wrapped),
    Empties(Empty, Pair, ()),
    Untagged(Loose),
    Tagged(Tagged),
    Empty {},
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    children: Vec<Node>,
    #[serde(flatten)]
    rest: BTreeMap<String, i32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Loose {
    Number(i64),
    Named { name: String, on: bool },
    Names(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Tagged {
    One { a: u8 },
    Two { b: Option<Inner> },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Inner {
    X,
    Y(u8),
    Z { z: u16 },
}

fn node() -> impl Strategy<Value = Node> {
    let rest = proptest::collection::btree_map("[a-c]{1,2}", any::<i32>(), 0..3);
    let leaf = (any::<u64>(), proptest::option::of(".{0,5}"), rest).prop_map(|(id, note, rest)| Node {
        id,
        note,
        children: Vec::new(),
        rest,
    });
    leaf.prop_recursive(3, 12, 3, |inner| {
        (any::<u64>(), proptest::option::of(".{0,5}"), proptest::collection::vec(inner, 0..3))
            .prop_map(|(id, note, children)| Node { id, note, children, rest: BTreeMap::new() })
    })
}

fn value() -> impl Strategy<Value = Any> {
    let inner = prop_oneof![
        Just(Inner::X),
        any::<u8>().prop_map(Inner::Y),
        any::<u16>().prop_map(|z| Inner::Z { z })
    ];
    let leaf = prop_oneof![
        Just(Any::None),
        Just(Any::Empty {}),
        any::<bool>().prop_map(Any::Bool),
        (any::<i64>(), any::<u64>(), any::<i128>(), -1e300_f64..1e300, -1e30_f32..1e30)
            .prop_map(|(small, large, wide, real, short)| Any::Numbers { small, large, wide, real, short }),
        (".{0,40}", any::<char>()).prop_map(|(text, letter)| Any::Text(text, letter)),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Any::Bytes),
        (any::<Option<Option<Option<u8>>>>(), any::<Option<()>>(), any::<bool>())
            .prop_map(|(a, b, c)| Any::Options(a, b, c.then_some(Unit))),
        node().prop_map(Any::Named),
        (any::<i8>(), ".{0,3}").prop_map(|(a, b)| Any::Empties(Empty {}, Pair(a, b), ())),
        any::<i64>().prop_map(|n| Any::Untagged(Loose::Number(n))),
        (".{0,9}", any::<bool>()).prop_map(|(name, on)| Any::Untagged(Loose::Named { name, on })),
        proptest::collection::vec(".{0,3}", 0..20).prop_map(|v| Any::Untagged(Loose::Names(v))),
        any::<u8>().prop_map(|a| Any::Tagged(Tagged::One { a })),
        proptest::option::of(inner).prop_map(|b| Any::Tagged(Tagged::Two { b })),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Any::List),
            proptest::collection::btree_map(".{0,3}", inner.clone(), 0..5).prop_map(Any::Map),
            proptest::option::of(inner).prop_map(|v| Any::Wrapped(Wrapped(v.map(Box::new)))),
        ]
    })
}

fn saved<V: Serialize>(rows: &[V]) -> Restore {
    let mut snapshot = TaskSnapshot::new(1);
    snapshot.put_rows("op", "state", 0, rows).unwrap();
    Restore::new([snapshot])
}

fn read<V: DeserializeOwned>(restore: &Restore) -> Result<Vec<V>, String> {
    let mut rows = Vec::new();
    restore.rows("op", "state", None, |_, row| rows.push(row)).map_err(|status| status.message)?;
    Ok(rows)
}

/// What `New` makes of rows that were written as `Old`.
fn changed<Old: Serialize, New: DeserializeOwned>(row: Old) -> Result<New, String> {
    read(&saved(&[row])).map(|rows: Vec<New>| rows.into_iter().next().unwrap())
}

proptest! {
    #[test]
    fn any_value_comes_back(rows in proptest::collection::vec(value(), 1..6)) {
        let restore = saved(&rows);
        prop_assert_eq!(read::<Any>(&restore).unwrap(), rows.clone());
        // Through the index, a manifest or a report, too.
        let json = serde_json::to_string(restore.parts()).unwrap();
        let parts: Vec<Part> = serde_json::from_str(&json).unwrap();
        let again = Restore::new([TaskSnapshot { parts, ..TaskSnapshot::new(1) }]);
        prop_assert_eq!(read::<Any>(&again).unwrap(), rows);
    }

    #[test]
    fn damaged_bytes_give_an_error_or_other_values_but_no_panic(
        rows in proptest::collection::vec(value(), 1..4),
        at in any::<proptest::sample::Index>(),
        to in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let restore = saved(&rows);
        let Content::Rows { schema, bytes } = &restore.parts()[0].blocks[0].content else { panic!() };
        let mut bytes = bytes.to_vec();
        let place = at.index(bytes.len());
        bytes[place] = to;
        let whole = raw(schema, bytes.clone(), rows.len() as u64);
        let _ = read::<Any>(&whole);
        bytes.truncate(cut.index(bytes.len() + 1));
        let _ = read::<Any>(&raw(schema, bytes, rows.len() as u64));
    }

    #[test]
    fn any_bytes_give_an_error_or_values_but_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let restore = saved(&[Any::None, Any::Named(Node {
            id: 1, note: None, children: vec![], rest: BTreeMap::new(),
        })]);
        let Content::Rows { schema, .. } = &restore.parts()[0].blocks[0].content else { panic!() };
        let raw = raw(schema, bytes, 1);
        let _ = read::<Any>(&raw);
        let _ = read::<Wrapped>(&raw);
        let _ = read::<(u64, Node)>(&raw);
    }
}

fn raw(schema: &Arc<Schema>, bytes: Vec<u8>, rows: u64) -> Restore {
    let content = Content::Rows { schema: Arc::clone(schema), bytes: bytes.into() };
    let part = Part {
        operator: "op".into(),
        state: "state".into(),
        subtask: 0,
        version: afflux_stream::LAYOUT,
        kind: PartKind::Rows,
        since: None,
        left: None,
        blocks: vec![Block { id: 0, rows, groups: None, role: Default::default(), content }],
        later: None,
    };
    Restore::new([TaskSnapshot { parts: vec![part], ..TaskSnapshot::new(1) }])
}

mod before {
    use super::*;
    #[derive(Serialize)]
    pub(super) struct Order {
        pub(super) id: u64,
        pub(super) note: Option<String>,
        pub(super) amount: u32,
        pub(super) status: Status,
    }
    #[derive(Serialize)]
    pub(super) enum Status {
        Open,
        Paid { at: i64 },
    }
    pub(super) fn order() -> (u64, Order) {
        (7, Order { id: 7, note: Some("n".into()), amount: 5, status: Status::Paid { at: 3 } })
    }
    pub(super) fn open() -> (u64, Order) {
        (8, Order { id: 8, note: None, amount: 6, status: Status::Open })
    }
}

#[test]
fn a_field_that_was_added_with_a_default_or_removed_is_read_by_the_names_of_the_others() {
    #[derive(Debug, PartialEq, Deserialize)]
    enum Status {
        Cancelled,
        Open,
        Paid {
            #[serde(default)]
            by: String,
            at: i64,
        },
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Order {
        status: Status,
        #[serde(default)]
        currency: String,
        amount: u64,
        id: u64,
        #[serde(alias = "note")]
        remark: Option<String>,
    }
    let now: (u64, Order) = changed(before::order()).unwrap();
    let expected = Order {
        status: Status::Paid { by: String::new(), at: 3 },
        currency: String::new(),
        amount: 5,
        id: 7,
        remark: Some("n".into()),
    };
    assert_eq!(now, (7, expected));
    #[derive(Debug, PartialEq, Deserialize)]
    struct Less {
        amount: u64,
    }
    assert_eq!(changed::<_, (u64, Less)>(before::open()).unwrap(), (8, Less { amount: 6 }));
    assert_eq!(
        changed::<_, (u64, HashMap<String, serde_bytes::ByteBuf>)>((1, HashMap::<String, Vec<u8>>::new())),
        Ok((1, HashMap::new()))
    );
    let _ = Status::Cancelled;
}

#[test]
fn a_field_that_was_renamed_or_retyped_is_refused_with_its_name_and_both_types() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Renamed {
        id: u64,
        total: u32,
    }
    let error = changed::<_, (u64, Renamed)>(before::order()).unwrap_err();
    for part in ["operator `op`", "state `state`", "`total` is missing", "amount: int", "serde(default)"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Retyped {
        id: u64,
        amount: String,
    }
    let error = changed::<_, (u64, Retyped)>(before::order()).unwrap_err();
    for part in
        ["operator `op`", "state `state`", "Order.amount (saved as int)", "integer `5`", "expected a string"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Real {
        amount: f64,
    }
    assert!(changed::<_, (u64, Real)>(before::order()).unwrap_err().contains("Order.amount"));
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    enum Gone {
        Open,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Less {
        status: Gone,
    }
    let error = changed::<_, (u64, Less)>(before::order()).unwrap_err();
    assert!(error.contains("Order.status") && error.contains("`Paid`"), "{error}");
    assert!(changed::<_, (String, Less)>(before::order()).unwrap_err().contains("expected a string"));
    assert!(changed::<_, (u64, u64, u64)>((1_u64, 2_u64)).is_err());
}

#[test]
fn a_block_says_what_its_rows_are_for_people() {
    let mut writer = BlockWriter::new();
    writer.push(&before::open()).unwrap();
    writer.push(&before::order()).unwrap();
    let block = writer.finish(4, Some(0..8));
    assert_eq!((block.id, block.rows, block.groups.clone()), (4, 2, Some(0..8)));
    let Content::Rows { schema, .. } = &block.content else { panic!() };
    assert_eq!(schema.row, "[int, Order]");
    let shapes: Vec<String> = schema.shapes.iter().map(Shape::to_string).collect();
    assert_eq!(
        shapes,
        [
            "Order { id: int, note: str?, amount: int, status: Status }",
            "Status::Open",
            "Status::Paid { at: int }"
        ]
    );
    // Another block that shows nothing new shares it.
    writer.push(&before::open()).unwrap();
    let Content::Rows { schema: next, .. } = &writer.finish(5, None).content.clone() else { panic!() };
    assert!(Arc::ptr_eq(schema, next));
    assert_eq!(schema.samples.len(), 2);
}

#[test]
fn a_row_without_fields_of_its_own_costs_what_messagepack_costs() {
    let rows: Vec<(u64, u64)> = (0..1_000).map(|i| (i, i * 1_000_000_007)).collect();
    let restore = saved(&rows);
    let plain: usize = rows.iter().map(|row| rmp_serde::to_vec(row).unwrap().len()).sum();
    assert_eq!(restore.parts()[0].len(), plain as u64);
}

#[test]
fn what_is_nested_too_deep_is_refused_when_it_is_saved_and_the_rows_before_it_stay() {
    let deep = |levels: usize| (0..levels).fold(Any::None, |inner, _| Any::List(vec![inner]));
    let mut writer = BlockWriter::new();
    writer.push(&deep(10)).unwrap();
    let before = writer.len();
    let error = writer.push(&deep(200)).unwrap_err();
    assert!(error.message.contains("96 levels"), "{error}");
    assert_eq!((writer.len(), writer.rows()), (before, 1));
}

#[test]
fn a_task_reads_no_block_of_other_key_groups() {
    let mut writer = BlockWriter::new();
    let mut snapshot = TaskSnapshot::new(1);
    for block in 0..4_u32 {
        writer.push(&(block, "row")).unwrap();
        snapshot.block("op", "state", 0, writer.finish(block.into(), Some(block * 10..block * 10 + 10)));
    }
    let mut rows = Vec::new();
    let restore = Restore::new([snapshot]);
    restore.rows("op", "state", Some(&(15..21)), |_, row: (u32, String)| rows.push(row.0)).unwrap();
    assert_eq!(rows, [1, 2]);
}
