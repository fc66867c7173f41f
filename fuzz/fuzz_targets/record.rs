//! See `entry/stored.rs`.
#![no_main]

#[path = "../entry/stored.rs"]
#[allow(dead_code, reason = "each target uses a part of the shared entry points")]
mod stored;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stored::record(data));
