//! Tokens: I-CONCUR from the client's side.

use super::*;
use crate::types::{Bucket, Key, ObjectId};

fn id(bucket: &str, key: &[u8]) -> ObjectId {
    ObjectId::new(Bucket::new(bucket).unwrap(), Key::new(key.to_vec()).unwrap())
}

fn vector() -> impl Strategy<Value = VersionVector> {
    vec((any::<u64>(), any::<u64>()), 0..4)
        .prop_map(|dots| dots.into_iter().map(|(a, s)| Dot::new(ActorId(a), Stamp(s))).collect())
}

const C: TokenKind = TokenKind::Context;
const F: TokenKind = TokenKind::Floor;

proptest! {
    #[test]
    fn a_token_is_read_back_for_its_key_alone(vector in vector(), key in vec(any::<u8>(), 1..9), other in vec(any::<u8>(), 1..9)) {
        let keys = TokenKeys::new(&[b"secret"]);
        let token = keys.sign(C, &id("b", &key), &vector);
        let read = |keys: &TokenKeys, kind, id: &ObjectId| keys.verify(kind, id, &token, MAX_CONTEXT_LEN);
        prop_assert_eq!(read(&keys, C, &id("b", &key)), Ok(vector));
        prop_assert_eq!(read(&keys, F, &id("b", &key)), Err(ContextError::ContextAsFloor));
        prop_assert_eq!(read(&keys, C, &id("c", &key)), Err(ContextError::Foreign));
        prop_assert_eq!(read(&TokenKeys::new(&[b"other"]), C, &id("b", &key)), Err(ContextError::Foreign));
        if key != other {
            prop_assert_eq!(read(&keys, C, &id("b", &other)), Err(ContextError::Foreign));
        }
    }

    #[test]
    fn any_flipped_bit_is_refused(vector in vector(), at in any::<prop::sample::Index>(), bit in 0..7_u8) {
        let keys = TokenKeys::new(&[b"secret"]);
        let (id, token) = (id("b", b"k"), keys.sign(C, &id("b", b"k"), &vector));
        let mut bent = token.clone().into_bytes();
        bent[at.index(token.len())] ^= 1 << bit;
        prop_assert!(keys.verify(C, &id, &String::from_utf8(bent).unwrap(), MAX_CONTEXT_LEN).is_err());
    }

    #[test]
    fn arbitrary_text_is_refused(text in "[A-Za-z0-9_-]{0,200}|\\PC{0,40}") {
        prop_assert!(TokenKeys::new(&[b"secret"]).verify(C, &id("b", b"k"), &text, MAX_CONTEXT_LEN).is_err());
    }
}

#[test]
fn every_bit_and_every_cut_of_one_token_is_refused() {
    let keys = TokenKeys::new(&[b"secret"]);
    let id = id("b", b"k");
    let token = keys.sign(C, &id, &[Dot::new(ActorId(1), Stamp(2))].into_iter().collect());
    for at in 0..token.len() {
        assert!(keys.verify(C, &id, &token[..at], MAX_CONTEXT_LEN).is_err());
        for bit in 0..7 {
            let mut bent = token.clone().into_bytes();
            bent[at] ^= 1 << bit;
            assert!(keys.verify(C, &id, &String::from_utf8(bent).unwrap(), MAX_CONTEXT_LEN).is_err(), "{at} {bit}");
        }
    }
}

#[test]
fn a_floor_is_no_context() {
    let keys = TokenKeys::new(&[b"secret"]);
    let floor = keys.sign(F, &id("b", b"k"), &VersionVector::new());
    assert_eq!(keys.verify(F, &id("b", b"k"), &floor, MAX_CONTEXT_LEN), Ok(VersionVector::new()));
    assert_eq!(keys.verify(C, &id("b", b"k"), &floor, MAX_CONTEXT_LEN), Err(ContextError::FloorAsContext));
    assert_eq!(keys.verify(C, &id("b", b"j"), &floor, MAX_CONTEXT_LEN), Err(ContextError::Foreign));
}

#[test]
fn the_end_of_a_key_is_not_the_start_of_a_vector() {
    let keys = TokenKeys::new(&[b"secret"]);
    let long = [b"k".as_slice(), &[0; 7], &[1], &[0; 7], &[2]].concat();
    let token = keys.sign(C, &id("b", &long), &VersionVector::new());
    use base64::Engine;
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut bytes = base64.decode(token).unwrap();
    bytes.extend(&long[1..]);
    let forged = keys.verify(C, &id("b", b"k"), &base64.encode(bytes), MAX_CONTEXT_LEN);
    assert_eq!(forged, Err(ContextError::Foreign));
}

