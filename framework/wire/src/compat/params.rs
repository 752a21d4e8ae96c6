//! Parameters by place or by name, made into the map that a method takes.

use super::{Cursor, put_map_len, put_str};
use crate::limits::METHOD_BYTES_MAX;
use crate::status::Status;

/// What a method takes: the names of its parameters in order, and which of them have no default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    fields: Vec<(String, bool)>,
}

impl Wanted {
    /// From names and the JSON Schema of the parameters, whose `required` says which must be given.
    #[must_use]
    pub fn new(fields: &[impl AsRef<str>], schema: &serde_json::Value) -> Self {
        let required = schema.get("required").and_then(serde_json::Value::as_array);
        let must = |name: &str| required.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(name)));
        let fields = fields.iter().map(|field| {
            let name = field.as_ref();
            // A raw identifier is a name of Rust's, not of the value.
            let name = name.strip_prefix("r#").unwrap_or(name);
            (name.to_owned(), must(name))
        });
        Self { fields: fields.collect() }
    }

    fn has(&self, name: &[u8]) -> bool {
        self.fields.iter().any(|(field, _)| field.as_bytes() == name)
    }

    /// `a, b, [c]`: those with a default in brackets.
    fn list(&self) -> String {
        let names: Vec<String> = self
            .fields
            .iter()
            .map(|(name, required)| if *required { name.clone() } else { format!("[{name}]") })
            .collect();
        names.join(", ")
    }

    fn count(&self) -> String {
        let all = self.fields.len();
        let required = self.fields.iter().filter(|(_, required)| *required).count();
        match (all, required) {
            (0, _) => "no parameters".to_owned(),
            (1, 1) => format!("1 parameter ({})", self.list()),
            _ if all == required => format!("{all} parameters ({})", self.list()),
            _ => format!("{required} to {all} parameters ({})", self.list()),
        }
    }
}

/// The parameters of one call.
///
/// An array is positional; a map, or an array with nothing but one map, is by name. One map whose keys are not
/// the names of parameters is the first parameter itself.
///
/// ```
/// use afflux_wire::compat::{Params, Wanted};
///
/// let wanted = Wanted::new(&["a", "b"], &serde_json::json!({ "required": ["a", "b"] }));
/// let map = Params::read(&[0x92, 1, 2]).unwrap().for_method(&wanted).unwrap();
/// assert_eq!(map, [0x82, 0xa1, b'a', 1, 0xa1, b'b', 2]);
/// ```
#[derive(Clone, Copy)]
pub struct Params<'a> {
    /// Elements of the array, if it is one.
    count: Option<u64>,
    rest: Cursor<'a>,
    all: &'a [u8],
}

impl std::fmt::Debug for Params<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Params({} bytes)", self.all.len())
    }
}

impl<'a> Params<'a> {
    /// Takes the params of a message.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is neither an array, a map nor nil.
    pub fn read(params: &'a [u8]) -> Result<Self, Status> {
        let mut rest = Cursor(params);
        let got = rest.what();
        let count = match rest.marker() {
            Some(0xc0) => {
                rest = Cursor(&[]);
                Some(0)
            }
            Some(0x80..=0x8f | 0xde | 0xdf) => None,
            _ => {
                let Some(count) = rest.array() else {
                    return Err(Status::invalid(format!(
                        "params: expected an array in the order of the parameters, or a map by name, got {got}"
                    )));
                };
                Some(count)
            }
        };
        Ok(Self { count, rest, all: params })
    }

