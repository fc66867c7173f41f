//! Space kept back on the disk. Below the reserve nothing is taken that was not here before: no new value, from a client
//! or a peer. Reads go on, and deletes, which make room; and compaction has the space it needs to give theirs back.
//!
//! What was acknowledged elsewhere and repairs this copy may go down to half the reserve, or reads that find the replicas
//! different would fail for as long as the disk is short; what mends a damaged key replaces what was here, and is always
//! taken.
//!
//! A state that brings no new value is still merged: a delete that leaves siblings behind carries them along.
//!
//! Measured now and then; between two measurements only so much is taken as surely fits above the reserve, so that a
//! fast writer does not run through it before anybody looks.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::{info, warn};

use super::Cause;
use crate::causality::Object;
use crate::storage::Space;

/// How much of the disk is kept back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reserve {
    /// This share of the file system, in percent.
    Percent(u8),
    /// This many bytes.
    Bytes(u64),
}

impl Default for Reserve {
    fn default() -> Self {
        Self::Percent(5)
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(share) => write!(f, "{share}%"),
            Self::Bytes(bytes) => write!(f, "{bytes}B"),
        }
    }
}

impl Reserve {
    /// What it is of a file system of this size.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(share) => u64::try_from(u128::from(total) * u128::from(share) / 100).unwrap_or(u64::MAX),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The room on this node's disk, as last measured.
#[derive(Debug)]
pub struct Room {
    reserve: Reserve,
    last: Mutex<Option<Space>>,
    short: AtomicBool,
    /// Even half of the reserve is used up.
    scarce: AtomicBool,
    /// Bytes that may be taken before the next measurement.
    left: AtomicU64,
}

/// What a byte of a record takes on the disk, at first: once in the log, once in its place.
const WRITTEN: u64 = 2;

impl Room {
    pub(super) fn new(reserve: Reserve) -> Self {
        let (last, left) = (Mutex::default(), AtomicU64::new(u64::MAX));
        let (short, scarce) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { reserve, last, short, scarce, left }
    }

    /// Takes a measurement. Where nothing can be measured nothing is kept back.
    pub(super) fn measured(&self, space: Option<Space>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = space;
        // A twentieth more to leave it than to get into it: at the edge it would come and go.
        let was_short = self.is_short();
        let kept = |space: Space| self.reserve.of(space.total);
        let edge = |space: Space| if was_short { kept(space) + kept(space) / 20 } else { kept(space) };
        let short = space.is_some_and(|space| space.free < edge(space));
        self.scarce.store(space.is_some_and(|space| space.free < kept(space) / 2), Ordering::Release);
        let left = space.map_or(u64::MAX, |space| space.free.saturating_sub(self.reserve.of(space.total)) / WRITTEN);
        self.left.store(left, Ordering::Release);
        self.short.store(short, Ordering::Release);
        let Space { free, total } = space.unwrap_or(Space { free: 0, total: 0 });
        let reserve = self.reserve.of(total);
        match (was_short, short) {
            (false, true) => {
                warn!(free, total, reserve, "the disk is filled up to its reserve: no new values, only deletes");
            }
            (true, false) => info!(free, total, reserve, "there is space on the disk again: new values are taken"),
            _ => {}
        }
    }

    /// A record of so many bytes is taken.
    pub(super) fn took(&self, bytes: usize) {
        let bytes = bytes as u64;
        let before =
            self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| Some(left.saturating_sub(bytes)));
        if before.is_ok_and(|left| left < bytes) {
            // Perhaps too careful; the next measurement knows.
            if !self.short.swap(true, Ordering::AcqRel) {
                warn!(
                    "what was written since the disk was measured may have reached its reserve: no new values for now"
                );
            }
        }
    }

    /// Whether only deletes are taken.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// What was measured last, and the bytes kept back of it; none where nothing can be measured.
    #[must_use]
    pub fn space(&self) -> Option<(Space, u64)> {
        let space = (*self.last.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some((space, self.reserve.of(space.total)))
    }

    /// Whether a state is taken here now, on top of what is here.
    pub(super) fn admits(&self, here: &Object, incoming: &Object, cause: Cause) -> bool {
        let free = match cause {
            Cause::Written => !self.is_short(),
            Cause::Repair | Cause::Anew => !self.scarce.load(Ordering::Acquire),
            Cause::Mend => true,
        };
        free || incoming.siblings().iter().all(|sibling| sibling.is_tombstone() || here.context().covers(sibling.dot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causality::{self, MergeRules, Payload, Supersedes};
    use crate::types::{ActorId, Stamp};

    fn one_value() -> Object {
        let payload = Payload { value: Some("v".into()), ..Payload::default() };
        let write = causality::Write { payload, supersedes: Supersedes::Seen, request: None };
        causality::write(&Object::new(), write, ActorId(1), Stamp(1), Stamp(0), &MergeRules::default()).object
    }

    #[test]
    fn below_the_reserve_is_short_and_space_that_comes_back_ends_it() {
        let room = Room::new(Reserve::Percent(5));
        let percent = [(6, false), (5, false), (4, true), (0, true)];
        let edge = [(5_000, true), (5_249, true), (5_250, false), (5_000, false), (4_999, true)];
        let steps = percent.map(|(free, short)| (free * 1_000, short)).into_iter();
        for (free, short) in steps.chain(edge) {
            let space = Space { free, total: 100_000 };
            room.measured(Some(space));
            assert_eq!((room.is_short(), room.space()), (short, Some((space, 5_000))), "{free}");
        }
        room.measured(Some(Space { free: 0, total: 100 }));
        room.measured(None);
        assert!(!room.is_short() && room.space().is_none());
    }

    #[test]
    fn a_fast_writer_is_stopped_before_the_next_measurement() {
        let room = Room::new(Reserve::Bytes(100));
        room.took(usize::MAX);
        assert!(!room.is_short(), "nothing was measured yet");
        room.measured(Some(Space { free: 120, total: 1000 }));
        room.took(10);
        assert!(!room.is_short());
        room.took(1);
        assert!(room.is_short());
        room.measured(Some(Space { free: 104, total: 1000 }));
        assert!(room.is_short());
        room.measured(Some(Space { free: 110, total: 1000 }));
        assert!(!room.is_short());
        room.measured(None);
        room.took(usize::MAX);
        assert!(!room.is_short(), "where nothing can be measured nothing is kept back");
    }

    #[test]
    fn repairs_go_on_for_a_while_and_mending_always() {
        let room = Room::new(Reserve::Bytes(100));
        let (here, incoming) = (Object::new(), one_value());
        let admitted = |free| {
            room.measured(Some(Space { free, total: 1000 }));
            [Cause::Written, Cause::Repair, Cause::Mend].map(|cause| room.admits(&here, &incoming, cause))
        };
        assert_eq!(admitted(100), [true; 3]);
        assert_eq!(admitted(99), [false, true, true]);
        assert_eq!(admitted(50), [false, true, true]);
        assert_eq!(admitted(49), [false, false, true]);
        assert!(room.admits(&incoming, &incoming, Cause::Written), "it brings nothing new");
    }

    #[test]
    fn a_reserve_is_a_share_or_a_size() {
        assert_eq!(Reserve::Percent(5).of(u64::MAX), u64::MAX / 20);
        assert_eq!((Reserve::Percent(0).of(100), Reserve::Bytes(7).of(100)), (0, 7));
        assert_eq!(format!("{} {}", Reserve::Percent(5), Reserve::Bytes(7)), "5% 7B");
    }
}
