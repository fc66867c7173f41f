//! The fuzzing corpora of what is stored or handed to clients, as plain tests: every file goes through what its fuzz
//! target does.
//!
//! Seeds are made from real encodings: `QUORATE_WRITE_CORPORA=1 cargo test --test corpora_stored` writes them anew.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use bytes::Bytes;
use quorate::causality::{MergeRules, Object, Payload, Supersedes, TokenKeys, TokenKind, Write, encode_object, write};
use quorate::types::{ActorId, Bucket, Key, ObjectId, Stamp};

#[path = "../fuzz/entry/stored.rs"]
#[allow(unreachable_pub)]
mod stored;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn each(target: &str, run: fn(&[u8])) {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder(target)).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        run(&bytes);
        // And cut short or damaged anywhere.
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

/// The object after a value, after a second one beside it, and after a delete.
fn objects() -> Vec<(&'static str, Object)> {
    let payload = |value: Option<&'static [u8]>| Payload {
        value: value.map(Bytes::from_static),
        content_type: Some("text/plain".into()),
        meta: [("k".to_owned(), "v".to_owned())].into(),
        ..Payload::default()
    };
    let rules = MergeRules::default();
    let put = |object: &Object, actor, value, supersedes| {
        let wanted = Write { payload: payload(value), supersedes, request: None };
        write(object, wanted, ActorId(actor), Stamp(1 << 30), Stamp(0), &rules).object
    };
    let value = put(&Object::default(), 1, Some(b"value"), Supersedes::Tombstones);
    let siblings = put(&value, 2, Some(b"beside it"), Supersedes::Tombstones);
    let deleted = put(&siblings, 1, None, Supersedes::Seen);
    vec![("empty", Object::default()), ("value", value), ("siblings", siblings), ("deleted", deleted)]
}

fn write_corpora() {
    // Other keys than the target verifies with: everything about these tokens is right but who made them.
    let keys = TokenKeys::new(&[b"corpus"]);
    let id = ObjectId::new(Bucket::new("b").unwrap(), Key::new(&b"k"[..]).unwrap());
    for (name, object) in objects() {
        save("record", name, &encode_object(&object));
        save("token", name, keys.sign(TokenKind::Context, &id, object.context()).as_bytes());
    }
}

#[test]
fn corpora() {
    if std::env::var_os("QUORATE_WRITE_CORPORA").is_some() {
        write_corpora();
    }
    each("token", stored::token);
    each("record", stored::record);
}
