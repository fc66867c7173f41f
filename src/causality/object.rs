//! The object and THE merge rule.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Dot, RecentRequests, VersionVector};
use crate::types::{Stamp, Wall};

/// What one write stored: a value, or a tombstone (`value` is none).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Payload {
    /// The value; none for a delete.
    pub value: Option<Bytes>,
    /// The value's media type.
    pub content_type: Option<String>,
    /// The user's own metadata.
    pub meta: BTreeMap<String, String>,
    /// The coordinator's wall clock at the write. For display only.
    pub written_at: Wall,
    /// When it expires; none for never.
    pub expires_at: Option<Wall>,
}

impl Payload {
    /// Whether it is a delete.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// Whether it has expired by `now`.
    #[must_use]
    pub fn is_expired(&self, now: Wall) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// One write that nothing has superseded: its dot and what it stored.
///
/// `payloads` is a set (ascending, without repeats), united when two states hold the dot. It has one element: two mean
/// that two writes were given one dot, which is a bug elsewhere (counted, logged loudly) but loses nothing here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sibling {
    /// The write.
    pub dot: Dot,
    /// What it stored: never empty.
    pub payloads: Vec<Payload>,
}

impl Sibling {
    /// The sibling of one write.
    #[must_use]
    pub fn new(dot: Dot, payload: Payload) -> Self {
        Self { dot, payloads: vec![payload] }
    }

    /// Takes over the payloads of the same dot from another state. True if they were not the same.
    pub(super) fn unite(&mut self, twin: &Self) -> bool {
        if self.payloads == twin.payloads {
            return false;
        }
        self.payloads.extend_from_slice(&twin.payloads);
        self.payloads.sort();
        self.payloads.dedup();
        true
    }

    /// Whether all it holds is a delete.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.payloads.iter().all(Payload::is_tombstone)
    }

    /// Whether it reads as a live value at `now`: not a delete, not expired.
    #[must_use]
    pub fn is_live(&self, now: Wall) -> bool {
        self.payloads.iter().any(|payload| !payload.is_tombstone() && !payload.is_expired(now))
    }
}

/// The latest expiry of anything that an object's context ever covered; merged by maximum. Only past it may the object
/// be dropped without proof (semantics section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Horizon(pub u64);

impl Horizon {
    /// Nothing was ever covered.
    pub const NOTHING: Self = Self(0);
    /// Something covered never expires, or was not held by the coordinator that covered it.
    pub const INFINITE: Self = Self(u64::MAX);

    /// The horizon of one payload. A tombstone expires never: it leaves by the collection round.
    #[must_use]
    pub fn of(payload: &Payload) -> Self {
        payload.expires_at.map_or(Self::INFINITE, |at| Self(at.0))
    }

    /// Whether it lies behind every clock that is within `drift` of the one that says `now`: then the object may go, here
    /// and by itself (model: `tests/models/expiry.rs`).
    #[must_use]
    pub fn is_past(self, now: Wall, drift: Duration) -> bool {
        let drift = u64::try_from(drift.as_millis()).unwrap_or(u64::MAX);
        self != Self::NOTHING && self.0.saturating_add(drift) <= now.0 && self != Self::INFINITE
    }
}

/// The rules that every replica of a bucket merges by: the same on all nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MergeRules {
    /// Keep only the sibling with the greatest (stamp, actor).
    pub last_write_wins: bool,
    /// How long, by an object's own stamps, it remembers request ids.
    pub idempotency_window: Duration,
}

impl Default for MergeRules {
    fn default() -> Self {
        Self { last_write_wins: false, idempotency_window: Duration::from_secs(600) }
    }
}

/// What a merge did to the state it was merged into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Merged {
    /// The state is another one now.
    pub changed: bool,
    /// Dots that came with two different payloads. More than zero is a bug elsewhere.
    pub clashes: usize,
}

/// What is stored under a bucket and key: a dotted causal container.
///
/// Invariants, held by every function here: siblings are sorted by dot, no two share a dot, the context covers each.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Object {
    pub(super) context: VersionVector,
    pub(super) siblings: Vec<Sibling>,
    pub(super) horizon: Horizon,
    pub(super) recent: RecentRequests,
}

