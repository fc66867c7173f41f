//! What there is: objects, owners, a hint, frames, a read under way, rounds.
//!
//! An object is the product's own, spelled briefly: actors and writes are numbers, so that a state is copied and named
//! fast. `an_object_is_the_products_own` holds it against `quorate::causality`.

use std::hash::{Hash, Hasher};

/// Most writes of a run.
pub(super) const WRITES: usize = 3;
/// Most rounds, with those by which everything is collected in the end.
pub(super) const ROUNDS: usize = 4;
/// Two owners; the third actor is who comes after a crash, after a disk was lost, or after a directory went back, the others
/// who starts over.
pub(super) const ACTORS: usize = 5;
/// Both owners.
pub(super) const BOTH: u8 = 0b11;

/// Those of a mask.
pub(super) fn those(mut mask: u8) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let n = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            n
        })
    })
}

/// One write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Written {
    pub(super) actor: u8,
    pub(super) stamp: u8,
    pub(super) tombstone: bool,
    /// The writes that it, or what it supersedes, supersedes.
    pub(super) past: u8,
}

/// An object: a context, and which writes it holds as siblings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Obj {
    pub(super) context: [u8; ACTORS],
    pub(super) held: u8,
}

impl Obj {
    pub(super) fn covers(self, write: &Written) -> bool {
        write.stamp > 0 && self.context[write.actor as usize] >= write.stamp
    }

    pub(super) fn greatest(self) -> u8 {
        self.context.into_iter().max().unwrap_or(0)
    }

    /// Without these siblings; without a sibling it is nothing, and covers nothing.
    pub(super) fn without(self, gone: u8) -> Self {
        let held = self.held & !gone;
        if held == 0 { Self::default() } else { Self { held, ..self } }
    }

    pub(super) fn merge(self, other: Self, written: &[Written; WRITES]) -> Self {
        let stays = |a: Self, b: Self| {
            those(a.held).filter(|n| b.held & 1 << n != 0 || !b.covers(&written[*n])).fold(0, |mask, n| mask | 1 << n)
        };
        let mut context = self.context;
        context.iter_mut().zip(other.context).for_each(|(mine, theirs)| *mine = theirs.max(*mine));
        Self { context, held: stays(self, other) | stays(other, self) }
    }
}

/// An owner's copy of the partition, all of it durable once flushed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Copy {
    pub(super) object: Obj,
    pub(super) epoch: u8,
    /// What was read under an earlier epoch is refused.
    pub(super) sealed: u8,
    pub(super) floor: u8,
    /// Rounds it has marked, sealed, dropped; whose tombstones it no longer looks for.
    pub(super) marked: u8,
    pub(super) seals: u8,
    pub(super) dropped: u8,
    pub(super) forgotten: u8,
}

/// An owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Owner {
    pub(super) now: Copy,
    pub(super) disk: Copy,
    pub(super) actor: u8,
    /// Readings that its clock gave.
    pub(super) ticks: u8,
    /// Whether it has not yet merged what the other holds.
    pub(super) syncing: bool,
    /// Whether its directory went back, and it has heard nobody since who would know.
    pub(super) unheard: bool,
}

/// A state on its way, or a hint: with the epoch under which it was read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Frame {
    pub(super) object: Obj,
    pub(super) epoch: u8,
    /// Who read or merged it.
    pub(super) from: u8,
}

/// A copy of owner 1's directory, and of that of who holds hints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Backup {
    pub(super) copy: Copy,
    pub(super) hint: Option<Frame>,
    pub(super) holder: u8,
}

/// A quorum read that has one answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Read {
    pub(super) first: Frame,
    pub(super) sealed: u8,
    /// Writes that were superseded by an acknowledged one before it began.
    pub(super) never: u8,
    /// Writes that were acknowledged, and not superseded, before it began.
    pub(super) wanted: u8,
}

/// A round, and what its driver was told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Round {
    pub(super) epoch: u8,
    /// What it lists of this key: a tombstone-only object, or nothing.
    pub(super) lists: Obj,
    /// Rounds that all had dropped when it began.
    pub(super) after: u8,
    pub(super) marked: u8,
    pub(super) drained: bool,
    pub(super) sealed: u8,
    pub(super) dropped: u8,
    /// Who said that it has abandoned it.
    pub(super) abandoned: u8,
}

