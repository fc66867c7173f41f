//! Minting: how a write becomes a dot (I-MINT, I-CONCUR).
//!
//! An actor mints for a key only on top of a state that holds, has superseded, has collected by proof or dropped past
//! its horizon, every dot it ever minted for that key; where that is not certain the node mints as a new actor. Who the
//! actor is, `actor` tells; this file turns (state, write, actor, clock) into the next state, and says what of it the
//! writer may be given back: a context names only what its holder was shown.

use std::time::Duration;

use thiserror::Error;

use super::object::MergeRules;
use super::{Dot, Fingerprint, Horizon, Object, Payload, Recent, RequestId, Sibling, VersionVector};
use crate::types::{ActorId, Stamp, Wall};

/// A hybrid logical clock: at least the wall clock, strictly increasing. It never adopts a remote stamp, so another
/// node's wrong clock hurts single keys, not this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeClock {
    last: Stamp,
}

impl NodeClock {
    /// A clock whose every reading is greater than `leased`: the high-water mark of the life before.
    #[must_use]
    pub const fn starting_after(leased: Stamp) -> Self {
        Self { last: leased }
    }

    /// The next reading. Counting past the logical bits carries into the milliseconds.
    pub fn next(&mut self, wall: Wall) -> Stamp {
        self.last = self.last.next().max(Stamp::at(wall));
        self.last
    }

    /// The latest reading.
    #[must_use]
    pub const fn last(&self) -> Stamp {
        self.last
    }
}

/// How far ahead the clock may run before the next flush: no reading beyond `until` is used until a later mark has been
/// flushed, so that a restart knows where to go on, whatever the wall clock did meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The mark that has been flushed: readings up to and including it may be used.
    pub until: Stamp,
}

impl Lease {
    /// How far ahead of the wall clock a mark is flushed.
    pub const AHEAD: Duration = Duration::from_secs(10);

    /// Whether this reading may be used.
    #[must_use]
    pub fn covers(self, reading: Stamp) -> bool {
        reading <= self.until
    }

    /// The mark to flush next, given the clock's last reading and the wall clock.
    #[must_use]
    pub fn next_mark(last: Stamp, wall: Wall) -> Stamp {
        Stamp::at(last.wall().max(wall) + Self::AHEAD)
    }

    /// Whether it is time to flush the next mark, while half of this one is still left.
    #[must_use]
    pub fn is_short(self, last: Stamp, wall: Wall) -> bool {
        Stamp::at(last.wall().max(wall) + Self::AHEAD / 2) > self.until
    }
}

/// What a write supersedes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Supersedes {
    /// Exactly what this context covers: what the client was shown.
    Covered(VersionVector),
    /// The tombstones that the coordinator sees, never a value: a blind PUT.
    Tombstones,
    /// All that the coordinator sees: a DELETE without context, or a PUT under `blind_writes = overwrite`.
    Seen,
}

/// What a bucket does with a PUT that carries no context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BlindWrites {
    /// It becomes a sibling of the values it was not shown.
    #[default]
    Sibling,
    /// It is refused (428), a DELETE as well.
    Reject,
    /// It supersedes what the coordinator sees.
    Overwrite,
}

/// The bucket takes no write without a context.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("this bucket takes no write without a context: read first, then send the context with the write")]
pub struct ContextRequired;

impl Supersedes {
    /// What a PUT supersedes. An empty context (a 404's) is a context: it supersedes nothing, and is not blind.
    pub fn by_put(context: Option<VersionVector>, blind: BlindWrites) -> Result<Self, ContextRequired> {
        match (context, blind) {
            (Some(context), _) => Ok(Self::Covered(context)),
            (None, BlindWrites::Sibling) => Ok(Self::Tombstones),
            (None, BlindWrites::Reject) => Err(ContextRequired),
            (None, BlindWrites::Overwrite) => Ok(Self::Seen),
        }
    }

    /// What a DELETE supersedes: without a context all that the coordinator sees.
    pub fn by_delete(context: Option<VersionVector>, blind: BlindWrites) -> Result<Self, ContextRequired> {
        match (context, blind) {
            (Some(context), _) => Ok(Self::Covered(context)),
            (None, BlindWrites::Reject) => Err(ContextRequired),
            (None, BlindWrites::Sibling | BlindWrites::Overwrite) => Ok(Self::Seen),
        }
    }
}

/// A client's write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// What to store.
    pub payload: Payload,
    /// What it supersedes.
    pub supersedes: Supersedes,
    /// The request, where it carried an Idempotency-Key.
    pub request: Option<(RequestId, Fingerprint)>,
}

/// The outcome of [`write()`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Minted {
    /// The whole resulting object: what is stored here and sent to the other owners.
    pub object: Object,
    /// The dot of the new sibling.
    pub dot: Dot,
}

impl Minted {
    /// The context for the writer, if it may have one: where its write is all that the object holds, or where the answer
    /// shows it the whole object (`return=body`). Else it would name siblings that its holder was never shown.
    #[must_use]
    pub fn context(&self, return_body: bool) -> Option<&VersionVector> {
        (return_body || self.object.is_alone(self.dot)).then_some(self.object.context())
    }
}

impl Object {
    /// Whether the sibling of `dot` is all that this object holds. Only then may a write's answer carry the object's
    /// context: a context names only what its holder was shown (model: three steps, no fault, acknowledged value gone).
    #[must_use]
    pub fn is_alone(&self, dot: Dot) -> bool {
        matches!(self.siblings(), [only] if only.dot == dot && only.payloads.len() == 1)
    }
}

/// Writes on top of `local`: drops what the write supersedes, mints a dot for `actor`, adds the new sibling.
///
/// `reading` is a fresh reading of the node's clock, `floor` the partition's collected floor. The dot's stamp is above
/// both and above every stamp in `local` and in the client's context. A client's context that covers what `local` does
/// not makes the horizon infinite: when that expires is not known here.
#[must_use]
pub fn write(local: &Object, write: Write, actor: ActorId, reading: Stamp, floor: Stamp, rules: &MergeRules) -> Minted {
    let mut object = local.clone();
    match &write.supersedes {
        Supersedes::Covered(context) => {
            object.siblings.retain(|sibling| !context.covers(sibling.dot));
            if !object.context.covers_all(context) {
                object.horizon = Horizon::INFINITE;
                object.context.join(context);
            }
        }
        Supersedes::Tombstones => object.siblings.retain(|sibling| !sibling.is_tombstone()),
        Supersedes::Seen => object.siblings.clear(),
    }
    let seen = object.context.greatest_stamp().unwrap_or_default();
    let dot = Dot::new(actor, reading.max(seen.next()).max(floor.next()));
    object.context.add(dot);
    object.horizon = object.horizon.max(Horizon::of(&write.payload));
    let sibling = Sibling::new(dot, write.payload);
    let at = object.siblings.partition_point(|other| other.dot < dot);
    object.siblings.insert(at, sibling);
    if let Some((id, fingerprint)) = write.request {
        object.recent.add(Recent { dot, id, fingerprint });
    }
    object.settle(rules);
    Minted { object, dot }
}
