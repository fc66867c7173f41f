//! What an owner keeps of the rounds of a partition.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

use super::{Epoch, LISTED_MAX, Listed, Round, RoundId};
use crate::causality::{Dot, Object};

/// Most rounds that a book holds. One that would be more is not marked: those that are there are finished, or forgotten,
/// first.
pub const HELD_MAX: usize = 16;

/// How far an owner is in a round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// Held everything that is listed when it raised its epoch.
    Marked,
    /// Refuses what was read before; neither sends nor takes in what is listed.
    Sealed,
    /// Has removed it; takes it out of what arrives.
    Dropped,
}

/// An owner's, or hint holder's, memory of one partition. What a step changed is flushed before the step is answered, in
/// one batch with what it did to objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Book {
    pub(super) epoch: Epoch,
    pub(super) sealed: Epoch,
    pub(super) drained: Epoch,
    /// What owners have sealed, as far as it was told here to whom stands in for them.
    pub(super) heard: Epoch,
    pub(super) held: BTreeMap<RoundId, Held>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) stage: Stage,
    /// By stored key: the deletions.
    pub(super) listed: BTreeMap<Bytes, Vec<Dot>>,
    pub(super) after: Vec<RoundId>,
}

/// What an owner says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Its epoch.
    pub epoch: Epoch,
    /// The first epoch whose states it takes.
    pub sealed: Epoch,
    /// Its rounds.
    pub rounds: BTreeMap<RoundId, Stage>,
}

/// What a store that becomes an owner learns of one that is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lesson(pub(super) Book);

/// A state was read under an epoch that is sealed here: it is to be read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("read under epoch {read}, and {sealed} is sealed here: read it again, and send that")]
pub struct TooOld {
    /// When it was read.
    pub read: Epoch,
    /// The first epoch that is taken.
    pub sealed: Epoch,
}

/// Why an owner does not mark a round. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum NotMarked {
    /// It lives under another layout, or under several.
    #[error("the round belongs to layout {0}, which is not the one live layout here")]
    OtherLayout(u64),
    /// It has marked a later round, or another one of that epoch.
    #[error("the epoch is {0} here already: begin a round after it")]
    Behind(Epoch),
    /// What it holds under these keys is not what the round lists.
    #[error("what is held under {} of the listed keys is something else: list what all owners hold", .0.len())]
    Differs(Vec<Bytes>),
    /// There are too many rounds, or keys in it.
    #[error("{0} rounds are held here, or the round lists too much: finish them first")]
    TooMany(usize),
}

/// The round is not known here: it was forgotten, or never marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no such round here, or not that far: ask for its state")]
pub struct NoSuchRound;

/// A round is sealed here and not dropped: it has to be finished first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("round {:?} is sealed: it is finished, or found abandoned elsewhere, first", .0.epoch)]
pub struct Unfinished(pub RoundId);

impl Lesson {
    /// What its teacher has sealed: who remembers no mark of that is behind it.
    #[must_use]
    pub const fn sealed(&self) -> Epoch {
        self.0.sealed
    }
}

impl Book {
    /// Under which epoch states are read now. To be looked up *before* the object is read.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The first epoch under which a state must have been read to be taken.
    #[must_use]
    pub const fn sealed(&self) -> Epoch {
        self.sealed
    }

