//! `afflux.toml`: tables and keys become dotted names, each with its line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::declared;
use super::schema::{SCHEMA, Setting, find};
use super::value::{Kind, Value};
use crate::error::{Error, Result, suggest};

/// One value of the file.
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) value: Value,
    /// Counted from 1.
    pub(super) line: usize,
}

/// Reads the text of a settings file; `path` is for messages only.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Entry>> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        Error::usage(format!("{}:{line}: not valid TOML: {}", path.display(), error.message()))
    })?;
    let (source, mut entries) = (Source { path, text }, Vec::new());
    walk(&source, "", table.get_ref(), &mut entries)?;
    for (key, value) in table.get_ref() {
        if key.get_ref() == declared::TABLE {
            declare(&source, declared::read(value, |offset| source.at(offset))?, &mut entries)?;
        }
    }
    Ok(entries)
}

/// Puts pipelines that have tables of their own behind those of `pipeline.start`.
fn declare(source: &Source<'_>, declared: Vec<declared::Declared>, entries: &mut Vec<Entry>) -> Result<()> {
    for pipeline in declared {
        let line = line_of(source.text, pipeline.offset);
        let Some(entry) = entries.iter_mut().find(|entry| entry.setting.name == "pipeline.start") else {
            if let Some(setting) = find("pipeline.start") {
                entries.push(Entry { setting, value: Value::List(vec![pipeline.word]), line });
            }
            continue;
        };
        let Value::List(words) = &mut entry.value else { continue };
        if words.iter().any(|word| word.split('=').next().map(str::trim) == Some(pipeline.name.as_str())) {
            let (at, name) = (source.at(pipeline.offset), &pipeline.name);
            return Err(Error::usage(format!("{at}: `pipeline.start` names the pipeline {name}, too"))
                .hint(format!("keep one of them: [pipelines.{name}], or its word in `pipeline.start`")));
        }
        words.push(pipeline.word);
    }
    Ok(())
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.path.display(), line_of(self.text, offset))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn walk(source: &Source<'_>, prefix: &str, table: &DeTable<'_>, entries: &mut Vec<Entry>) -> Result<()> {
    for (key, value) in table {
        if prefix.is_empty() && key.get_ref() == declared::TABLE {
            continue;
        }
        let name =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        if let Some(setting) = find(&name) {
            // `registry` is a word, or a table whose key `kind` is that word.
            if let (DeValue::Table(inner), true) = (value.get_ref(), has_children(&name)) {
                walk(source, &name, inner, entries)?;
            } else {
                entries.push(Entry {
                    setting,
                    value: convert(setting, value).map_err(|why| {
                        Error::usage(format!("{}: {name}: {why}", source.at(value.span().start)))
                    })?,
                    line: line_of(source.text, key.span().start),
                });
            }
            continue;
        }
        if let Some(setting) = name.strip_suffix(".kind").and_then(find).filter(|s| has_children(s.name)) {
            entries.push(Entry {
                setting,
                value: convert(setting, value).map_err(|why| {
                    Error::usage(format!("{}: {name}: {why}", source.at(value.span().start)))
                })?,
                line: line_of(source.text, key.span().start),
            });
            continue;
        }
        match value.get_ref() {
            DeValue::Table(inner) if has_children(&name) => walk(source, &name, inner, entries)?,
            _ => return Err(unknown(&source.at(key.span().start), &name)),
        }
    }
    Ok(())
}

