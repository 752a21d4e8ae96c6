//! What a line means: one JSON value, or text.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Characters of a line that a message quotes.
const QUOTED_CHARS_MAX: usize = 100;

/// Reads a line; nothing where a line is blank and stands for no record. The error says what is
/// wrong, behind place and line.
pub(crate) type Decode<T> = fn(&[u8]) -> Result<Option<T>, String>;

/// Appends a line without its end. The error says why the record has none.
pub(crate) type Encode<T> = fn(&T, &mut Vec<u8>) -> Result<(), String>;

/// What can be done about a line that is no record.
pub(crate) const CURE: &str = "correct it, or count and pass over such lines with source.on_error=skip";

/// One JSON value (RFC 8259).
pub(crate) fn decode_json<T: DeserializeOwned>(line: &[u8]) -> Result<Option<T>, String> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    match serde_json::from_slice(line) {
        Ok(record) => Ok(Some(record)),
        Err(_) => Err(describe::<T>(line)),
    }
}

/// Reads the line again, slowly, to know the field.
#[cold]
fn describe<T: DeserializeOwned>(line: &[u8]) -> String {
    let mut reader = serde_json::Deserializer::from_slice(line);
    let fault = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(fault) => fault,
        Ok(_) => return format!("there is more behind the first value; {}", Quoted(line)),
    };
    let path = fault.path().to_string();
    let error = fault.into_inner();
    let text = error.to_string();
    let what = text.split(" at line 1 column").next().unwrap_or(&text);
    let field = if path == "." { String::new() } else { format!("field `{path}`, ") };
    format!("column {}: {field}{what}; the line is {}", error.column(), Quoted(line))
}

/// One JSON value on one line.
pub(crate) fn encode_json<T: Serialize>(record: &T, line: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(line, record).map_err(|e| e.to_string())
}

/// UTF-8 text; an empty line is an empty text.
pub(crate) fn decode_text(line: &[u8]) -> Result<Option<String>, String> {
    match std::str::from_utf8(line) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(error) => {
            let at = error.valid_up_to() + 1;
            Err(format!("column {at}: not UTF-8 text from there on; the line is {}", Quoted(line)))
        }
    }
}

/// The text itself, which must be one line.
#[allow(clippy::ptr_arg)] // its type is that of the other encoders
pub(crate) fn encode_text(record: &String, line: &mut Vec<u8>) -> Result<(), String> {
    match record.find('\n') {
        Some(at) => Err(format!(
            "there is a line end at its byte {}: it would become two lines; write it as JSON",
            at + 1
        )),
        None => {
            line.extend_from_slice(record.as_bytes());
            Ok(())
        }
    }
}

/// A line as messages write it, cut to a length that can be read.
pub(crate) struct Quoted<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four bytes a character at most.
        let head = self.0.get(..self.0.len().min(4 * QUOTED_CHARS_MAX)).unwrap_or_default();
        let text = String::from_utf8_lossy(head);
        let shown: String = text.chars().take(QUOTED_CHARS_MAX).collect();
        let cut =
            if shown.len() < self.0.len() && text.chars().count() >= QUOTED_CHARS_MAX { "…" } else { "" };
        write!(f, "`{}{cut}`", shown.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Trip {
        id: u64,
        legs: Vec<Leg>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Leg {
        km: Option<f64>,
    }

    #[test]
    fn a_record_is_one_line_and_comes_back() {
        let trip = Trip { id: 7, legs: vec![Leg { km: Some(1.5) }, Leg { km: None }] };
        let mut line = Vec::new();
        encode_json(&trip, &mut line).unwrap();
        assert_eq!(line, br#"{"id":7,"legs":[{"km":1.5},{"km":null}]}"#);
        assert_eq!(decode_json(&line).unwrap(), Some(trip));
        assert_eq!(decode_json::<Trip>(b" \t").unwrap(), None);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_column_its_field_and_what_was_expected() {
        for (line, expected) in [
            (
                r#"{"id":7,"legs":[{"km":1},{"km":"far"}]}"#,
                "column 36: field `legs[1].km`, invalid type: string \"far\", expected f64",
            ),
            (r#"{"id":-7,"legs":[]}"#, "column 8: field `id`, invalid value: integer `-7`, expected u64"),
            (r#"{"id":7}"#, "column 8: missing field `legs`; the line is `{\\\"id\\\":7}`"),
            (r#"{"id":7,"legs":[]} x"#, "there is more behind the first value"),
            (r#"{"id":7,"legs":["#, "column 16: field `legs`, EOF while parsing"),
            ("nonsense", "column 2: expected"),
        ] {
            let message = decode_json::<Trip>(line.as_bytes()).unwrap_err();
            assert!(message.starts_with(expected), "{line}: {message}");
        }
    }

    #[test]
    fn a_long_line_is_cut_in_a_message() {
        let message = decode_json::<Trip>("ä".repeat(5000).as_bytes()).unwrap_err();
        assert!(message.contains("ää…`") && message.len() < 400, "{message}");
        let message = decode_text(b"caf\xe9 au lait").unwrap_err();
        assert!(message.starts_with("column 4: not UTF-8"), "{message}");
    }

    #[test]
    fn a_text_of_two_lines_is_refused() {
        assert!(encode_text(&"a\nb".to_owned(), &mut Vec::new()).unwrap_err().contains("byte 2"));
        assert_eq!(decode_text(b"").unwrap(), Some(String::new()));
    }
}
