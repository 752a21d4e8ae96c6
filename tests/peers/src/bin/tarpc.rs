//! Calls by tarpc. `tarpc r1|r2|r3 --outstanding N --payload BYTES --seconds S`

fn main() -> std::process::ExitCode {
    afflux_peers::exit_with(afflux_peers::rpc::main::<afflux_peers::tarpc_peer::Tarpc>(
        "system",
    ))
}
