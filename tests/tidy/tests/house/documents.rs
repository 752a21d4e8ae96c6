//! Links, quoted paths, tests that a specification names, metrics.

use std::collections::{BTreeMap, BTreeSet};

use afflux_tidy::{Findings, House, Page};

/// Where metrics are listed.
const METRICS: &str = "docs/metrics.md";

/// What stands in front of a metric's name in code.
const OPENINGS: [&str; 12] = [
    "Opts::new(",
    "opts(",
    "IntCounter::new(",
    "IntGauge::new(",
    "Counter::new(",
    "Gauge::new(",
    "IntCounter::with_opts(",
    "histogram(",
    "counter(",
    "gauge(",
    "spans(",
    "seconds(",
];

/// Joins a link to the directory of the page it stands in; `None` when it leaves the repository.
fn resolve(page: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[test]
fn links_between_documents_resolve() {
    let house = House::open();
    let pages = house.pages();
    let anchors: BTreeMap<&str, Vec<String>> = pages.iter().map(|p| (p.path.as_str(), p.anchors())).collect();
    let mut findings = Findings::new(
        "a link in a Markdown file leads to a file, and to a heading in it",
        "correct the path (it is relative to the file it stands in) or the anchor",
    );
    let mut seen = 0;
    for page in &pages {
        for (line, link) in page.links() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = if target.is_empty() { Some(page.path.clone()) } else { resolve(&page.path, target) };
            let Some(path) = path.filter(|path| house.exists(path)) else {
                findings.add(&page.path, line, format!("{link} leads nowhere"));
                continue;
            };
            let known = anchors.get(path.as_str());
            if !anchor.is_empty() && known.is_some_and(|known| !known.iter().any(|a| a == anchor)) {
                findings.add(&page.path, line, format!("{path} has no heading `{anchor}`"));
            }
        }
    }
    assert!(seen >= 10, "only {seen} links were seen");
    findings.finish();
}

#[test]
fn paths_that_documents_quote_exist() {
    let house = House::open();
    let mut findings =
        Findings::new("a path in backticks exists", "correct the path, or take it out of the backticks");
    for page in house.pages() {
        for (line, quoted) in page.quoted() {
            let ours = ["framework/", "services/", "examples/", "tests/", "docs/", "helm/", ".ci/"];
            let path = quoted.split(['#', ' ']).next().unwrap_or_default().trim_end_matches('/');
            let exact = !path.contains(['*', '<', '{', '…']) && !quoted.contains(' ');
            // Below a crate's own directory a page may speak of that crate's files.
            let beside = resolve(&page.path, path).is_some_and(|p| house.exists(&p));
            if ours.iter().any(|root| path.starts_with(root)) && exact && !house.exists(path) && !beside {
                findings.add(&page.path, line, format!("there is no `{path}`"));
            }
        }
    }
    findings.finish();
}

#[test]
fn the_code_in_the_readme_is_code_that_runs() {
    let house = House::open();
    let known: BTreeSet<String> = house
        .sources("services/flights")
        .iter()
        .flat_map(|source| source.whole.lines().map(|line| line.trim().to_owned()))
        .collect();
    let text = house.text("README.md").expect("there is a README");
    let mut findings = Findings::new(
        "each line of Rust in README.md stands in services/flights",
        "copy the lines anew from there",
    );
    let (mut rust, mut seen) = (false, 0);
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with("```") {
            rust = line == "```rust";
        } else if rust && !line.trim().is_empty() {
            seen += 1;
            if !known.contains(line.trim()) {
                findings.add("README.md", number, line.trim());
            }
        }
    }
    assert!(seen >= 15, "only {seen} lines of code were seen");
    findings.finish();
}

#[test]
fn examples_are_listed_with_what_they_print() {
    const PAGE: &str = "examples/README.md";
    let house = House::open();
    let text = house.text(PAGE).expect("the examples have a page");
    let mut findings = Findings::new(
        "examples/README.md has each example, its command, and the whole of its expected.txt",
        "write `## name` and the block: `$ cargo run --bin afflux-name`, then what it prints",
    );
    let examples: BTreeSet<String> =
        house.sources("examples").iter().filter_map(|s| Some(s.path.split('/').nth(1)?.to_owned())).collect();
    assert!(examples.len() >= 7, "only {} examples were seen", examples.len());
    for name in &examples {
        let command = format!("```\n$ cargo run --bin afflux-{name}");
        let printed = house.text(&format!("examples/{name}/expected.txt"));
        let block = printed.map_or(command.clone(), |printed| format!("{command}\n{printed}```\n"));
        if !text.contains(&format!("\n## {name}\n")) || !text.contains(&block) {
            findings.add(PAGE, 1, format!("`{name}` is not there with its command and what it prints"));
        }
    }
    findings.finish();
}

