//! The program `bulkhead-oci`, an OCI runtime with runc's command line: everything is in the
//! library's `oci` room.

fn main() -> std::process::ExitCode {
    bulkhead::oci::main()
}
