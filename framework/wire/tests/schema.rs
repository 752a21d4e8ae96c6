//! Fingerprints and compatibility of real types: what the check allows, serde really reads.

use std::collections::BTreeMap;

use afflux_wire::codec::{from_slice, to_named};
use afflux_wire::schema::{Fingerprint, Type, unreadable};
use proptest::prelude::*;
use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

fn schema<T: JsonSchema>() -> Value {
    schema_for!(T).to_value()
}

/// What the check says of `W` written and `R` read, and whether serde reads each of the values.
fn judged<W, R>(values: &[W]) -> (Vec<String>, bool)
where
    W: JsonSchema + Serialize,
    R: JsonSchema + DeserializeOwned,
{
    let said = unreadable(&Type::of(&schema::<W>()), &Type::of(&schema::<R>()))
        .into_iter()
        .map(|d| format!("{}: {} / {}", d.path, d.writer, d.reader))
        .collect();
    let read =
        values.iter().all(|value| from_slice::<R>(&to_named(value).expect("a value can be written")).is_ok());
    (said, read)
}

fn compatible<W: JsonSchema + Serialize, R: JsonSchema + DeserializeOwned>(values: &[W]) {
    let (said, read) = judged::<W, R>(values);
    assert_eq!(said, Vec::<String>::new(), "said to be incompatible");
    assert!(read, "said to be compatible, but serde does not read it");
}

/// `values` must be such that serde fails for at least one.
fn incompatible<W: JsonSchema + Serialize, R: JsonSchema + DeserializeOwned>(values: &[W], expected: &str) {
    let (said, read) = judged::<W, R>(values);
    assert_eq!(said, [expected]);
    assert!(!read, "said to be incompatible, but serde reads each value");
}

/// A type called `Order` in a module of its own: an old and a new build.
macro_rules! build {
    ($name:ident { $($body:tt)* }) => {
        mod $name {
            use super::*;
            #[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
            pub(super) struct Order { $($body)* }
        }
    };
}