impl Object {
    /// The object nobody has written: covers nothing, holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            context: VersionVector::new(),
            siblings: Vec::new(),
            horizon: Horizon::NOTHING,
            recent: RecentRequests::new(),
        }
    }

    /// All that this state has seen.
    #[must_use]
    pub const fn context(&self) -> &VersionVector {
        &self.context
    }

    /// The writes nothing has superseded, tombstones included, by dot.
    #[must_use]
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// See [`Horizon`].
    #[must_use]
    pub const fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// The recent writes that carried an Idempotency-Key.
    #[must_use]
    pub const fn recent(&self) -> &RecentRequests {
        &self.recent
    }

    /// Whether this is [`Object::new`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.context.is_empty() && self.siblings.is_empty()
    }

    /// Whether something reads as a live value at `now`.
    #[must_use]
    pub fn is_live(&self, now: Wall) -> bool {
        self.siblings.iter().any(|sibling| sibling.is_live(now))
    }

    /// The greatest stamp this state has seen.
    #[must_use]
    pub fn greatest_stamp(&self) -> Option<Stamp> {
        self.context.greatest_stamp()
    }

    /// Where exactly one value or tombstone is held, the context that a reader of it alone may be given (HEAD,
    /// `resolve=latest`): beside a sibling that was not shown there is none.
    #[must_use]
    pub fn context_of_only(&self) -> Option<&VersionVector> {
        matches!(self.siblings(), [only] if only.payloads.len() == 1).then_some(&self.context)
    }

    /// This without the values that have expired by every clock within `drift` of the one that says `now`, as a write leaves
    /// it that supersedes them: context and horizon stay. None where none has. For the base of a mint alone: an object that
    /// nobody writes keeps them.
    #[must_use]
    pub fn without_expired(&self, now: Wall, drift: Duration) -> Option<Self> {
        let gone = |payload: &Payload| {
            !payload.is_tombstone() && payload.expires_at.is_some_and(|at| Horizon(at.0).is_past(now, drift))
        };
        let gone = |sibling: &Sibling| sibling.payloads.iter().all(gone);
        self.siblings.iter().any(gone).then(|| {
            let mut left = self.clone();
            left.siblings.retain(|sibling| !gone(sibling));
            left
        })
    }

    /// This without the siblings of these dots; without any sibling it is [`Object::new`], and covers nothing: only where
    /// every owner is known to be past what it covered (`collect`). None where it has none of them.
    #[must_use]
    pub fn without(&self, gone: &[Dot]) -> Option<Self> {
        let goes = |sibling: &Sibling| gone.contains(&sibling.dot);
        self.siblings.iter().any(goes).then(|| {
            let mut left = self.clone();
            left.siblings.retain(|sibling| !goes(sibling));
            if left.siblings.is_empty() { Self::new() } else { left }
        })
    }

    /// Merges `other` into this state. I-ACK, I-CONCUR and I-CONVERGE rest on this function.
    pub fn merge(&mut self, other: &Self, rules: &MergeRules) -> Merged {
        if self == other {
            return Merged::default();
        }
        let (merged, clashes) = self.merged(other, rules);
        let changed = merged != *self;
        *self = merged;
        Merged { changed, clashes }
    }

    fn merged(&self, other: &Self, rules: &MergeRules) -> (Self, usize) {
        let mut clashes = 0;
        let mut siblings = Vec::with_capacity(self.siblings.len().max(other.siblings.len()));
        let (mut mine, mut theirs) = (self.siblings.iter().peekable(), other.siblings.iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.dot.cmp(&b.dot),
            };
            match order {
                Ordering::Less => siblings.extend(mine.next().filter(|only| !other.context.covers(only.dot)).cloned()),
                Ordering::Greater => {
                    siblings.extend(theirs.next().filter(|only| !self.context.covers(only.dot)).cloned());
                }
                Ordering::Equal => {
                    let (both, twin) = (mine.next().cloned(), theirs.next());
                    siblings.extend(both.zip(twin).map(|(mut both, twin)| {
                        clashes += usize::from(both.unite(twin));
                        both
                    }));
                }
            }
        }
        let mut merged = Self {
            context: self.context.clone(),
            siblings,
            horizon: self.horizon.max(other.horizon),
            recent: self.recent.clone(),
        };
        merged.context.join(&other.context);
        merged.recent.join(&other.recent);
        merged.settle(rules);
        (merged, clashes)
    }

    /// What every state obeys after it changed: the bucket's mode, and the bound on recent request ids.
    pub(super) fn settle(&mut self, rules: &MergeRules) {
        if rules.last_write_wins && self.siblings.len() > 1 {
            let last = self.siblings.iter().map(|s| (s.dot.stamp, s.dot.actor)).max();
            self.siblings.retain(|s| Some((s.dot.stamp, s.dot.actor)) == last);
        }
        if let Some(greatest) = self.greatest_stamp() {
            self.recent.cut(greatest, rules.idempotency_window);
        }
    }
}
