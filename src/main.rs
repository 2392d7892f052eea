//! Arguments, logging, exit code. One decision: nothing is decided here; the library is the program.

use std::process::ExitCode;

/// The allocator of the C library takes three times as long for what a request allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main()
}