/// The texts of `const KNOWN: &[&str] = &[…];` in a file of the macros.
fn options(house: &House, path: &str) -> Vec<String> {
    let text = house.text(path).expect("the macros are there");
    let list = text.split_once("const KNOWN: &[&str] = &[").and_then(|(_, rest)| rest.split_once("];"));
    list.map(|(list, _)| list.split('"').skip(1).step_by(2).map(str::to_owned).collect()).unwrap_or_default()
}

#[test]
fn options_of_the_derives_are_those_that_are_listed() {
    const DERIVES: &str = "framework/macros/src/lib.rs";
    let house = House::open();
    let mut findings = Findings::new(
        "each option of `#[rpc(…)]` and `#[actor(…)]` has a row in the book and at its derive",
        "write the row: option, meaning, default",
    );
    for (source, chapter) in [
        ("framework/macros/src/methods.rs", "docs/book/services.md"),
        ("framework/macros/src/actor.rs", "docs/book/actors.md"),
    ] {
        let options = options(&house, source);
        assert!(options.len() >= 12, "only {} options were seen in {source}", options.len());
        for (page, start) in [(chapter, "| `"), (DERIVES, "/// | `")] {
            let text = house.text(page).expect("the page is there");
            let rows: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix(start)).collect();
            for option in options.iter().filter(|o| *o != "crate") {
                let named = |row: &&str| {
                    let first = row.split('`').next().unwrap_or_default();
                    first.split(", ").any(|o| o.split([' ', '(']).next() == Some(option.as_str()))
                };
                if !rows.iter().any(named) {
                    findings.add(page, 1, format!("`{option}` has no row"));
                }
            }
        }
    }
    findings.finish();
}

#[test]
fn every_chapter_of_the_book_is_in_its_summary() {
    let house = House::open();
    let mut findings = Findings::new(
        "SUMMARY.md links every chapter of the book",
        "add the chapter to docs/book/SUMMARY.md",
    );
    let pages = house.pages();
    let summary = pages.iter().find(|p| p.path == "docs/book/SUMMARY.md").expect("the book has a summary");
    let linked: BTreeSet<String> =
        summary.links().iter().filter_map(|(_, l)| resolve(&summary.path, l)).collect();
    for page in pages.iter().filter(|p| p.path.starts_with("docs/book/") && p.path != summary.path) {
        if !linked.contains(&page.path) {
            findings.add(&page.path, 1, "is not in the summary");
        }
    }
    findings.finish();
}

#[test]
fn tests_that_a_specification_names_exist() {
    let house = House::open();
    let mut known = BTreeSet::new();
    for directory in ["framework", "services", "tests"] {
        for source in house.sources(directory) {
            for (at, _) in source.whole.match_indices("fn ") {
                let name = source.whole[at + 3..].split(|c: char| !c.is_alphanumeric() && c != '_').next();
                known.extend(name.map(str::to_owned));
            }
        }
    }
    let mut findings = Findings::new(
        "each test that docs/specs names is there",
        "name the test that holds the rule now, or write it",
    );
    let specs: Vec<Page> = house.pages().into_iter().filter(|p| p.path.starts_with("docs/specs/")).collect();
    assert!(!specs.is_empty(), "there is no specification");
    for page in specs {
        for (line, name) in page.quoted() {
            let sentence = name.matches('_').count() >= 3;
            let word = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if sentence && word && !known.contains(name) {
                findings.add(&page.path, line, format!("there is no test `{name}`"));
            }
        }
    }
    findings.finish();
}