build!(base { pub(super) id: u64, pub(super) qty: u32 });
build!(wider { pub(super) id: u64, pub(super) qty: i64 });
build!(more { pub(super) id: u64, pub(super) qty: u32, pub(super) note: Option<String>, #[serde(default)] pub(super) tags: Vec<String> });
build!(demanding { pub(super) id: u64, pub(super) qty: u32, pub(super) sku: String });
build!(nullable { pub(super) id: u64, pub(super) qty: Option<u32> });
build!(texts { pub(super) id: String, pub(super) qty: u32 });
build!(float { pub(super) id: u64, pub(super) qty: f64 });
build!(renamed { pub(super) id: u64, #[serde(alias = "qty")] #[schemars(extend("x-aliases" = ["qty"]))] pub(super) quantity: u32 });
build!(omitting { pub(super) id: u64, #[serde(default, skip_serializing_if = "is_zero")] pub(super) qty: u32 });
build!(defaulted { pub(super) id: u64, #[serde(default)] pub(super) qty: u32 });

fn is_zero(n: &u32) -> bool {
    *n == 0
}

mod strict {
    use super::*;
    #[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Order {
        pub(super) id: u64,
        pub(super) qty: u32,
    }
}

const BASE: base::Order = base::Order { id: 1, qty: u32::MAX };

fn more() -> more::Order {
    more::Order { id: 1, qty: 2, note: Some("n".into()), tags: vec!["t".into()] }
}

#[test]
fn fields_may_be_added_when_the_reader_can_do_without_them() {
    compatible::<_, more::Order>(&[BASE]);
    compatible::<_, base::Order>(&[more()]);
    compatible::<_, demanding::Order>(&[demanding::Order { id: 1, qty: 2, sku: "s".into() }]);
    compatible::<_, base::Order>(&[demanding::Order { id: 1, qty: 2, sku: "s".into() }]);
    incompatible::<_, demanding::Order>(&[BASE], "sku: absent / required");
    incompatible::<_, strict::Order>(
        &[demanding::Order { id: 1, qty: 2, sku: "s".into() }],
        "sku: there / denied as an unknown field",
    );
}

#[test]
fn integers_may_widen_and_not_narrow() {
    compatible::<_, wider::Order>(&[BASE]);
    incompatible::<_, base::Order>(&[wider::Order { id: 1, qty: -1 }], "qty: i64 / u32");
    compatible::<_, float::Order>(&[BASE]);
    incompatible::<_, base::Order>(&[float::Order { id: 1, qty: 1.5 }], "qty: f64 / u32");
    incompatible::<_, texts::Order>(&[BASE], "id: u64 / string");
}

#[test]
fn null_needs_a_reader_that_takes_it() {
    compatible::<_, nullable::Order>(&[BASE]);
    incompatible::<_, base::Order>(&[nullable::Order { id: 1, qty: None }], "qty: optional / required");
}

#[test]
fn what_is_always_written_may_be_required_and_what_is_left_out_may_not() {
    compatible::<_, base::Order>(&[defaulted::Order { id: 1, qty: 0 }]);
    incompatible::<_, base::Order>(&[omitting::Order { id: 1, qty: 0 }], "qty: optional / required");
}

#[test]
fn a_renamed_field_with_an_alias_is_read() {
    compatible::<_, renamed::Order>(&[BASE]);
    incompatible::<_, base::Order>(&[renamed::Order { id: 1, quantity: 2 }], "qty: absent / required");
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
enum Few {
    Plain,
    Gift { to: String },
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
enum Many {
    Plain,
    /// Documented, so that schemars writes it apart.
    Express,
    Gift {
        to: String,
        card: Option<String>,
    },
    Bulk(u32),
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
#[serde(tag = "kind")]
enum Tagged {
    Plain,
    Gift { to: String },
    Boxed(Content),
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
struct Content {
    weight: u16,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
#[serde(tag = "kind")]
enum Tolerant {
    Plain,
    #[serde(other)]
    #[schemars(extend("x-other" = true))]
    Unknown,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
#[serde(tag = "kind")]
enum Intolerant {
    Plain,
}

#[test]
fn an_unknown_variant_needs_an_other() {
    let few = [Few::Plain, Few::Gift { to: "a".into() }];
    compatible::<_, Many>(&few);
    let (said, _) = judged::<_, Few>(&[Many::Plain]);
    assert_eq!(said, ["Express: a variant / unknown", "Bulk: a variant / unknown"]);
    for unknown in [Many::Express, Many::Bulk(1)] {
        assert!(from_slice::<Few>(&to_named(&unknown).unwrap()).is_err());
    }
    let tagged = [Tagged::Plain, Tagged::Gift { to: "a".into() }, Tagged::Boxed(Content { weight: 1 })];
    compatible::<_, Tagged>(&tagged);
    compatible::<_, Tolerant>(&tagged);
    let (said, read) = judged::<_, Intolerant>(&tagged);
    assert_eq!(said, ["Gift: a variant / unknown", "Boxed: a variant / unknown"]);
    assert!(!read);
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
struct Tree {
    value: u32,
    children: Vec<Tree>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
#[schemars(rename = "Node")]
struct TreeAgain {
    /// A comment.
    value: u32,
    children: Vec<TreeAgain>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
struct WideTree {
    value: u64,
    children: Vec<WideTree>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[test]
fn recursive_types_are_compared_and_named_alike() {
    let tree = Tree { value: 1, children: vec![Tree { value: 2, children: vec![] }] };
    compatible::<_, WideTree>(&[tree]);
    let wide = WideTree { value: u64::MAX, children: vec![], labels: BTreeMap::new() };
    let (said, read) = judged::<_, Tree>(&[wide]);
    assert!(!read && said[0] == "value: u64 / u32", "{said:?}");
    assert_eq!(Fingerprint::of(&schema::<Tree>()), Fingerprint::of(&schema::<TreeAgain>()));
    assert_ne!(Fingerprint::of(&schema::<Tree>()), Fingerprint::of(&schema::<WideTree>()));
}

#[test]
fn paths_lead_through_lists_maps_and_variants() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Old {
        orders: Vec<base::Order>,
        by_name: BTreeMap<String, Few>,
        pair: (u8, u32),
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct New {
        orders: Vec<wider::Order>,
        by_name: BTreeMap<String, Many>,
        pair: (u8, u8),
    }
    let (said, _) = judged::<New, Old>(&[]);
    assert_eq!(
        said,
        [
            "orders[].qty: i64 / u32",
            "by_name.*.Express: a variant / unknown",
            "by_name.*.Bulk: a variant / unknown"
        ]
    );
    let (said, _) = judged::<Old, New>(&[]);
    assert_eq!(said, ["pair[1]: u32 / u8"]);
}

#[test]
fn fingerprints_are_what_they_were() {
    for (schema, golden) in GOLDEN {
        let value: Value = serde_json::from_str(schema).unwrap();
        assert_eq!(Fingerprint::of(&value).to_string(), *golden, "{schema}");
    }
    assert_eq!(Fingerprint::of(&schema::<base::Order>()).to_string(), GOLDEN_ORDER);
}

/// These may never change: builds compare them.
const GOLDEN: &[(&str, &str)] = &[
    ("true", "d1411a4941d21e1f"),
    ("false", "89053932a0a73d31"),
    (r#"{"type":"null"}"#, "4e32ef84b3644a37"),
    (r#"{"type":"integer","format":"uint32","minimum":0}"#, "9194696bdc461577"),
    (r#"{"type":["string","null"]}"#, "9d180bd480b5a462"),
    (r#"{"type":"array","items":{"type":"number","format":"double"}}"#, "6104e389235a4422"),
    (
        r#"{"oneOf":[{"const":"A","type":"string"},{"const":"B","type":"string","description":"b"}]}"#,
        "26077bbced445b6c",
    ),
];
const GOLDEN_ORDER: &str = "5462e66a4320f685";

#[test]
fn comments_names_and_order_do_not_count_but_the_layout_does() {
    let a = json!({ "title": "A", "type": "object", "description": "x",
        "properties": { "a": { "$ref": "#/$defs/X" }, "b": { "type": "boolean" } }, "required": ["a", "b"],
        "$defs": { "X": { "type": "string", "format": "uuid" } } });
    let b = json!({ "type": "object", "required": ["b", "a"],
        "properties": { "b": { "type": "boolean", "examples": [true] }, "a": { "type": "string", "format": "uuid" } } });
    assert_eq!(Fingerprint::of(&a), Fingerprint::of(&b));
    assert_ne!(Fingerprint::layout(&a), Fingerprint::layout(&b));
    let enum_of = |text: &str| Fingerprint::of(&serde_json::from_str(text).unwrap());
    assert_eq!(
        enum_of(r#"{"type":"string","enum":["A","B"]}"#),
        enum_of(r#"{"oneOf":[{"const":"B","type":"string"},{"const":"A","type":"string"}]}"#)
    );
}

#[test]
fn a_schema_of_a_stranger_costs_no_more_than_its_limits() {
    let mut deep = json!({ "type": "boolean" });
    for _ in 0..100 {
        deep = json!({ "type": "array", "items": deep });
    }
    let many: serde_json::Map<String, Value> =
        (0..20_000).map(|n| (format!("f{n}"), json!({ "type": "boolean" }))).collect();
    let wide = json!({ "type": "object", "properties": many });
    let lost = json!({ "$ref": "#/$defs/Nobody" });
    let round = json!({ "$ref": "#" });
    // Ten definitions, each with ten ways to each other.
    let all: Vec<Value> = (0..10).map(|n| json!({ "$ref": format!("#/$defs/{n}") })).collect();
    let defs: serde_json::Map<String, Value> =
        (0..10).map(|n| (n.to_string(), json!({ "type": "array", "prefixItems": all }))).collect();
    let entangled = json!({ "$ref": "#/$defs/0", "$defs": defs });
    for schema in [deep, wide, lost, round, entangled] {
        assert_eq!(Fingerprint::of(&schema), Fingerprint::of(&schema));
        let parsed = Type::of(&schema);
        assert!(unreadable(&parsed, &parsed).is_empty());
    }
}

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!({ "type": "boolean" })),
        Just(json!({ "type": "null" })),
        Just(json!({ "type": "string" })),
        Just(json!({ "type": "string", "format": "uuid" })),
        prop::sample::select(vec!["int8", "uint8", "int32", "uint32", "int64", "uint64"])
            .prop_map(|format| json!({ "type": "integer", "format": format })),
        Just(json!({ "type": "number", "format": "double" })),
        prop::collection::btree_set("[A-D]", 1..4)
            .prop_map(|words| json!({ "type": "string", "enum": words })),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({ "type": "array", "items": items })),
            inner.clone().prop_map(|values| json!({ "type": "object", "additionalProperties": values })),
            inner.clone().prop_map(|one| json!({ "anyOf": [one, { "type": "null" }] })),
            (prop::collection::btree_map("[a-e]", (inner.clone(), any::<bool>()), 0..4), any::<bool>())
                .prop_map(|(fields, closed)| {
                    let required: Vec<&String> =
                        fields.iter().filter(|(_, (_, required))| *required).map(|(name, _)| name).collect();
                    let mut schema = json!({ "type": "object", "required": required });
                    schema["properties"] =
                        fields.iter().map(|(name, (field, _))| (name.clone(), field.clone())).collect();
                    if closed {
                        schema["additionalProperties"] = json!(false);
                    }
                    schema
                }),
        ]
    })
}

/// The same schema with each part behind a definition.
fn indirect(schema: &Value) -> Value {
    fn walk(value: &Value, defs: &mut serde_json::Map<String, Value>) -> Value {
        let mut copy = value.clone();
        if let Value::Object(map) = &mut copy {
            for key in ["items", "additionalProperties"] {
                if let Some(inner) = map.get_mut(key).filter(|inner| inner.is_object()) {
                    *inner = walk(inner, defs);
                }
            }
            if let Some(Value::Object(fields)) = map.get_mut("properties") {
                fields.values_mut().for_each(|field| *field = walk(field, defs));
            }
            if let Some(Value::Array(list)) = map.get_mut("anyOf") {
                list.iter_mut().for_each(|part| *part = walk(part, defs));
            }
        }
        let name = format!("D{}", 1_000 - defs.len());
        defs.insert(name.clone(), copy);
        json!({ "$ref": format!("#/$defs/{name}"), "description": "by name" })
    }
    let mut defs = serde_json::Map::new();
    let mut root = walk(schema, &mut defs);
    root["$defs"] = Value::Object(defs);
    root
}

proptest! {
    #[test]
    fn every_type_is_compatible_with_itself(schema in any_schema()) {
        let parsed = Type::of(&schema);
        prop_assert_eq!(unreadable(&parsed, &parsed), vec![]);
    }

    #[test]
    fn definitions_in_place_or_by_name_are_one_type(schema in any_schema()) {
        let named = indirect(&schema);
        prop_assert_eq!(Fingerprint::of(&schema), Fingerprint::of(&named));
        prop_assert_eq!(unreadable(&Type::of(&schema), &Type::of(&named)), vec![]);
        prop_assert_eq!(unreadable(&Type::of(&named), &Type::of(&schema)), vec![]);
    }

    #[test]
    fn equal_fingerprints_mean_compatible_types(a in any_schema(), b in any_schema()) {
        let (first, second) = (Type::of(&a), Type::of(&b));
        if Fingerprint::of(&a) == Fingerprint::of(&b) {
            prop_assert_eq!(unreadable(&first, &second), vec![]);
        }
    }
}
