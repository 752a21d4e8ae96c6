//! The binaries as a script sees them: one JSON line on standard output, whatever else happens.
// Helper functions outside of #[test] are not covered by the test allowance of clippy.toml.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn run(binary: &str, arguments: &str) -> Output {
    Command::new(binary)
        .args(arguments.split(' '))
        .output()
        .unwrap()
}

/// The single line of standard output.
fn line(binary: &str, arguments: &str) -> String {
    let output = run(binary, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(text.lines().count(), 1, "{arguments}: {text}");
    text.trim_end().to_owned()
}

/// The raw text of a member of a flat JSON line.
fn member<'a>(line: &'a str, name: &str) -> &'a str {
    let start = line.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
    line[start..].split([',', '}']).next().unwrap()
}

#[test]
fn two_processes_of_timely_find_what_the_loop_finds() {
    for workload in ["w1", "w2", "w3", "w4"] {
        let hand = line(
            env!("CARGO_BIN_EXE_hand"),
            &format!("{workload} --records 30_000"),
        );
        let arguments = format!("{workload} --records 30_000 --processes 2 --allocator system");
        let timely = line(env!("CARGO_BIN_EXE_timely"), &arguments);
        for name in ["bench", "checksum", "results"] {
            assert_eq!(
                member(&hand, name),
                member(&timely, name),
                "{workload}: {hand} {timely}"
            );
        }
        assert!(member(&timely, "cpu_s").parse::<f64>().unwrap() > 0.0);
    }
}

#[test]
fn a_call_benchmark_counts_calls_and_their_latencies() {
    for binary in [env!("CARGO_BIN_EXE_tarpc"), env!("CARGO_BIN_EXE_tonic")] {
        let line = line(binary, "r2 --outstanding 8 --seconds 0.2");
        let number = |name| member(&line, name).parse::<f64>().unwrap();
        assert!(number("requests") > 0.0 && number("p50_us") > 0.0, "{line}");
        assert!(
            number("p50_us") <= number("p99_us") && number("p99_us") <= number("p999_us"),
            "{line}"
        );
    }
}

#[test]
fn a_wrong_argument_is_an_error_and_no_line() {
    for (binary, arguments) in [
        (env!("CARGO_BIN_EXE_hand"), "w1 --recods 5"),
        (env!("CARGO_BIN_EXE_timely"), "w5"),
        (env!("CARGO_BIN_EXE_tarpc"), "r2 --outstanding many"),
    ] {
        let output = run(binary, arguments);
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{arguments}"
        );
        assert!(output.stderr.starts_with(b"error: "), "{arguments}");
    }
}
