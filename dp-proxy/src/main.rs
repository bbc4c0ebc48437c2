//! The program `dp-proxy`: see [`dp_proxy::command`].

use std::process::ExitCode;

/// Connections come and go by the thousand, on threads that share nothing: the allocator should not share either.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dp_proxy::command::execute()
}
