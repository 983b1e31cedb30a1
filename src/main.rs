//! The `dmacached` program: everything is in the library.

fn main() -> std::process::ExitCode {
    dmacached::cli::run()
}
