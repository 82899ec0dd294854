//! Where `bulkhead-oci` begins (src/kernel/sealed_first.s).
//!
//! In what order its functions lie is told by scripts/ordered.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=scripts/functions.order");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        for argument in ["-Wl,-e,bulkhead_first", "-Wl,-u,bulkhead_first"] {
            println!("cargo:rustc-link-arg-bin=bulkhead-oci={argument}");
        }
    }
}