/// The rows of the table in framework/afflux/src/settings/schema.rs: name, default, unit, field.
fn settings(house: &House) -> Vec<(usize, String, String, String, String)> {
    const SCHEMA: &str = "framework/afflux/src/settings/schema.rs";
    let text = house.text(SCHEMA).expect("settings are declared");
    let rows = text.lines().zip(1..).skip_while(|(line, _)| *line != "settings! {");
    rows.take_while(|(line, _)| *line != "}")
        .filter_map(|(line, number)| {
            // `field: Type = "name", Kind::…, "default" unit "ms";`
            let (field, rest) = line.strip_prefix("    ")?.split_once(": ")?;
            let texts: Vec<&str> = rest.split_once(" = ")?.1.split('"').skip(1).step_by(2).collect();
            let (name, rest) = texts.split_first()?;
            let unit = line.contains("\" unit \"").then(|| rest.last().copied()).flatten();
            let default = if unit.is_some() { rest.get(rest.len().checked_sub(2)?)? } else { rest.last()? };
            let own = |text: &str| text.to_owned();
            Some((number, own(name), own(default), own(unit.unwrap_or_default()), own(field)))
        })
        .collect()
}

#[test]
fn settings_in_code_are_those_that_the_book_lists() {
    const CHAPTER: &str = "docs/book/settings.md";
    let house = House::open();
    let settings = settings(&house);
    assert!(settings.len() >= 20, "only {} settings were seen", settings.len());
    let text = house.text(CHAPTER).expect("the book has a chapter on settings");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let mut findings = Findings::new(
        "docs/book/settings.md has one row for each setting: name, default with its unit, meaning",
        "write the row as `check` prints it",
    );
    for (line, name, default, unit, _) in &settings {
        let value = if default.is_empty() { "(none)".to_owned() } else { format!("{default} {unit}") };
        let row = format!("| `{name}` | {} |", value.trim());
        if !rows.iter().any(|known| known.starts_with(&row)) {
            findings.add(
                "framework/afflux/src/settings/schema.rs",
                *line,
                format!("{CHAPTER} has no row `{row} …`"),
            );
        }
    }
    for row in &rows {
        let name = row.split('`').nth(1).unwrap_or_default();
        let line = text.lines().position(|line| line == *row).map_or(1, |at| at + 1);
        if !settings.iter().any(|(_, known, ..)| known == name) {
            findings.add(CHAPTER, line, format!("there is no setting `{name}`"));
        }
    }
    findings.finish();
}

#[test]
fn every_setting_is_read_by_something() {
    let house = House::open();
    let sources: Vec<_> = house
        .sources("framework/afflux/src")
        .into_iter()
        .filter(|s| !s.path.contains("/settings/"))
        .collect();
    let mut findings =
        Findings::new("a setting has an effect", "use it, or take it out: a setting that does nothing lies");
    for (line, name, _, _, field) in settings(&house) {
        let read = format!(".{field}");
        if !sources.iter().any(|source| !source.find(&read).is_empty()) {
            findings.add("framework/afflux/src/settings/schema.rs", line, format!("nothing reads `{name}`"));
        }
    }
    findings.finish();
}

/// A metric's whole name.
fn whole(name: &str) -> String {
    match name.starts_with("afflux_") || name.starts_with("process_") {
        true => name.to_owned(),
        false => format!("afflux_{name}"),
    }
}

#[test]
fn metrics_in_code_are_those_that_are_listed() {
    let house = House::open();
    let mut used: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for source in house.product() {
        for opening in OPENINGS {
            for (line, name) in source.texts_behind(opening) {
                let metric = !name.is_empty()
                    && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                if metric && source.code.contains("prometheus") {
                    used.insert(whole(&name), (source.path.clone(), line));
                }
            }
        }
    }
    assert!(used.len() >= 30, "only {} metrics were seen in code", used.len());
    let text = house.text(METRICS).expect("metrics are listed");
    // A row of a table begins with the metric's name in backticks.
    let listed: BTreeMap<String, usize> = text
        .lines()
        .zip(1..)
        .filter_map(|(line, number)| {
            let name = line.strip_prefix("| `")?.split('`').next()?;
            Some((name.to_owned(), number))
        })
        .collect();
    let mut findings = Findings::new(
        "docs/metrics.md lists every metric of the code, and no other",
        "add or remove the row; a dashboard and an alert rely on it",
    );
    for (name, (path, line)) in &used {
        if !listed.contains_key(name) {
            findings.add(path, *line, format!("`{name}` is not in {METRICS}"));
        }
    }
    for (name, line) in &listed {
        if !used.contains_key(name) {
            findings.add(METRICS, *line, format!("`{name}` is in no code"));
        }
    }
    findings.finish();
}
