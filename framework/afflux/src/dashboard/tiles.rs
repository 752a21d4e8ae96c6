//! Figures of a program's own services on the overview: what a method answers, as a small table.
//!
//! Methods are asked for each picture, so only while somebody looks on.

use std::fmt;
use std::time::Duration;

use afflux_wire::contract::{MethodKind, Service, Target};
use afflux_wire::{Status, codec};
use futures_util::future::join_all;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{Error, Result, suggest};

/// Tiles of a program.
const TILES_MAX: usize = 12;
/// Rows of a tile; of more it is told how many there are.
const ROWS_MAX: usize = 10;
/// Columns of a tile.
const COLUMNS_MAX: usize = 8;
/// Characters of a cell.
const CELL_CHARS_MAX: usize = 60;
/// Longest wait for an answer: a picture without it is better than none.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);

/// A figure on the overview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    title: String,
    service: &'static str,
    method: String,
    /// Why it cannot be one.
    problem: Option<String>,
}

impl Tile {
    /// What this method of `S` answers, under a title.
    pub(crate) fn of<S: Service>(title: &str, method: &str) -> Self {
        let problem = match S::METHODS.iter().find(|spec| spec.name == method) {
            None => Some(suggest(method, S::METHODS.iter().map(|spec| spec.name))),
            Some(spec) if spec.kind != MethodKind::Unary => Some("it is not unary".to_owned()),
            Some(spec) if !spec.readonly => Some(
                "it may change something, and a tile is asked each second; mark it `readonly`".to_owned(),
            ),
            Some(spec) if !spec.fields.is_empty() => {
                Some(format!("it takes parameters ({}), and a tile has none to give", spec.fields.join(", ")))
            }
            Some(_) => None,
        };
        Self { title: title.to_owned(), service: S::NAME, method: method.to_owned(), problem }
    }

    /// What is wrong with one of these.
    ///
    /// # Errors
    /// The first, with its cure.
    pub(crate) fn check(tiles: &[Self]) -> Result<()> {
        if tiles.len() > TILES_MAX {
            return Err(Error::usage(format!("{} tiles are too many: at most {TILES_MAX}", tiles.len())));
        }
        match tiles.iter().find_map(|tile| Some((tile, tile.problem.as_ref()?))) {
            None => Ok(()),
            Some((Self { title, service, method, .. }, problem)) => {
                Err(Error::usage(format!("tile \"{title}\": {service}/{method} cannot be shown: {problem}")))
            }
        }
    }

    /// What its method answers now.
    async fn ask(&self, client: &Client) -> std::result::Result<Shown, Status> {
        let params = codec::to_named(&json!({}))?;
        let target = Target::service(self.service);
        let call = client.call_raw(&target, &self.method, params, ANSWER_MAX);
        let answer = tokio::time::timeout(ANSWER_MAX, call)
            .await
            .map_err(|_| Status::unavailable(format!("no answer within {} ms", ANSWER_MAX.as_millis())))??;
        codec::from_slice::<Shown>(&answer)
    }
}

/// All tiles as they are now.
pub(super) async fn ask_all(client: &Client, tiles: &[Tile]) -> Vec<Value> {
    let asked = tiles.iter().map(|tile| async {
        let mut row = json!({ "title": tile.title, "service": tile.service, "method": tile.method });
        match tile.ask(client).await {
            Ok(shown) => {
                row["head"] = json!(shown.head);
                row["rows"] = json!(shown.rows);
                row["all"] = json!(shown.all);
            }
            Err(status) => row["error"] = json!(status.message),
        }
        row
    });
    join_all(asked).await
}

/// An answer as a table: a row for each value of a list, or one; a column for each field, in the order of the type.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    head: Vec<String>,
    rows: Vec<Vec<Value>>,
    /// Rows there are.
    all: usize,
}

