//! The fuzzing corpora, as plain tests: every file goes through what its fuzz target does.
//!
//! Seeds are made from real encodings: `QUORATE_WRITE_CORPORA=1 cargo test --test corpora` writes them anew.
#![allow(clippy::unwrap_used, missing_docs)]

mod stored;
mod wire;

use std::path::PathBuf;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Runs each file of a target's corpus, and each cut short or damaged anywhere.
fn each(target: &str, run: fn(&[u8])) {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder(target)).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        run(&bytes);
        for at in 0..bytes.len().min(400) {
            run(&bytes[..at]);
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            run(&damaged);
        }
        seen += 1;
    }
    assert!(seen > 0, "no corpus for {target}");
}

fn save(target: &str, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(folder(target)).unwrap();
    std::fs::write(folder(target).join(name), bytes).unwrap();
}

/// Whether the seeds are to be written anew.
fn writes() -> bool {
    std::env::var_os("QUORATE_WRITE_CORPORA").is_some()
}
