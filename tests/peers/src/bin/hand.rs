//! Loops without an engine. `hand w1|w2|w3|w4 --records N --threads T --shape record|batch`

fn main() -> std::process::ExitCode {
    afflux_peers::exit_with(afflux_peers::hand::main("system"))
}
