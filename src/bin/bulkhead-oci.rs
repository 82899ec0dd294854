//! The program `bulkhead-oci`, an OCI runtime with runc's command line: everything is in the
//! library's `oci` room.
#![no_main]

bulkhead::brief_program!(bulkhead::oci::main);
