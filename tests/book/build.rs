//! Puts the programs of the book into their contexts.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// Where a program comes in its context.
const HERE: &str = "//> here";
/// A chapter whose programs are tests of the connectors themselves.
const ELSEWHERE: &str = "connectors";
/// Chapters whose programs need the feature `kafka`, which builds a C library.
const KAFKA: [&str; 2] = ["from-kafka-streams", "kafka"];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (book, contexts) = (root.join("../../docs/book"), root.join("contexts"));
    println!("cargo::rerun-if-changed={}", book.display());
    println!("cargo::rerun-if-changed={}", contexts.display());
    let kafka = env::var_os("CARGO_FEATURE_KAFKA").is_some();
    let mut left: Vec<String> = names(&contexts);
    let mut out = String::new();
    for chapter in names(&book) {
        let Some(name) = chapter.strip_suffix(".md").filter(|name| *name != ELSEWHERE) else {
            continue;
        };
        let text = fs::read_to_string(book.join(&chapter)).expect("a chapter");
        for (n, program) in programs(&text).iter().enumerate() {
            let context = format!("{name}.{}.rs", n + 1);
            left.retain(|known| *known != context);
            let whole = match fs::read_to_string(contexts.join(&context)) {
                Ok(around) => {
                    assert!(around.lines().any(|l| l.trim() == HERE), "{context} has no line `{HERE}`");
                    around.replacen(HERE, program, 1)
                }
                Err(_) => program.clone(),
            };
            if KAFKA.contains(&name) && !kafka {
                continue;
            }
            let item = format!("{}_{}", name.replace('-', "_"), n + 1);
            let doc = format!("```no_run\n{whole}\n```");
            writeln!(
                out,
                "#[cfg(doctest)]\n#[doc = {doc:?}]\n#[allow(non_camel_case_types)]\nstruct {item};\n"
            )
            .expect("a string has room");
        }
    }
    assert!(left.is_empty(), "contexts of no program: {left:?}");
    let to = Path::new(&env::var("OUT_DIR").expect("cargo says where")).join("programs.rs");
    fs::write(to, out).expect("the programs can be written");
}

/// The files of a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The Rust programs of a page.
fn programs(page: &str) -> Vec<String> {
    let (mut programs, mut open) = (Vec::new(), None::<String>);
    for line in page.lines() {
        match &mut open {
            Some(program) if line.starts_with("```") => {
                programs.push(std::mem::take(program));
                open = None;
            }
            Some(program) => {
                program.push_str(line);
                program.push('\n');
            }
            None if line.starts_with("```rust") => open = Some(String::new()),
            // Another language's ends here, too: it is passed over whole.
            None => {}
        }
    }
    programs
}
