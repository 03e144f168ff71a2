//! `cargo testnet`: a network of real nodes on this machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let second = arguments.next();
    // Nodes and tools are this same program, run again under another name.
    match second.as_ref().and_then(|name| name.to_str()) {
        Some("medanchord") => medanchor_node::main(second.into_iter().chain(arguments)),
        Some("medanchor") => medanchor_cli::main(second.into_iter().chain(arguments)),
        _ => medanchor_testnet::main(program.into_iter().chain(second).chain(arguments)),
    }
}
