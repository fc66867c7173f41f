//! The `quorate` binary: see [`quorate::cli`].

/// A fifth of a small read went to the C library's allocator: see decision 0017.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    quorate::cli::main()
}
