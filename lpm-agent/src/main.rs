//! `lpm`: passive network latency, per flow and namespace.

use std::process::ExitCode;

fn main() -> ExitCode {
    lpm_agent::cli::main()
}
