//! The key index: what is known of an object without its value.
//!
//! The three highest bits of the sibling count say what a list shows of the object without reading it, and whether a round of
//! collection is to look at it. Entries of version 1 have none of them set: their objects are read.

use bytes::{BufMut, Bytes, BytesMut};

use crate::causality::{Horizon, Object, Sibling};
use crate::merkle::hour_of;
use crate::types::Digest;

/// The object is nothing but deletions, or will be once its values have expired: for collection.
const DELETION: u32 = 1 << 31;
/// All that is held are deletes: for lists.
const DEAD: u32 = 1 << 30;
/// There is a value, and nothing that expires: for lists.
const LASTS: u32 = 1 << 29;
const COUNT: u32 = LASTS - 1;

/// What a list shows of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    /// Nothing: there are deletes alone.
    Dead,
    /// This many siblings, whatever the time is.
    Lasts(u32),
    /// That depends on the time, or is not known here: read it.
    Read,
}

/// How many siblings an object has, what a list shows of it, and whether it is to be collected some day.
fn siblings_word(object: &Object) -> u32 {
    let payloads = || object.siblings().iter().flat_map(|sibling| &sibling.payloads);
    let count = u32::try_from(payloads().count()).unwrap_or(COUNT).min(COUNT);
    let shown = match () {
        () if payloads().all(crate::causality::Payload::is_tombstone) => DEAD,
        () if payloads().all(|payload| payload.expires_at.is_none()) => LASTS,
        () => 0,
    };
    count | shown | if ends_as_deletion(object) { DELETION } else { 0 }
}

/// What a list shows by an index entry, and the object's digest.
pub(super) fn index_shown(entry: &[u8]) -> Option<(Digest, Shown)> {
    let (digest, _) = index_digest(entry)?;
    let word = u32::from_be_bytes(entry[17..21].try_into().ok()?);
    let shown = match word & (DEAD | LASTS) {
        DEAD => Shown::Dead,
        LASTS => Shown::Lasts(word & COUNT),
        _ => Shown::Read,
    };
    Some((digest, shown))
}

/// An index entry: version (u8) | digest (16) | siblings ([`siblings_word`], u32) | horizon (u64), integers big endian.
pub(super) fn index_entry(digest: &Digest, object: &Object) -> Bytes {
    let mut entry = BytesMut::with_capacity(29);
    entry.put_u8(2);
    entry.put_slice(&digest.0);
    entry.put_u32(siblings_word(object));
    entry.put_u64(object.horizon().0);
    entry.freeze()
}

/// Whether a round of collection is to look at it some day: not at what expires, for that goes without one.
pub(super) fn ends_as_deletion(object: &Object) -> bool {
    let expires = |sibling: &Sibling| sibling.payloads.iter().all(|payload| payload.expires_at.is_some());
    let lasts = object.horizon() == Horizon::INFINITE;
    object.siblings().iter().all(|sibling| sibling.is_tombstone() || lasts && expires(sibling))
}

/// Whether an index entry may be of such an object; those of version 1 do not say.
pub(super) fn may_be_deletion(entry: &[u8]) -> bool {
    match entry {
        [2, rest @ ..] if rest.len() == 28 => rest[16] & 0x80 != 0,
        _ => true,
    }
}

/// The digest and horizon hour in an index entry.
pub(super) fn index_digest(entry: &[u8]) -> Option<(Digest, u32)> {
    match entry {
        [1 | 2, rest @ ..] if rest.len() == 28 => {
            let horizon = u64::from_be_bytes(rest[20..].try_into().ok()?);
            Some((Digest::from_slice(&rest[..16])?, hour_of(Horizon(horizon))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causality::{MergeRules, NodeClock, Payload, Supersedes, Write, write};
    use crate::types::{ActorId, Stamp, Wall};

    fn object(values: &[(Option<&'static str>, Option<u64>)]) -> Object {
        let mut clock = NodeClock::starting_after(Stamp(1));
        values.iter().zip(1..).fold(Object::new(), |base, ((value, expires), at)| {
            let payload = Payload { value: value.map(Into::into), expires_at: expires.map(Wall), ..Payload::default() };
            let supersedes = Supersedes::Covered(Default::default());
            let reading = clock.next(Wall(at));
            let put = Write { payload, supersedes, request: None };
            write(&base, put, ActorId(at), reading, Stamp(0), &MergeRules::default()).object
        })
    }

    #[test]
    fn an_entry_says_what_a_list_shows() {
        let shown = |values| {
            let object = object(values);
            let entry = index_entry(&Digest([7; 16]), &object);
            assert_eq!(index_digest(&entry), Some((Digest([7; 16]), hour_of(object.horizon()))));
            index_shown(&entry).unwrap()
        };
        assert_eq!(shown(&[(Some("a"), None)]), (Digest([7; 16]), Shown::Lasts(1)));
        assert_eq!(shown(&[(Some("a"), None), (None, None)]).1, Shown::Lasts(2));
        assert_eq!(shown(&[(None, None)]).1, Shown::Dead);
        assert_eq!(shown(&[(Some("a"), None), (Some("b"), Some(9))]).1, Shown::Read);
    }

    #[test]
    fn an_entry_of_before_there_were_lists_says_read_it() {
        let mut entry = vec![1];
        entry.extend([7; 16]);
        entry.extend([0, 0, 0, 3]);
        entry.extend(Horizon::INFINITE.0.to_be_bytes());
        assert!(may_be_deletion(&entry));
        assert_eq!(index_shown(&entry), Some((Digest([7; 16]), Shown::Read)));
        assert_eq!(index_shown(&entry[1..]), None);
    }
}
