//! Calls by tonic. `tonic r1|r2|r3 --outstanding N --payload BYTES --seconds S`

fn main() -> std::process::ExitCode {
    afflux_peers::exit_with(afflux_peers::rpc::main::<afflux_peers::tonic_peer::Tonic>(
        "system",
    ))
}