fn has_children(name: &str) -> bool {
    SCHEMA.iter().any(|s| s.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The error of a name that is in no row of the table.
pub(super) fn unknown(place: &str, name: &str) -> Error {
    Error::usage(format!("{place}: unknown setting `{name}`"))
        .hint(suggest(name, SCHEMA.iter().map(|setting| setting.name)))
}

fn convert(setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    let wrong = |got: String| format!("expected {}, got {got}", setting.kind);
    match (&setting.kind, value.get_ref()) {
        (Kind::Integer { .. }, DeValue::Integer(number)) => {
            let digits = number.as_str();
            match u64::from_str_radix(digits, number.radix()) {
                Ok(number) => setting.kind.parse(&number.to_string()),
                Err(_) => Err(wrong(format!("`{digits}`"))),
            }
        }
        (Kind::List, DeValue::Array(items)) => {
            let mut texts = Vec::with_capacity(items.len());
            for item in items.iter() {
                match item.get_ref() {
                    DeValue::String(text) => texts.push(text.to_string()),
                    other => return Err(wrong(format!("a list with {} in it", describe(other)))),
                }
            }
            Ok(Value::List(texts))
        }
        (Kind::Integer { .. } | Kind::List, other) => Err(wrong(describe(other))),
        (kind, DeValue::String(text)) => kind.parse(text),
        (_, other) => Err(wrong(describe(other))),
    }
}

pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text \"{text}\""),
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(flag) => format!("{flag}"),
        DeValue::Datetime(at) => format!("the date {at}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match parse(Path::new("afflux.toml"), text) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => {
                assert_eq!(error.exit_code(), 2);
                error.to_string()
            }
        }
    }

    fn read(text: &str) -> Vec<(&'static str, String, usize)> {
        let entries = parse(Path::new("afflux.toml"), text).unwrap_or_else(|error| panic!("{error}"));
        let mut rows: Vec<_> =
            entries.into_iter().map(|e| (e.setting.name, e.value.to_string(), e.line)).collect();
        rows.sort();
        rows
    }

    #[test]
    fn tables_and_dotted_keys_mean_the_same() {
        let rows = read("cluster = \"shop\"\nnode.slots = 2\n[log]\nformat = \"json\"\n");
        assert_eq!(
            rows,
            [("cluster", "shop".into(), 1), ("log.format", "json".into(), 4), ("node.slots", "2".into(), 2)]
        );
    }

    #[test]
    fn a_registry_is_a_word_or_a_table_with_a_kind() {
        let rows = read("[registry]\nkind = \"static\"\nnodes = [\"a:1\", \"b:2\"]\n");
        assert_eq!(rows, [("registry", "static".into(), 2), ("registry.nodes", "a:1,b:2".into(), 3)]);
        assert_eq!(read("registry = \"static\""), [("registry", "static".into(), 1)]);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest() {
        assert_eq!(
            refused("# comment\n[node]\nlisten = \"127.0.0.1:0\"\nslot = 2\n"),
            "afflux.toml:4: unknown setting `node.slot`\n  help: did you mean `node.slots`?"
        );
        assert!(refused("[nodes]\nid = \"x\"\n").starts_with("afflux.toml:1: unknown setting `nodes`"));
    }

    #[test]
    fn a_wrong_type_names_key_value_and_expectation() {
        assert_eq!(
            refused("[node]\nslots = \"two\"\n"),
            "afflux.toml:2: node.slots: expected a whole number from 0 to 1024, got the text \"two\""
        );
        assert_eq!(
            refused("cluster = 7"),
            "afflux.toml:1: cluster: expected a name of letters, digits, `-`, `_` and `.`, got the number 7"
        );
        assert!(refused("node.slots = -1").contains("got `-1`"));
        assert!(refused("[registry]\nnodes = [1]").contains("a list with the number 1 in it"));
    }

    #[test]
    fn pipelines_with_tables_of_their_own_are_words_of_pipeline_start() {
        let tables = "[pipelines.revenue]\n[pipelines.alerts]\nstart = true\nparallelism = 2\n\
                      [pipelines.\"a.b\"]\nparallelism = \"auto\"\n[pipelines.later]\nstart = false\n";
        let words = |text: &str| {
            let (name, words, line) = read(text).remove(0);
            assert_eq!(name, "pipeline.start");
            let mut words: Vec<String> = words.split(',').map(str::to_owned).collect();
            words.sort();
            (words, line)
        };
        assert_eq!(words(tables).0, ["a.b=auto", "alerts=2", "revenue=auto"]);
        let both = format!("[pipeline]\nstart = [\"board\"]\n{tables}");
        assert_eq!(
            words(&both),
            (["a.b=auto", "alerts=2", "board", "revenue=auto"].map(String::from).to_vec(), 2)
        );
        assert_eq!(words("[pipelines]\nrevenue.parallelism = 0x10\n"), (vec!["revenue=16".to_owned()], 2));
        assert!(read("[pipelines.later]\nstart = false\n").is_empty());
    }

    #[test]
    fn a_table_of_a_pipeline_that_says_something_else_is_refused_with_its_line() {
        for (text, message) in [
            ("pipelines = 3", "1: pipelines: expected tables [pipelines.NAME], got the number 3"),
            (
                "[pipelines]\nrevenue = true",
                "2: pipelines.revenue: expected a table with start and parallelism, got true",
            ),
            (
                "[pipelines.revenue]\n\nstart = 1",
                "3: pipelines.revenue.start: expected true or false, got the number 1",
            ),
            (
                "[pipelines.revenue]\nparallelism = \"all\"",
                "2: pipelines.revenue.parallelism: expected \"auto\" or a whole number from 1 to 32768, got the text \"all\"",
            ),
            (
                "[pipelines.revenue]\nparallelism = 0",
                "2: pipelines.revenue.parallelism: expected \"auto\" or a whole number from 1 to 32768, got the number 0",
            ),
            (
                "[pipelines.revenue]\nparalelism = 2",
                "2: unknown setting `pipelines.revenue.paralelism`\n  help: did you mean `parallelism`?",
            ),
            (
                "[pipelines.\"a b\"]",
                "1: pipelines: expected a name of letters, digits, `-`, `_` and `.`, got `a b`",
            ),
            (
                "pipeline.start = [\"revenue=2\"]\n[pipelines.revenue]",
                "2: `pipeline.start` names the pipeline revenue, too\n  \
                 help: keep one of them: [pipelines.revenue], or its word in `pipeline.start`",
            ),
        ] {
            assert_eq!(refused(text), format!("afflux.toml:{message}"));
        }
    }

    #[test]
    fn broken_toml_is_named_with_its_line() {
        assert!(refused("cluster = \"a\"\n[node\n").starts_with("afflux.toml:2: not valid TOML"));
    }
}
