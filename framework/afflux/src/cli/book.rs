//! What the documents tell to type can be typed: every command line in them goes through the table that reads one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::args;

/// Programs of the workspace with a command line of their own; their options are compared by `tests/book/run`.
const FOREIGN: [&str; 4] = ["afflux-bench", "afflux-chaos", "afflux-simulation", "afflux-nexmark"];
/// Options that pages name and that are other programs'.
const FOREIGN_OPTIONS: [&str; 5] = ["--build-arg", "--bug", "--bugs", "--kafka", "--mistake"];
/// Programs that are built with `App`, as pages call them.
const PROGRAMS: [&str; 5] = ["flights", "market", "social", "shop", "PROGRAM"];

/// A command line of a page.
#[derive(Debug, PartialEq)]
struct Typed {
    /// Counted from 1; of a paragraph its first.
    line: usize,
    /// The words behind the program.
    words: Vec<String>,
    /// It stands in a sentence, where an argument may be left out.
    in_a_sentence: bool,
}

/// The words of a line of a shell, up to what ends a command, and what comes behind that.
fn split(line: &str) -> (Vec<String>, &str) {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => {
                return (words, "");
            }
            (None, '|' | '&' | ';' | '<' | '>' | '(' | ')') => {
                words.extend(word);
                let rest = line[at..].trim_start_matches(['|', '&', ';', '<', '>', '(', ')']);
                return (words, rest);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (words, "")
}

/// What is typed behind one of our programs in a line of a shell, for each command of it.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut found, mut rest) = (Vec::new(), line);
    while !rest.is_empty() {
        let (words, behind) = split(rest);
        rest = behind;
        let mut words = words.into_iter().skip_while(|word| is_assignment(word)).peekable();
        match words.next().as_deref() {
            Some(program) if PROGRAMS.contains(&program) => found.push(words.collect()),
            Some("cargo") if words.peek().is_some_and(|word| word == "run") => {
                let words: Vec<String> = words.collect();
                let (cargo, ours) = match words.iter().position(|word| word == "--") {
                    Some(at) => (&words[..at], &words[at + 1..]),
                    None => (&words[..], &[][..]),
                };
                if !cargo.iter().any(|word| FOREIGN.contains(&word.as_str())) {
                    found.push(ours.to_vec());
                }
            }
            _ => {}
        }
    }
    found
}

/// `NAME=VALUE` in front of a command.
fn is_assignment(word: &str) -> bool {
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && is_name(name))
}

/// A word in capitals that stands for a number is one; brackets around what may be left out are gone.
fn filled(word: &str) -> Option<String> {
    let word = word.trim_matches(['[', ']']).trim_end_matches(['…', ',']);
    match word {
        "" | "..." => None,
        "N" | "TASKS" | "SECONDS" | "MS" => Some("1".to_owned()),
        "FACTORx" => Some("1x".to_owned()),
        word => Some(word.to_owned()),
    }
}

/// Every command line of a page: in blocks, and in sentences.
fn typed(page: &str) -> Vec<Typed> {
    let mut found = Vec::new();
    let mut add = |line: usize, text: &str, in_a_sentence: bool| {
        for words in commands(text) {
            let words = words.iter().filter_map(|word| filled(word)).collect();
            found.push(Typed { line, words, in_a_sentence });
        }
    };
    let (mut block, mut joined, mut begun) = (None::<&str>, String::new(), 0);
    for (line, number) in page.lines().zip(1..) {
        let text = line.trim();
        if let Some(language) = text.strip_prefix("```") {
            if block.is_none() {
                sentences(&joined, begun, &mut add);
            }
            joined.clear();
            block = if block.is_some() { None } else { Some(language) };
            continue;
        }
        match block {
            Some(language) if ["", "sh", "text", "console"].contains(&language) => {
                // What a console prints is no command.
                if language == "console" && joined.is_empty() && !text.starts_with("$ ") {
                    continue;
                }
                if joined.is_empty() {
                    begun = number;
                }
                joined.push_str(text.strip_prefix("$ ").unwrap_or(text));
                match joined.strip_suffix('\\') {
                    Some(begin) => joined = begin.to_owned(),
                    None => {
                        add(begun, &joined, false);
                        joined.clear();
                    }
                }
            }
            Some(_) => {}
            // A paragraph is one text: a span of code may go over its lines. A row of a table is one by itself.
            None => {
                if text.is_empty() || text.starts_with('|') {
                    sentences(&joined, begun, &mut add);
                    joined.clear();
                }
                if joined.is_empty() {
                    begun = number;
                }
                joined.push_str(text);
                joined.push(' ');
            }
        }
    }
    sentences(&joined, begun, &mut add);
    found
}

