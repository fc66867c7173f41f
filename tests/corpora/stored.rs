//! Records and tokens.

use bytes::Bytes;
use quorate::causality::{MergeRules, Object, Payload, Supersedes, TokenKeys, TokenKind, Write, encode_object, write};
use quorate::types::{ActorId, Bucket, Key, ObjectId, Stamp};

#[path = "../../fuzz/entry/stored.rs"]
#[allow(unreachable_pub)]
mod entry;

use super::{each, save, writes};

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
fn the_corpora_of_what_is_stored_or_handed_to_clients() {
    if writes() {
        write_corpora();
    }
    each("token", entry::token);
    each("record", entry::record);
}
