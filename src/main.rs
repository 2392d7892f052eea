//! Arguments, logging, exit code. One decision: nothing is decided here; the library is the program.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis::cli::main()
}
