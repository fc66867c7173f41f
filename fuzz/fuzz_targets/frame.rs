//! See `entry/wire.rs`.
#![no_main]

#[path = "../entry/wire.rs"]
#[allow(dead_code, reason = "each target uses a part of the shared entry points")]
mod wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::frame(data));