impl Shown {
    fn add(&mut self, row: Row) {
        self.all += 1;
        if self.rows.len() == ROWS_MAX {
            return;
        }
        let mut cells = vec![Value::Null; self.head.len()];
        for (name, cell) in row.0 {
            match self.head.iter().position(|known| *known == name) {
                Some(at) => cells[at] = cell,
                None if self.head.len() < COLUMNS_MAX => {
                    self.head.push(name);
                    cells.push(cell);
                    self.rows.iter_mut().for_each(|row| row.push(Value::Null));
                }
                None => {}
            }
        }
        self.rows.push(cells);
    }
}

/// Fields by name; a value that has none is one without a name.
#[derive(Default)]
struct Row(Vec<(String, Value)>);

/// A number or a short text.
struct Cell(Value);

impl Cell {
    fn text(text: &str) -> Self {
        match text.char_indices().nth(CELL_CHARS_MAX) {
            Some((at, _)) => Self(json!(format!("{}…", &text[..at]))),
            None => Self(json!(text)),
        }
    }
}

/// The scalars of a value, each as a cell.
macro_rules! scalars {
    () => {
        fn visit_bool<E>(self, value: bool) -> std::result::Result<Self::Value, E> {
            Ok(<Self::Value as Scalar>::scalar(json!(value)))
        }
        fn visit_i64<E>(self, value: i64) -> std::result::Result<Self::Value, E> {
            Ok(<Self::Value as Scalar>::scalar(json!(value)))
        }
        fn visit_u64<E>(self, value: u64) -> std::result::Result<Self::Value, E> {
            Ok(<Self::Value as Scalar>::scalar(json!(value)))
        }
        fn visit_f64<E>(self, value: f64) -> std::result::Result<Self::Value, E> {
            Ok(<Self::Value as Scalar>::scalar(json!(value)))
        }
        fn visit_str<E>(self, value: &str) -> std::result::Result<Self::Value, E> {
            Ok(<Self::Value as Scalar>::scalar(Cell::text(value).0))
        }
        fn visit_bytes<E>(self, value: &[u8]) -> std::result::Result<Self::Value, E> {
            Ok(<Self::Value as Scalar>::scalar(json!(format!("{} bytes", value.len()))))
        }
        fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
            Ok(<Self::Value as Scalar>::scalar(Value::Null))
        }
        fn visit_none<E>(self) -> std::result::Result<Self::Value, E> {
            Ok(<Self::Value as Scalar>::scalar(Value::Null))
        }
    };
}

trait Scalar {
    fn scalar(value: Value) -> Self;
}

impl Scalar for Cell {
    fn scalar(value: Value) -> Self {
        Self(value)
    }
}

impl Scalar for Row {
    fn scalar(value: Value) -> Self {
        Self(vec![(String::new(), value)])
    }
}