#[test]
fn secrets_are_replaced_without_refusing_what_is_in_clients_hands() {
    let id = id("b", b"k");
    let (old, both) = (TokenKeys::new(&[b"old"]), TokenKeys::new(&[b"new", b"old"]));
    let token = old.sign(C, &id, &VersionVector::new());
    assert_eq!(both.verify(C, &id, &token, MAX_CONTEXT_LEN), Ok(VersionVector::new()));
    let signed = both.sign(C, &id, &VersionVector::new());
    assert_eq!(TokenKeys::new(&[b"new"]).verify(C, &id, &signed, MAX_CONTEXT_LEN), Ok(VersionVector::new()));
    assert_eq!(old.verify(C, &id, &signed, MAX_CONTEXT_LEN), Err(ContextError::Foreign));
}

#[test]
fn the_limit_is_on_the_token_as_sent() {
    let keys = TokenKeys::new(&[b"secret"]);
    let id = id("b", b"k");
    let token = keys.sign(C, &id, &(0..1600).map(|a| Dot::new(ActorId(a), Stamp(1))).collect());
    let refused = Err(ContextError::TooLarge { len: token.len(), max: MAX_CONTEXT_LEN });
    assert_eq!(keys.verify(C, &id, &token, MAX_CONTEXT_LEN), refused);
    assert_eq!(keys.verify(C, &id, &token, MAX_BATCH_CONTEXT_LEN).map(|v| v.len()), Ok(1600));
    assert!(keys.verify(C, &id, &token, token.len()).is_ok() && keys.verify(C, &id, &token, token.len() - 1).is_err());
}

#[test]
fn tokens_never_change() {
    let keys = TokenKeys::new(&[b"secret"]);
    let token = keys.sign(C, &id("b", b"k"), &[Dot::new(ActorId(1), Stamp(2))].into_iter().collect());
    assert_eq!(token, "AWMIp3BP4HRThv5TKfG2OfjvAAAAAAAAAAEAAAAAAAAAAg");
    let (context, floor) = keys.sign_both(&id("b", b"k"), 0, &[Dot::new(ActorId(1), Stamp(2))].into_iter().collect());
    assert_eq!(context, token);
    assert_eq!(floor, keys.sign(F, &id("b", b"k"), &[Dot::new(ActorId(1), Stamp(2))].into_iter().collect()));
    assert_ne!(floor, context);
    let (later, _) = keys.sign_both(&id("b", b"k"), 1, &[Dot::new(ActorId(1), Stamp(2))].into_iter().collect());
    assert_eq!(later, "AmMkFIT54k8PWVw_Kho1gHd5AAAAAAAAAAEAAAAAAAAAAQAAAAAAAAAC");
}

#[test]
fn a_token_tells_the_generation_it_is_of() {
    let keys = TokenKeys::new(&[b"secret"]);
    let (id, vector) = (id("b", b"k"), [Dot::new(ActorId(1), Stamp(2))].into_iter().collect::<VersionVector>());
    for generation in [0, 1, u64::MAX] {
        let (context, floor) = keys.sign_both(&id, generation, &vector);
        assert_eq!(keys.open(C, &id, &context, MAX_CONTEXT_LEN), Ok((generation, vector.clone())));
        assert_eq!(keys.open(F, &id, &floor, MAX_CONTEXT_LEN), Ok((generation, vector.clone())));
        assert_eq!(keys.verify(C, &id, &context, MAX_CONTEXT_LEN), Ok(vector.clone()));
    }
    use base64::Engine;
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let (context, _) = keys.sign_both(&id, 1, &vector);
    for version in 0..=255 {
        let mut bytes = base64.decode(&context).unwrap();
        bytes[0] = version;
        let read = keys.open(C, &id, &base64.encode(bytes), MAX_CONTEXT_LEN);
        assert_eq!(read.is_ok(), version == 2, "the generation cannot be taken for an entry, nor cut off: {version}");
    }
    let mut bytes = base64.decode(&context).unwrap();
    bytes[25] ^= 1;
    assert_eq!(keys.open(C, &id, &base64.encode(bytes), MAX_CONTEXT_LEN), Err(ContextError::Foreign));
}
