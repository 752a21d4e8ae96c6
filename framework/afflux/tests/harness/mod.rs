//! The tests of a binary that is also the program under test, so that libtest cannot have its `main`.

use std::process::ExitCode;

/// Runs the tests whose names contain `first`, the program's first argument, unless that is an option; all
/// of them without one. `--list` names them.
pub(crate) fn run(first: &str, tests: &[(&str, fn())]) -> ExitCode {
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter = if first.starts_with('-') { "" } else { first };
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(filter)) {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += u32::from(!passed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