impl Scalar for Shown {
    fn scalar(value: Value) -> Self {
        let mut shown = Self::default();
        if !value.is_null() {
            shown.add(Row::scalar(value));
        }
        shown
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Cell;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            scalars!();
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Cell, A::Error> {
                let mut texts = Vec::new();
                let mut more = 0;
                while texts.len() < COLUMNS_MAX {
                    match seq.next_element::<Cell>()? {
                        Some(Cell(Value::String(text))) => texts.push(text),
                        Some(Cell(value)) => texts.push(value.to_string()),
                        None => return Ok(Cell::text(&texts.join(", "))),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    more += 1;
                }
                if more > 0 {
                    texts.push(format!("and {more} more"));
                }
                Ok(Cell::text(&texts.join(", ")))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Cell, A::Error> {
                let mut fields = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    fields += 1;
                }
                Ok(Cell(json!(format!("{fields} fields"))))
            }
        }
        deserializer.deserialize_any(Look)
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Row;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }
            scalars!();
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Row, A::Error> {
                let mut row = Row::default();
                while let Some(Cell(value)) = seq.next_element()? {
                    if row.0.len() < COLUMNS_MAX {
                        let name = (row.0.len() + 1).to_string();
                        row.0.push((name, value));
                    }
                }
                Ok(row)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Row, A::Error> {
                let mut row = Row::default();
                while let Some((Cell(name), Cell(value))) = map.next_entry()? {
                    if row.0.len() < COLUMNS_MAX {
                        let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
                        row.0.push((name, value));
                    }
                }
                Ok(row)
            }
        }
        deserializer.deserialize_any(Look)
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Shown;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an answer")
            }
            scalars!();
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Shown, A::Error> {
                let mut shown = Shown::default();
                while let Some(row) = seq.next_element::<Row>()? {
                    shown.add(row);
                }
                Ok(shown)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Shown, A::Error> {
                let mut row = Row::default();
                while let Some((Cell(name), Cell(value))) = map.next_entry()? {
                    let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
                    row.0.push((name, value));
                }
                let mut shown = Shown::default();
                shown.add(row);
                Ok(shown)
            }
        }
        deserializer.deserialize_any(Look)
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::node_service::NodeService;
    use crate::registry_service::RegistryService;

    #[derive(Serialize)]
    struct Delay {
        origin: &'static str,
        carrier: Option<&'static str>,
        mean: f64,
        hours: Vec<u32>,
    }

    fn shown(answer: &impl Serialize) -> Shown {
        codec::from_slice(&codec::to_named(answer).unwrap()).unwrap()
    }

    #[test]
    fn a_list_is_a_table_whose_columns_stand_as_the_type_has_them() {
        let delay = |origin, carrier| Delay { origin, carrier, mean: 1.5, hours: vec![1, 2] };
        let table = shown(&vec![delay("JFK", Some("UA")), delay("EWR", None)]);
        assert_eq!(table.head, ["origin", "carrier", "mean", "hours"]);
        assert_eq!(
            table.rows,
            [
                vec![json!("JFK"), json!("UA"), json!(1.5), json!("1, 2")],
                vec![json!("EWR"), json!(null), json!(1.5), json!("1, 2")]
            ]
        );
        assert_eq!(shown(&delay("LGA", None)).rows.len(), 1);
        assert_eq!(shown(&7_u64).rows, [[json!(7)]]);
        assert_eq!(shown(&()).rows, Vec::<Vec<Value>>::new());
    }

    #[test]
    fn what_is_too_long_is_cut_and_counted() {
        let table = shown(&(0..500_u32).collect::<Vec<_>>());
        assert_eq!((table.rows.len(), table.all), (ROWS_MAX, 500));
        let wide: std::collections::BTreeMap<String, u32> =
            (0..30).map(|n| (format!("f{n:02}"), n)).collect();
        assert_eq!(shown(&[wide]).head.len(), COLUMNS_MAX);
        let text = shown(&"é".repeat(500));
        assert_eq!(text.rows[0][0].as_str().unwrap().chars().count(), CELL_CHARS_MAX + 1);
        assert_eq!(shown(&[[1_u8; 20]]).head.len(), COLUMNS_MAX);
        let uneven = [[("a", 1)].into(), std::collections::BTreeMap::from([("b", 2)])];
        let table = shown(&uneven);
        assert_eq!(table.rows, [[json!(1), json!(null)], [json!(null), json!(2)]]);
    }

    #[test]
    fn a_method_that_changes_something_or_wants_parameters_is_no_tile() {
        assert_eq!(
            Tile::check(&[Tile::of::<NodeService>("clock", "Clock")]).map_err(|e| e.to_string()),
            Ok(())
        );
        for (method, why) in [
            ("Clok", "did you mean `Clock`?"),
            ("Drain", "mark it `readonly`"),
            ("Logs", "it takes parameters (after, count, level)"),
        ] {
            let error = Tile::check(&[Tile::of::<NodeService>("t", method)]).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("tile \"t\": afflux.node/"), "{error}");
        }
        let many = vec![Tile::of::<RegistryService>("t", "Home"); TILES_MAX + 1];
        assert!(Tile::check(&many).unwrap_err().to_string().contains("13 tiles are too many"));
    }
}
