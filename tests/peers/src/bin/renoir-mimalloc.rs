//! As `renoir`, on mimalloc.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    afflux_peers::exit_with(afflux_peers::renoir_peer::main("mimalloc"))
}