    /// The first values, each MessagePack, for what has no contract; never more than `max`.
    #[must_use]
    pub fn positional(&self, max: usize) -> Vec<&'a [u8]> {
        let mut cursor = self.rest;
        let count = usize::try_from(self.count.unwrap_or(0)).unwrap_or(max).min(max);
        std::iter::from_fn(|| cursor.value()).take(count).collect()
    }

    /// The first value as text.
    #[must_use]
    pub fn first_text(&self) -> Option<&'a str> {
        let mut cursor = self.rest;
        self.count.filter(|count| *count > 0)?;
        std::str::from_utf8(cursor.text()?).ok()
    }

    /// The first two values as unsigned integers.
    #[must_use]
    pub fn numbers(&self) -> (Option<u64>, Option<u64>) {
        let mut cursor = self.rest;
        let count = self.count.unwrap_or(0);
        let first = if count > 0 { cursor.unsigned() } else { None };
        let second = if count > 1 && first.is_some() { cursor.unsigned() } else { None };
        (first, second)
    }

    /// As they came: for a method of which no names are known. An array is read in field order there.
    #[must_use]
    pub fn as_they_are(&self) -> Vec<u8> {
        match self.count {
            Some(0) => vec![0x80],
            Some(1) if matches!(self.rest.marker(), Some(0x80..=0x8f | 0xde | 0xdf)) => self.rest.0.to_vec(),
            _ => self.all.to_vec(),
        }
    }

    /// As the map that a method takes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names what is missing, unknown or too much.
    pub fn for_method(&self, wanted: &Wanted) -> Result<Vec<u8>, Status> {
        match self.count {
            None => by_name(self.rest, wanted),
            Some(1) if matches!(self.rest.marker(), Some(0x80..=0x8f | 0xde | 0xdf)) => {
                let named = by_name(self.rest, wanted);
                match self.by_place(wanted) {
                    // One map can be both: it is by name when its keys are names.
                    Ok(placed) => Ok(named.unwrap_or(placed)),
                    Err(_) => named,
                }
            }
            Some(_) => self.by_place(wanted),
        }
    }

    fn by_place(&self, wanted: &Wanted) -> Result<Vec<u8>, Status> {
        let given = self.count.unwrap_or(0);
        if given > wanted.fields.len() as u64 {
            return Err(Status::invalid(format!("takes {}, got {given}", wanted.count())));
        }
        let given = given as usize;
        if let Some((missing, _)) = wanted.fields.iter().skip(given).find(|(_, required)| *required) {
            return Err(Status::invalid(format!(
                "parameter `{missing}` is missing: takes {}, got {given}",
                wanted.count()
            )));
        }
        let mut out = Vec::with_capacity(self.all.len() + 16 * given);
        put_map_len(&mut out, given as u32);
        let mut cursor = self.rest;
        for (name, _) in wanted.fields.iter().take(given) {
            put_str(&mut out, name);
            let Some(value) = cursor.value() else {
                return Err(Status::invalid(format!("parameter `{name}` is cut short")));
            };
            out.extend_from_slice(value);
        }
        Ok(out)
    }
}

