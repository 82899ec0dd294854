#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead::storage::fuzzed::archive(data));
