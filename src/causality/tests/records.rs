//! The record: round trips, refusals, and bytes that must never change.

use super::*;

fn decode(bytes: &[u8]) -> Result<Object, RecordError> {
    decode_object(Bytes::copy_from_slice(bytes))
}

proptest! {
    #[test]
    fn a_record_is_its_object((_, states) in history(), twin in payload()) {
        for state in &states {
            let record = encode_object(state);
            let back = decode_object(record.clone()).unwrap();
            prop_assert_eq!(&back, state);
            prop_assert_eq!(encode_object(&back), &record);
            prop_assert_eq!(state.digest(), digest_of_record(&record));
            let head = decode_head(&record).unwrap();
            prop_assert_eq!((head.horizon, &head.context), (state.horizon(), state.context()));
            prop_assert_eq!(head.siblings.len(), state.siblings().len());
            for (head, sibling) in head.siblings.iter().zip(state.siblings()) {
                prop_assert_eq!((head.dot, head.is_tombstone), (sibling.dot, sibling.is_tombstone()));
                for now in [Wall(0), Wall(u64::MAX / 2), Wall(u64::MAX)] {
                    prop_assert_eq!(head.is_live(now), sibling.is_live(now));
                }
            }
        }
        // A dot with two payloads: a bug elsewhere, but not one to lose anything by.
        if let Some(mut state) = states.last().filter(|s| !s.siblings().is_empty()).cloned() {
            let mut other = state.clone();
            other.siblings[0].payloads = vec![twin];
            state.merge(&other, &rules(false));
            prop_assert_eq!(decode_object(encode_object(&state)), Ok(state));
        }
    }

    #[test]
    fn values_are_slices_of_the_record((_, states) in history()) {
        let record = encode_object(states.last().unwrap());
        let range = record.as_ptr_range();
        for sibling in decode_object(record.clone()).unwrap().siblings() {
            for value in sibling.payloads.iter().filter_map(|p| p.value.as_ref()).filter(|v| !v.is_empty()) {
                prop_assert!(range.contains(&value.as_ptr()));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..200), known in any::<bool>()) {
        if let Some(version) = bytes.first_mut().filter(|_| known) {
            *version = 1;
        }
        if let Ok(object) = decode(&bytes) {
            prop_assert_eq!(encode_object(&object), bytes.clone());
        }
        let _ = decode_head(&bytes);
        if let Ok(vector) = decode_vector(&bytes) {
            prop_assert_eq!(encode_vector(&vector), bytes);
        }
    }

    #[test]
    fn a_damaged_record_is_refused_or_is_another_record(
        (_, states) in history(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4),
    ) {
        let mut bytes = encode_object(states.last().unwrap()).to_vec();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ if bytes.len() > 1 => { bytes.remove(at); }
                _ => {}
            }
        }
        if let Ok(object) = decode(&bytes) {
            prop_assert_eq!(encode_object(&object), bytes.clone());
        }
        let _ = decode_head(&bytes);
    }

    #[test]
    fn every_cut_is_refused((_, states) in history()) {
        let record = encode_object(states.last().unwrap());
        for len in 0..record.len() {
            prop_assert!(decode(&record[..len]).is_err());
        }
        prop_assert!(decode(&[&record[..], &[0]].concat()).is_err());
    }
}

fn dot(actor: u64, ms: u64) -> Dot {
    Dot::new(ActorId(actor), Stamp::at(Wall(ms)))
}

fn object(context: &[Dot], siblings: Vec<Sibling>, horizon: Horizon) -> Object {
    Object { context: context.iter().copied().collect(), siblings, horizon, recent: RecentRequests::new() }
}

/// The objects whose records are kept in `golden.txt`.
fn golden() -> Vec<(&'static str, Object)> {
    let one =
        Sibling::new(dot(7, 1_700_000_000_000), Payload { written_at: Wall(1_700_000_000_001), ..value("hello") });
    let rich = Payload {
        content_type: Some("text/plain".to_owned()),
        meta: BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "é".to_owned())]),
        expires_at: Some(Wall(1_700_000_060_000)),
        ..value("soon gone")
    };
    let mut recent = object(&[dot(7, 1_700_000_000_000)], vec![one.clone()], Horizon::INFINITE);
    recent.recent.add(Recent {
        dot: dot(7, 1_700_000_000_000),
        id: RequestId([0xaa; 16]),
        fingerprint: Fingerprint([0xbb; 16]),
    });
    let mut clash = Sibling::new(dot(7, 1), value("a"));
    clash.unite(&Sibling::new(dot(7, 1), value("b")));
    let context = [dot(7, 1_700_000_000_000), dot(9, 1_700_000_000_500)];
    let beside = Sibling::new(dot(9, 1_700_000_000_499), Payload { written_at: Wall(5), ..Payload::default() });
    vec![
        ("empty", Object::new()),
        ("one value", object(&context[..1], vec![one.clone()], Horizon::INFINITE)),
        ("a value and a tombstone", object(&context, vec![one, beside], Horizon::INFINITE)),
        ("expiring", object(&[dot(7, 3)], vec![Sibling::new(dot(7, 3), rich)], Horizon(1_700_000_060_000))),
        ("a recent request", recent),
        ("one dot with two values", object(&[dot(7, 1)], vec![clash], Horizon::INFINITE)),
        ("superseded by what was collected", object(&[dot(7, 3)], Vec::new(), Horizon::INFINITE)),
    ]
}