/// All there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) owners: [Owner; 2],
    pub(super) frames: [Option<Frame>; 2],
    pub(super) hint: Option<Frame>,
    /// The epoch of who holds hints: under earlier ones it takes none.
    pub(super) holder: u8,
    /// Whether who holds hints has forgotten what it refuses; whether it keeps something from before.
    pub(super) forgetful: bool,
    pub(super) stale: bool,
    pub(super) backup: Option<Backup>,
    pub(super) read: Option<Read>,
    pub(super) written: [Written; WRITES],
    pub(super) writes: u8,
    pub(super) rounds: [Round; ROUNDS],
    pub(super) begun: u8,
    /// Writes that both owners took; that an owner and the hint did.
    pub(super) strictly: u8,
    pub(super) sloppily: u8,
    /// A crash, or a lost disk, or an old copy of one, has been.
    pub(super) failed: bool,
    /// What a read returned that it must not; what it missed.
    pub(super) misread: u8,
    pub(super) missed: u8,
}

/// Gathers what is hashed, so that it is hashed in one piece: a state is named twenty times as often as it is visited.
struct Gathered([u8; 768], usize);

impl Hasher for Gathered {
    fn write(&mut self, bytes: &[u8]) {
        self.0[self.1..self.1 + bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len();
    }

    fn finish(&self) -> u64 {
        0
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut all = Gathered([0; 768], 0);
        let Self { owners, frames, hint, holder, read, written, writes, .. } = self;
        (owners, frames, hint, holder, read, written, writes).hash(&mut all);
        let Self { rounds, begun, strictly, sloppily, failed, misread, missed, .. } = self;
        let Self { forgetful, stale, backup, .. } = self;
        (rounds, begun, strictly, sloppily, failed, misread, missed, forgetful, stale, backup).hash(&mut all);
        hasher.write(&all.0[..all.1]);
    }
}

impl State {
    pub(super) fn merge(&self, a: Obj, b: Obj) -> Obj {
        a.merge(b, &self.written)
    }

    /// Which of these are deletes.
    pub(super) fn tombstones(&self, mask: u8) -> u8 {
        those(mask).filter(|n| self.written[*n].tombstone).fold(0, |tombstones, n| tombstones | 1 << n)
    }

    /// All that these writes superseded.
    pub(super) fn past_of(&self, mask: u8) -> u8 {
        those(mask).fold(0, |past, n| past | self.written[n].past)
    }

    /// All writes there were.
    pub(super) fn all(&self) -> u8 {
        (1 << self.writes) - 1
    }
}

/// What can happen. Owners, frames and rounds are numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Blind: supersedes the tombstones it sees.
    Put(usize),
    /// With the context of a "not found": supersedes nothing.
    PutBeside(usize),
    /// Of all that the owner holds.
    Delete(usize),
    /// What this owner holds reaches the other.
    Push(usize),
    /// ... is on its way, for as long as it likes.
    Send(usize),
    Deliver {
        frame: usize,
        to: usize,
    },
    /// Owner 1 did not take what owner 0 holds: a fallback does.
    Hint,
    DeliverToHint(usize),
    HandOff,
    Read(usize),
    /// The other owner answers, and the read returns, or asks again.
    Answer,
    /// Owner 1 loses what was not flushed.
    Crash,
    /// Owner 1 loses its disk, and is replaced by a change of layouts.
    Wipe,
    /// What owner 1 holds cannot be read any more.
    Damage,
    /// A copy of the directories is made.
    Backup,
    /// Owner 1's directory is put back, and nobody is there to tell it so.
    GoBack,
    /// Somebody is.
    Notice,
    /// It meets a seal that it has forgotten to have marked.
    StartOver,
    /// The directory of who holds hints is put back.
    HolderGoesBack,
    /// ... and owners tell it how far they are.
    HolderHears,
    /// A driver begins a round, that lists this key or does not; it asked for the epochs just now, or before the last
    /// mark.
    Begin {
        lists: bool,
        late: bool,
    },
    Mark {
        round: usize,
        at: usize,
    },
    Drain(usize),
    /// Owners are about to change.
    Abandon {
        round: usize,
        at: usize,
    },
    /// It was abandoned elsewhere.
    Forget {
        round: usize,
        at: usize,
    },
    Seal {
        round: usize,
        at: usize,
    },
    Drop {
        round: usize,
        at: usize,
    },
}