/// The command lines among the spans of code in a paragraph.
fn sentences(paragraph: &str, line: usize, add: &mut impl FnMut(usize, &str, bool)) {
    let known = super::command_names();
    for span in paragraph.split('`').skip(1).step_by(2) {
        let span = span.trim();
        let (first, more) = span.split_once(' ').unwrap_or((span, ""));
        let is_ours = PROGRAMS.contains(&first) || span.starts_with("cargo run ") || span.contains("<(");
        if is_ours && !more.is_empty() {
            add(line, span, true);
        } else if known.iter().any(|name| name == first) && !more.is_empty() {
            add(line, &format!("PROGRAM {span}"), true);
        } else if span.starts_with("--") && !FOREIGN_OPTIONS.contains(&first) {
            add(line, &format!("PROGRAM {OPTION} {first}"), true);
        }
    }
}

/// Stands in front of an option that a sentence names without its command.
const OPTION: &str = "an-option-of-some-command";

/// Whether any command has the option.
fn is_option(of: &clap::Command, option: &str) -> bool {
    let long = option.trim_start_matches("--").split('=').next().unwrap_or_default();
    matches!(long, "help" | "version")
        || of.get_arguments().any(|argument| argument.get_long() == Some(long))
        || of.get_subcommands().any(|sub| is_option(sub, option))
}

/// Why the command line cannot be typed.
fn refusal(typed: &Typed) -> Option<String> {
    if let [first, option] = &typed.words[..]
        && first == OPTION
    {
        let unknown = !is_option(&args::command("flights"), option);
        return unknown.then(|| format!("no command has the option {option}"));
    }
    let line = std::iter::once("flights").chain(typed.words.iter().map(String::as_str)).map(OsString::from);
    let error = args::parse("flights", line.collect()).err()?.to_string();
    let left_out = ["required arguments were not provided", "requires a subcommand", "a value is required"]
        .iter()
        .any(|why| error.contains(why));
    (!typed.in_a_sentence || !left_out).then_some(error)
}

/// The documents that are read with the hands on the keyboard.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages =
        vec![root.join("README.md"), root.join("examples/README.md"), root.join("helm/afflux/README.md")];
    for (folder, page) in
        [("docs/book", None), ("services", Some("README.md")), ("examples", Some("README.md"))]
    {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let path = page.map_or(path.clone(), |page| path.join(page));
            if path.extension().is_some_and(|end| end == "md") && path.exists() {
                pages.push(path);
            }
        }
    }
    pages.push(root.join("helm/afflux/templates/NOTES.txt"));
    pages.sort();
    pages
}

#[test]
fn every_command_line_of_the_documents_can_be_typed() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for typed in typed(&text) {
            seen += 1;
            if let Some(why) = refusal(&typed) {
                let name =
                    page.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&page).display().to_string();
                wrong.push(format!(
                    "{name}:{}: {}\n    {}",
                    typed.line,
                    typed.words.join(" "),
                    why.replace('\n', "\n    ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "correct the page, or the command:\n{}", wrong.join("\n"));
    assert!(seen >= 150, "only {seen} command lines were seen");
}

#[test]
fn a_command_that_there_is_not_is_found_wherever_it_stands() {
    let page = "Type `flights nodes --jsn`, or `dev --nods 2`,\nor only `--jsn`; `flights state\nls --url x` is right.\n\n\
                ```sh\nflights certs init && flights call --addres a:1 a/B  # both\nA=1 cargo run --bin market -- \\\n  dev --hold --replay fast\n```\n\n\
                ```rust\nflights nonsense\n```\n```console\n$ flights jobs\na; flights nonsense\n```\n| `rescale ID --paralelism N` | `rescale ID --parallelism N` | `run PIPELINE [--restore JOB]` |\n";
    let found = typed(page);
    let lines: Vec<usize> =
        found.iter().filter(|typed| refusal(typed).is_some()).map(|typed| typed.line).collect();
    assert_eq!(lines, [1, 1, 1, 6, 7, 18], "{found:?}");
    assert_eq!(found.len(), 11, "{found:?}");
}
