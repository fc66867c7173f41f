//! The rules that are taken out, one at a time, to see that the model misses them.

/// A rule taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bug {
    /// One owner's mark stands for all: the others are only said to hold the same.
    Gossip,
    /// An owner marks a round whatever it holds.
    Unchecked,
    /// Steps are answered before they are flushed.
    Unflushed,
    /// A mark does not raise the epoch.
    SameEpoch,
    /// Another round's mark under the same number counts.
    SharedEpoch,
    /// An owner forgets a round when it marks the next.
    Replaced,
    /// A driver leaves rounds alone that another began and all owners marked.
    LeavesForeign,
    /// Nobody asks who holds hints.
    NoDrain,
    /// Hints that were read under an older epoch are taken after the drain.
    TakesAfterDrain,
    /// Owners take what was read under an older epoch than the sealed one.
    NoRefusal,
    /// ... where it is what they merged themselves, for their own store.
    OwnStore,
    /// An owner drops before all have sealed.
    DropsEarly,
    /// A state is sent under the epoch of when it is sent.
    WhenSent,
    /// A merge is as new as the newest of what was merged.
    GreatestEpoch,
    /// A read counts what was read before another owner sealed.
    CountsAcross,
    /// Stamps begin where the clock is, below what was collected.
    NoFloor,
    /// What was dropped is taken in again at once.
    NoStrip,
    /// ... from the next seal on, of whatever round.
    StripUntilAnySeal,
    /// After a seal the tombstones of the round are sent no more.
    HidesSealed,
    /// An owner whose copy is damaged seals.
    SealsDamaged,
    /// A store that replaces another begins with no epoch.
    NoEpochLearnt,
    /// ... with the epoch, and does not know what is sealed.
    NoSealLearnt,
    /// ... with the marks of the others, and their rounds go on.
    MarksInherited,
    /// Epochs are counted on after a change of layouts: what a lost owner had said is not known.
    EpochReused,
    /// An owner that has sealed a round abandons it, too.
    AbandonsSealed,
    /// ... who has sealed a round that was abandoned keeps it.
    KeepsAbandoned,
    /// The owners are replaced while a round is sealed by some.
    ReplacedWhileSealed,
    /// An owner whose directory went back goes on with what lies there.
    GoesOnBehind,
    /// ... learns what is sealed, and keeps what lies there.
    LearnsBehind,
    /// An owner marks rounds before it knows whether its directory went back.
    MarksUnheard,
    /// Who holds hints goes on where its directory went back: it takes what it promised to refuse.
    HolderGoesOn,
}