fn by_name(mut cursor: Cursor<'_>, wanted: &Wanted) -> Result<Vec<u8>, Status> {
    let mut out = Vec::with_capacity(cursor.0.len() + 8);
    let entries = cursor.map().unwrap_or(0);
    if entries > wanted.fields.len() as u64 {
        return Err(Status::invalid(format!("takes {}, got {entries} by name", wanted.count())));
    }
    put_map_len(&mut out, entries as u32);
    let mut found = Vec::with_capacity(entries as usize);
    for _ in 0..entries {
        let got = cursor.what();
        let Some(name) = cursor.text() else {
            return Err(Status::invalid(format!("params: expected names of parameters as keys, got {got}")));
        };
        if !wanted.has(name) {
            let shown = String::from_utf8_lossy(&name[..name.len().min(METHOD_BYTES_MAX)]);
            return Err(Status::invalid(format!("unknown parameter `{shown}`: takes {}", wanted.count())));
        }
        let Some(value) = cursor.value() else {
            return Err(Status::invalid("params: cut short"));
        };
        let Ok(text) = std::str::from_utf8(name) else {
            return Err(Status::invalid("params: a name is not UTF-8"));
        };
        put_str(&mut out, text);
        out.extend_from_slice(value);
        found.push(name);
    }
    match wanted.fields.iter().find(|(name, required)| *required && !found.contains(&name.as_bytes())) {
        None => Ok(out),
        Some((missing, _)) => {
            Err(Status::invalid(format!("parameter `{missing}` is missing: takes {}", wanted.count())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{from_slice, to_named};
    use serde_json::{Value, json};

    fn wanted() -> Wanted {
        Wanted::new(&["order", "r#loop", "note"], &json!({"required": ["order", "loop"]}))
    }

    fn map(wanted: &Wanted, params: Value) -> Result<Value, String> {
        let bytes = to_named(&params).unwrap();
        let params = Params::read(&bytes).map_err(|status| status.message)?;
        let map = params.for_method(wanted).map_err(|status| status.message)?;
        Ok(from_slice(&map).unwrap())
    }

    #[test]
    fn places_become_names_and_trailing_defaults_may_be_left_out() {
        assert_eq!(map(&wanted(), json!([{"id": 1}, true])), Ok(json!({"order": {"id": 1}, "loop": true})));
        assert_eq!(map(&wanted(), json!([1, 2, 3])), Ok(json!({"order": 1, "loop": 2, "note": 3})));
        assert_eq!(map(&Wanted::default(), json!([])), Ok(json!({})));
        assert_eq!(map(&Wanted::default(), json!(null)), Ok(json!({})));
    }

    #[test]
    fn names_may_come_in_any_order_with_or_without_an_array_around_them() {
        let by_name = json!({"loop": 2, "order": 1});
        assert_eq!(map(&wanted(), by_name.clone()), Ok(by_name.clone()));
        assert_eq!(map(&wanted(), json!([by_name])), Ok(json!({"loop": 2, "order": 1})));
        assert_eq!(map(&Wanted::default(), json!([{}])), Ok(json!({})));
    }

    #[test]
    fn one_map_that_holds_no_names_is_the_first_parameter() {
        let one = Wanted::new(&["order"], &json!({"required": ["order"]}));
        assert_eq!(map(&one, json!([{"id": 1}])), Ok(json!({"order": {"id": 1}})));
        assert_eq!(map(&one, json!([{"order": 1}])), Ok(json!({"order": 1})));
        assert_eq!(map(&one, json!([{}])), Ok(json!({"order": {}})));
        let default = Wanted::new(&["order"], &json!({}));
        assert_eq!(map(&default, json!([{}])), Ok(json!({})));
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        let list = "takes 2 to 3 parameters (order, loop, [note])";
        assert_eq!(map(&wanted(), json!([1])), Err(format!("parameter `loop` is missing: {list}, got 1")));
        assert_eq!(map(&wanted(), json!([1, 2, 3, 4])), Err(format!("{list}, got 4")));
        assert_eq!(
            map(&wanted(), json!([{"order": 1, "lop": 2}])),
            Err(format!("unknown parameter `lop`: {list}"))
        );
        assert_eq!(map(&wanted(), json!({"order": 1})), Err(format!("parameter `loop` is missing: {list}")));
        assert_eq!(map(&Wanted::default(), json!([1])), Err("takes no parameters, got 1".to_owned()));
        let one = Wanted::new(&["n"], &json!({"required": ["n"]}));
        assert!(map(&one, json!([])).unwrap_err().contains("takes 1 parameter (n), got 0"));
        assert!(map(&one, json!("x")).unwrap_err().contains("got str"));
    }

    #[test]
    fn names_as_bin_become_names_as_str() {
        let one = Wanted::new(&["n"], &json!({"required": ["n"]}));
        let bytes = [0x91, 0x81, 0xc4, 1, b'n', 5];
        assert_eq!(Params::read(&bytes).unwrap().for_method(&one).unwrap(), [0x81, 0xa1, b'n', 5]);
    }

    #[test]
    fn a_claim_that_the_bytes_do_not_hold_is_an_error() {
        let many = Wanted::new(&["n"], &json!({}));
        assert!(Params::read(&[0xdd, 0xff, 0xff, 0xff, 0xff]).unwrap().for_method(&many).is_err());
        assert!(Params::read(&[0xdf, 0xff, 0xff, 0xff, 0xff]).unwrap().for_method(&many).is_err());
        assert!(Params::read(&[0x91]).unwrap().for_method(&many).is_err());
        assert_eq!(Params::read(&[0xdd, 0xff, 0xff, 0xff, 0xff]).unwrap().positional(3).len(), 0);
    }
}
