//! The program `bulkhead`, also called `bh`: everything is in the library's `cli` room.

fn main() -> std::process::ExitCode {
    bulkhead::cli::main()
}
