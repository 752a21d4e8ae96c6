//! The stream jobs on renoir. `renoir w1|w2|w4 --records N --threads T`.

fn main() -> std::process::ExitCode {
    afflux_peers::exit_with(afflux_peers::renoir_peer::main("system"))
}
