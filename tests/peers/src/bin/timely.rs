//! The stream jobs on timely. `timely w1|w2|w3|w4 --records N --threads T --processes K --filter retain|branchless --allocator system|mimalloc`;
//! `T` threads in each of `K` processes. W4 runs on mimalloc unless told otherwise.

fn main() -> std::process::ExitCode {
    afflux_peers::exit_with(afflux_peers::flow::cluster::main("system"))
}
