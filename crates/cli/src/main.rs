//! `medanchor`.

use std::process::ExitCode;

fn main() -> ExitCode {
    medanchor_cli::main(std::env::args_os())
}
