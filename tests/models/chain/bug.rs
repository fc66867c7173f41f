//! The rules that are taken out, one at a time, to see that the model misses them.

/// A rule taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bug {
    /// W is counted in the newest layout alone.
    IgnoresLiveLayout,
    /// Owners that are not synced yet are left out of what W is counted of.
    ForgetsPendingOwner,
    /// An acknowledgement of whoever owned it in some live layout counts in all.
    CountsExOwner,
    /// Every layout is counted with the oldest one's n.
    WrongN,
    /// An acknowledgement counts in layouts that were not live, or not named, when it was given.
    CountsLaterLayout,
    /// A source is read before it has acked.
    StreamsBeforeAck,
    /// A node acks while its writes are in flight on older layouts.
    AcksBeforeDrain,
    /// One source is enough.
    OneSource,
    /// An owner in both layouts keeps what it has, though there are fewer owners now.
    KeepsThoughFewer,
    /// Who is synced to v is taken to be synced to all before, an aborted one included.
    SyncedIsMaximum,
    /// A tracker is told before it is flushed.
    TellsBeforeFlush,
    /// Reads are served below what was sync_acked.
    ServesOlderReads,
    /// Layouts are dropped once all are synced, without waiting for their sync_ack.
    DropsEarly,
    /// A request whose sender does not know the newest layout is served.
    ServesTheIgnorant,
    /// Who is given a partition deletes what it has, though it owns it in another live layout.
    DeletesThoughOwner,
    /// Ex-owners delete while a layout in which they own is live.
    DeletesWhileLive,
    /// A disk that was lost goes on under its store id.
    WipedVotes,
    /// A skip is judged by the last complete layout's owners alone.
    SkipsByOldOwners,
    /// ... and acceptors do not keep their word.
    BreaksPledge,
    /// What was returned by a read was not written back.
    NoWriteBack,
    /// A node sync_acks one layout after the other, an aborted one included.
    SyncAcksInOrder,
}
