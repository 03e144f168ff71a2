//! `medanchord`.

use std::process::ExitCode;

fn main() -> ExitCode {
    medanchor_node::main(std::env::args_os())
}