    /// Whether nothing was ever collected here: the common case.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        *self == Self::default()
    }

    /// Judges a state that arrives, wherever it comes from: this node's own merges, too.
    pub fn judge(&self, read: Epoch) -> Result<(), TooOld> {
        if read < self.sealed { Err(TooOld { read, sealed: self.sealed }) } else { Ok(()) }
    }

    /// The first epoch under which a hint must have been read that is kept here, or minted on.
    #[must_use]
    pub fn drained(&self) -> Epoch {
        self.sealed.max(self.drained)
    }

    /// The greatest epoch that an owner has sealed, as far as is known here.
    #[must_use]
    pub fn heard(&self) -> Epoch {
        self.sealed.max(self.heard)
    }

    /// Nothing is taken any more that was read under an earlier epoch: some owner has sealed that.
    pub fn refuse_before(&mut self, sealed: Epoch) {
        self.sealed = self.sealed.max(sealed);
    }

    /// An owner has sealed so much, and every hint may have been drained up to there: nothing older is kept from here on.
    pub fn hear(&mut self, sealed: Epoch, drained: Epoch) {
        self.heard = self.heard.max(sealed);
        self.drained = self.drained.max(sealed).max(drained);
    }

    /// Judges what is kept as a hint already, before anything is merged with it. A holder that remembers has handed off
    /// everything that was older before any owner sealed: this one's directory went back, no owner takes it, and what was
    /// merged with it would be refused with it.
    pub fn judge_kept(&self, read: Epoch) -> Result<(), TooOld> {
        let sealed = self.heard();
        if read < sealed { Err(TooOld { read, sealed }) } else { Ok(()) }
    }

    /// Judges a state that is to be kept as a hint.
    pub fn judge_hint(&self, read: Epoch) -> Result<(), TooOld> {
        let sealed = self.drained();
        if read < sealed { Err(TooOld { read, sealed }) } else { Ok(()) }
    }

    /// Whether anything is taken out of what is held here.
    #[must_use]
    pub fn takes_out_any(&self) -> bool {
        self.held.values().any(|held| held.stage > Stage::Marked && !held.listed.is_empty())
    }

    /// Whether anything is taken out of what is held under a key.
    #[must_use]
    pub fn takes_out(&self, stored: &Bytes) -> bool {
        self.held.values().any(|held| held.stage > Stage::Marked && held.listed.contains_key(stored))
    }

    /// Whether a round lists a key and has not dropped it: then nothing else drops it, either.
    #[must_use]
    pub fn lists(&self, stored: &Bytes) -> bool {
        self.held.values().any(|held| held.stage < Stage::Dropped && held.listed.contains_key(stored))
    }

    /// An object as it is taken in: without what is sealed or dropped. None where that is all the same.
    #[must_use]
    pub fn strip(&self, stored: &Bytes, object: &Object) -> Option<Object> {
        self.without(Stage::Sealed, stored, object)
    }

    /// An object as it is sent: without what is dropped. What is sealed alone goes along: who mends a damaged copy and has not
    /// sealed it yet has it from nowhere else, and who has does not take it. None where that is all the same.
    #[must_use]
    pub fn send(&self, stored: &Bytes, object: &Object) -> Option<Object> {
        self.without(Stage::Dropped, stored, object)
    }

    fn without(&self, from: Stage, stored: &Bytes, object: &Object) -> Option<Object> {
        let held = self.held.values().filter(|held| held.stage >= from);
        let gone: Vec<Dot> = held.filter_map(|held| held.listed.get(stored)).flatten().copied().collect();
        if gone.is_empty() { None } else { object.without(&gone) }
    }

    /// Marks a round: `agrees` tells whether exactly what is listed is held here, or nothing at all where this store owns
    /// no object of that bucket. Marking what is marked, or further, is no error.
    pub fn mark(
        &mut self,
        round: &Round,
        live: Option<u64>,
        mut agrees: impl FnMut(&Listed) -> bool,
    ) -> Result<(), NotMarked> {
        let id = round.id();
        if self.held.contains_key(&id) {
            return Ok(());
        }
        if live != Some(id.epoch.layout()) {
            return Err(NotMarked::OtherLayout(id.epoch.layout()));
        }
        if id.epoch <= self.epoch {
            return Err(NotMarked::Behind(self.epoch));
        }
        if self.held.len() >= HELD_MAX || round.listed().len() > LISTED_MAX {
            return Err(NotMarked::TooMany(self.held.len()));
        }
        let differs: Vec<Bytes> =
            round.listed().iter().filter(|listed| !agrees(listed)).map(|listed| listed.stored.clone()).collect();
        if !differs.is_empty() {
            return Err(NotMarked::Differs(differs));
        }
        let listed = round.listed().iter().map(|listed| (listed.stored.clone(), listed.dots.clone())).collect();
        self.epoch = id.epoch;
        self.held.insert(id, Held { stage: Stage::Marked, listed, after: round.after().to_vec() });
        Ok(())
    }

    /// From here on no hint is taken that was read under an earlier epoch. That none is held is for the caller to see to.
    pub fn drain(&mut self, epoch: Epoch) {
        self.drained = self.drained.max(epoch);
    }

    /// Seals a round that was marked here. On any driver's word that all owners have marked it and all hints are drained.
    pub fn seal(&mut self, id: RoundId) -> Result<(), NoSuchRound> {
        let held = self.held.get_mut(&id).ok_or(NoSuchRound)?;
        if held.stage == Stage::Marked {
            held.stage = Stage::Sealed;
            let after = std::mem::take(&mut held.after);
            self.sealed = self.sealed.max(id.epoch);
            self.held.retain(|other, held| held.stage != Stage::Dropped || !after.contains(other));
        }
        Ok(())
    }

    /// Drops a round that was sealed here: gives the deletions to be removed, in the batch that writes this book, from
    /// whatever holds them. On any driver's word that all owners have sealed it.
    pub fn drop_round(&mut self, id: RoundId) -> Result<&BTreeMap<Bytes, Vec<Dot>>, NoSuchRound> {
        let held = self.held.get_mut(&id).filter(|held| held.stage > Stage::Marked).ok_or(NoSuchRound)?;
        held.stage = Stage::Dropped;
        Ok(&held.listed)
    }

    /// Gives up every round that was marked and not sealed, for owners are about to change: none of them is ever dropped by
    /// anybody.
    pub fn abandon(&mut self) {
        self.held.retain(|_, held| held.stage > Stage::Marked);
    }

    /// A new tenure, from a layout on, of a partition that this store did not own: what it had marked or sealed in an earlier
    /// one was finished, or forgotten, without it. Of what others have sealed before it owes no mark.
    pub fn begin_anew(&mut self, layout: u64) {
        self.epoch = self.epoch.max(Epoch::of_layout(layout));
        self.held.retain(|_, held| held.stage == Stage::Dropped);
    }

    /// Forgets a round that some owner does not hold and cannot mark any more, or that a driver gave up before all had marked
    /// it: nobody has dropped it. What it sealed stays refused, and who did not hold it never marks it.
    /// Of a round that was given up (`given_up`) a driver says so that may be late: another one has taken it on since where it
    /// is sealed here, and it is kept.
    pub fn forget(&mut self, id: RoundId, given_up: bool) {
        self.epoch = self.epoch.max(id.epoch);
        let kept = if given_up { Stage::Sealed } else { Stage::Dropped };
        if self.held.get(&id).is_some_and(|held| held.stage < kept) {
            self.held.remove(&id);
        }
    }

    /// The keys that a round lists which is held here.
    pub fn listed(&self, id: RoundId) -> impl Iterator<Item = &Bytes> {
        self.held.get(&id).into_iter().flat_map(|held| held.listed.keys())
    }

    /// Whether a round waits to be dropped that is sealed here.
    #[must_use]
    pub fn is_sealing(&self) -> bool {
        self.held.values().any(|held| held.stage == Stage::Sealed)
    }

    /// Whether a round is marked here that is not sealed.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.held.values().any(|held| held.stage == Stage::Marked)
    }

    /// Whether anything that was dropped is still taken out of what arrives: until another round is sealed.
    #[must_use]
    pub fn still_takes_out(&self) -> bool {
        self.held.values().any(|held| held.stage == Stage::Dropped && !held.listed.is_empty())
    }

    /// What drivers ask.
    #[must_use]
    pub fn status(&self) -> Status {
        let (epoch, sealed) = (self.epoch, self.sealed);
        Status { epoch, sealed, rounds: self.held.iter().map(|(id, held)| (*id, held.stage)).collect() }
    }

    /// What a store that becomes an owner has to know before it takes what others read. It inherits no mark.
    pub fn lesson(&self) -> Result<Lesson, Unfinished> {
        let mut taught = self.clone();
        taught.held.retain(|_, held| held.stage > Stage::Marked);
        match taught.held.iter().find(|(_, held)| held.stage == Stage::Sealed) {
            Some((id, _)) => Err(Unfinished(*id)),
            None => Ok(Lesson(taught)),
        }
    }

    /// Learns it. From several owners, one after the other: the latest of all.
    pub fn learn(&mut self, Lesson(theirs): Lesson) {
        self.epoch = self.epoch.max(theirs.epoch);
        self.sealed = self.sealed.max(theirs.sealed);
        self.hear(theirs.heard, theirs.drained);
        for (id, held) in theirs.held {
            self.held.entry(id).or_insert(held);
        }
    }
}
