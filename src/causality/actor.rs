//! Who mints (I-MINT): the actor's name, and when it must change.
//!
//! An actor is one node's tenure of one partition in one incarnation. It may go on only while it is certain that what
//! the node holds for a key knows every dot the actor ever minted for it. Three rules end that certainty: a stop that
//! was not clean, a peer that remembers a life this directory does not ([`on_start`]), and proof, from a state or a
//! context, of a mint that is missing here ([`rollback_proof`]). All are pure; carrying them out is `replica`'s.

use crate::types::{ActorId, Incarnation, PartitionId, Stamp, Tenure};

use super::{Dot, Object, VersionVector};

/// The actor that mints for `partition`: the first 8 bytes of a hash over random bits, so that no counter rolled back
/// with its disk can give a name twice.
#[must_use]
pub fn actor_of(incarnation: Incarnation, partition: PartitionId, tenure: Tenure) -> ActorId {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 2026-11 actor");
    hasher.update(&incarnation.0.to_be_bytes()).update(&partition.0.to_be_bytes()).update(&tenure.0.to_be_bytes());
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    ActorId(u64::from_be_bytes(id))
}

/// Proof of a rollback: `incoming`, a client's context or the context of a state to merge, names `mine` (this node's
/// current actor for the partition) above both what `local` has seen of it and the partition's collected floor. Then
/// this node minted that dot and has forgotten it: a new incarnation before the next mint.
///
/// `local` must include what is being committed: the object leaves for others while the local commit is under way, and
/// may come back before it ends.
#[must_use]
pub fn rollback_proof(local: &Object, floor: Stamp, mine: ActorId, incoming: &VersionVector) -> Option<Dot> {
    let named = Dot::new(mine, incoming.get(mine)?);
    (!local.context().covers(named) && named.stamp > floor).then_some(named)
}

/// What the directory says of its last life, read at a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastLife {
    /// It ended with everything flushed and the mark written. False also for a new or restored directory.
    pub ended_clean: bool,
    /// Its generation.
    pub generation: u64,
    /// Its boot nonce: random bits drawn at its start.
    pub boot: u64,
}

/// What a peer remembers of this store id, asked at a start before the first mint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// The highest generation it has seen, with the boot nonce seen with it; none if it knows nothing.
    pub latest: Option<(u64, u64)>,
    /// Another process answers under this store id now.
    pub alive: bool,
}

/// How to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// As before: nothing that was minted is missing.
    SameIncarnation,
    /// Under a new incarnation: something may be missing, or nobody could say.
    NewIncarnation,
    /// Under a new incarnation, every partition unsynced: a peer has seen a life that this directory does not know.
    RolledBack,
    /// Not at all: another process runs on a copy of this directory, and was first.
    Refused,
}

/// How to start, given what the peers that answered in time remember.
///
/// The incarnation goes on only with a clean mark *and* an answer that names exactly the last life, none contradicting: a
/// directory copied, or rolled back to an older copy, has a clean mark as well, and a peer that never met the lives it
/// forgot cannot speak of them (`docs/decisions/0010`). How many have to answer is for whoever asks to say
/// (`docs/decisions/0013`).
#[must_use]
pub fn on_start(last: LastLife, answers: &[Memory]) -> Start {
    let contradicts = |memory: &Memory| {
        memory.latest.is_some_and(|(generation, boot)| {
            generation > last.generation || (generation == last.generation && boot != last.boot)
        })
    };
    let vouches = |memory: &Memory| memory.latest == Some((last.generation, last.boot));
    if answers.iter().any(|memory| memory.alive) {
        Start::Refused
    } else if answers.iter().any(contradicts) {
        Start::RolledBack
    } else if last.ended_clean && answers.iter().any(vouches) {
        Start::SameIncarnation
    } else {
        Start::NewIncarnation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Wall;

    #[test]
    fn actors_differ_by_each_of_what_names_them_and_never_change() {
        let base = actor_of(Incarnation(1), PartitionId(2), Tenure(3));
        assert_eq!(base.to_string(), "ecb1c7955b112d55");
        for other in [
            actor_of(Incarnation(4), PartitionId(2), Tenure(3)),
            actor_of(Incarnation(1), PartitionId(4), Tenure(3)),
            actor_of(Incarnation(1), PartitionId(2), Tenure(4)),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn proof_is_what_names_me_above_what_i_hold_and_above_the_floor() {
        let (me, peer) = (ActorId(1), ActorId(2));
        let stamp = |ms| Stamp::at(Wall(ms));
        let vector = |dots: &[(ActorId, u64)]| dots.iter().map(|(a, ms)| Dot::new(*a, stamp(*ms))).collect();
        let local = Object { context: vector(&[(me, 5)]), ..Object::new() };
        let proof = |incoming: &[(ActorId, u64)], floor| rollback_proof(&local, stamp(floor), me, &vector(incoming));
        assert_eq!(proof(&[(me, 5)], 0), None);
        assert_eq!(proof(&[(me, 6)], 5), Some(Dot::new(me, stamp(6))));
        assert_eq!(proof(&[(me, 6)], 6), None, "collected by proof");
        assert_eq!(proof(&[(peer, 9)], 0), None);
        let nothing = rollback_proof(&Object::new(), stamp(0), me, &vector(&[(me, 1)]));
        assert_eq!(nothing, Some(Dot::new(me, stamp(1))));
    }

    #[test]
    fn starts() {
        let last = LastLife { ended_clean: true, generation: 7, boot: 70 };
        let unclean = LastLife { ended_clean: false, ..last };
        let knows = |generation, boot| Memory { latest: Some((generation, boot)), alive: false };
        let stranger = Memory { latest: None, alive: false };
        let twin = Memory { latest: Some((7, 70)), alive: true };
        for (last, answers, start) in [
            (last, &[knows(7, 70)][..], Start::SameIncarnation),
            (last, &[knows(6, 60), knows(7, 70)], Start::SameIncarnation),
            (last, &[knows(6, 60), stranger], Start::NewIncarnation),
            (last, &[], Start::NewIncarnation),
            (unclean, &[knows(7, 70)], Start::NewIncarnation),
            (last, &[knows(7, 70), knows(8, 80)], Start::RolledBack),
            (last, &[knows(7, 71)], Start::RolledBack),
            (unclean, &[knows(7, 71)], Start::RolledBack),
            (last, &[stranger, twin], Start::Refused),
        ] {
            assert_eq!(on_start(last, answers), start, "{last:?} {answers:?}");
        }
    }
}