#[test]
fn records_never_change() {
    let spelled = golden().into_iter().map(|(name, object)| {
        let record = encode_object(&object);
        assert_eq!(decode_object(record.clone()), Ok(object.clone()), "{name}");
        let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}: {hex} digest {}\n", object.digest())
    });
    assert_eq!(spelled.collect::<String>(), include_str!("golden.txt"));
}

#[test]
fn what_encoding_would_not_write_is_refused() {
    let a = [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5];
    let b = [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5];
    let of = |parts: &[&[u8]]| decode(&parts.concat()).map(|_| ());
    let malformed = |why| Err(RecordError::Malformed(why));
    // The base of what follows: actors a and b, one tombstone of a.
    assert_eq!(of(&[&[1, 1, 2], &a, &b, &[1, 0, 0, 1, 0, 0], &[0]]), Ok(()));
    for (what, result, expected) in [
        ("nothing", of(&[]), Err(RecordError::Truncated)),
        ("version 2", of(&[&[2, 0, 0, 0, 0]]), Err(RecordError::UnknownVersion(2))),
        ("horizon kind", of(&[&[1, 3, 0, 0, 0]]), malformed("no such horizon")),
        ("long horizon", of(&[&[1, 2], &[0; 8], &[0, 0, 0]]), malformed("a horizon longer than it need be")),
        ("long count", of(&[&[1, 0, 0x80, 0, 0, 0]]), malformed("a number longer than it need be")),
        ("huge count", of(&[&[1, 0], &[0xff; 9], &[1, 0, 0]]), Err(RecordError::Truncated)),
        ("past 64 bits", of(&[&[1, 0], &[0xff; 9], &[2, 0, 0]]), malformed("a number past 64 bits")),
        ("actors", of(&[&[1, 1, 2], &b, &a, &[0, 0]]), malformed("actors out of order")),
        ("actor twice", of(&[&[1, 1, 2], &a, &a, &[0, 0]]), malformed("actors out of order")),
        (
            "no entry",
            of(&[&[1, 1, 1], &a, &[1, 1, 0, 1, 0, 0], &[0]]),
            malformed("a sibling that the context does not cover"),
        ),
        (
            "below zero",
            of(&[&[1, 1, 1], &a, &[1, 0, 6, 1, 0, 0], &[0]]),
            malformed("a sibling that the context does not cover"),
        ),
        (
            "order",
            of(&[&[1, 1, 2], &a, &b, &[2, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0], &[0]]),
            malformed("siblings out of order"),
        ),
        ("twice", of(&[&[1, 1, 1], &a, &[2, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0], &[0]]), malformed("siblings out of order")),
        ("no payload", of(&[&[1, 1, 1], &a, &[1, 0, 0, 0], &[0]]), malformed("a sibling that holds nothing")),
        ("payload twice", of(&[&[1, 1, 1], &a, &[1, 0, 0, 2, 0, 0, 0, 0], &[0]]), malformed("payloads out of order")),
        ("flag", of(&[&[1, 1, 1], &a, &[1, 0, 0, 1, 16, 0], &[0]]), malformed("no such flag")),
        ("no meta", of(&[&[1, 1, 1], &a, &[1, 0, 0, 1, 4, 0, 0], &[0]]), malformed("metadata of nothing")),
        (
            "meta",
            of(&[&[1, 1, 1], &a, &[1, 0, 0, 1, 4, 0, 2, 1, b'b', 0, 1, b'a', 0], &[0]]),
            malformed("metadata out of order"),
        ),
        ("text", of(&[&[1, 1, 1], &a, &[1, 0, 0, 1, 2, 0, 1, 0xff], &[0]]), malformed("a text that is no UTF-8")),
        ("value", of(&[&[1, 1, 1], &a, &[1, 0, 0, 1, 1, 0, 3], &[0], b"xy"]), Err(RecordError::Truncated)),
        ("more", of(&[&[1, 1, 1], &a, &[1, 0, 0, 1, 1, 0, 1], &[0], b"xy"]), malformed("bytes follow its end")),
        ("unseen", of(&[&[1, 1, 0, 0, 0]]), malformed("something of nothing seen")),
        ("requests", of(&[&[1, 1, 1], &a, &[0, 2], &b, &[0; 32], &a, &[0; 32]]), malformed("requests out of order")),
    ] {
        assert_eq!(result, expected, "{what}");
    }
}
