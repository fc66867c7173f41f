//! What the model's nodes, its one write and its one read are like. Small and flat: there are millions of them.

/// Nodes there can be.
pub(super) const NODES: usize = 5;
/// No node.
pub(super) const NOBODY: u8 = u8::MAX;

/// A set of versions or of nodes.
pub(super) type Set = u8;

pub(super) fn has(set: Set, at: usize) -> bool {
    set & 1 << at != 0
}

pub(super) fn those(set: Set) -> impl Iterator<Item = usize> {
    (0..8).filter(move |at| has(set, *at))
}

/// A tracker in three bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) struct Track {
    pub(super) ack: u8,
    pub(super) synced: Set,
    pub(super) sync_ack: u8,
}

/// What a node holds of the one write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// A crash takes it.
    Unflushed,
    Flushed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Node {
    pub(super) dead: bool,
    /// The newest layout it knows; 0: none yet.
    pub(super) head: u8,
    /// The oldest that is live for it.
    pub(super) base: u8,
    /// Its tracker as it knows it, as the others do, and as its disk has it. The same, while the rules hold.
    pub(super) own: Track,
    pub(super) told: Track,
    pub(super) disk: Track,
    /// The newest successor it accepted while it had not sync_acked all before.
    pub(super) pledged: u8,
    pub(super) held: Held,
    /// Per source: the newest layout the source had acked when it was merged.
    pub(super) merged: [u8; NODES],
    /// A write judged, not yet committed: the layouts its acknowledgement counts in, and the newest then known.
    pub(super) queued: Set,
    pub(super) queued_on: u8,
    /// Whether that is a write whose coordinator still counts.
    pub(super) queued_counts: bool,
}

impl Node {
    /// Orders two nodes that are alike; what they know of each other is left out.
    pub(super) fn sort_key(&self, me: usize) -> impl Ord {
        let own = self.merged[me];
        let Self { dead, head, base, own: track, pledged, held, merged, queued, queued_on, .. } = *self;
        let sum: u16 = merged.iter().map(|acked| u16::from(*acked)).sum();
        (dead, head, base, track, pledged, held, queued, queued_on, sum, own)
    }
}

impl State {
    /// Lets two nodes change their names.
    pub(super) fn swap(&mut self, a: usize, b: usize) {
        self.nodes.swap(a, b);
        self.nodes.iter_mut().for_each(|node| node.merged.swap(a, b));
        self.op.acks.swap(a, b);
        self.op.coordinator = match usize::from(self.op.coordinator) {
            node if node == a => b as u8,
            node if node == b => a as u8,
            _ => self.op.coordinator,
        };
        let (had_a, had_b) = (self.read.without >> a & 1, self.read.without >> b & 1);
        self.read.without = self.read.without & !(1 << a | 1 << b) | had_a << b | had_b << a;
    }
}

/// A write that its coordinator has not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Op {
    /// The coordinator; [`NOBODY`]: none is under way.
    pub(super) coordinator: u8,
    /// The live layouts it is counted in: from ... to.
    pub(super) base: u8,
    pub(super) head: u8,
    /// Per node: the layouts its acknowledgements count in.
    pub(super) acks: [Set; NODES],
}

pub(super) const NO_OP: Op = Op { coordinator: NOBODY, base: 0, head: 0, acks: [0; NODES] };

/// A read of which some replica has said "not found".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Read {
    /// The newest layout its coordinator knew, and the one it is counted in; 0: none is under way.
    pub(super) head: u8,
    pub(super) layout: u8,
    /// Who said so.
    pub(super) without: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    pub(super) nodes: [Node; NODES],
    /// Layouts decided so far.
    pub(super) decided: u8,
    /// The write was begun; it was acknowledged, or returned by a read.
    pub(super) begun: bool,
    pub(super) acknowledged: bool,
    pub(super) op: Op,
    pub(super) read: Read,
    /// A read missed it.
    pub(super) stale: bool,
    pub(super) crashes: u8,
    pub(super) deaths: u8,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    /// The next layout is decided; these accept it.
    Decide {
        acceptors: Set,
    },
    Learn {
        node: usize,
        version: u8,
    },
    Merge {
        node: usize,
        from: usize,
    },
    SyncAck {
        node: usize,
    },
    Drop {
        node: usize,
    },
    Delete {
        node: usize,
    },
    Write {
        node: usize,
    },
    /// A read has found what was never acknowledged: it is written back before it is returned.
    WriteBack {
        node: usize,
    },
    Deliver {
        to: usize,
    },
    Commit {
        node: usize,
    },
    /// The coordinator goes on, same dot, with the layouts it knows now.
    AskAgain,
    Answer,
    GiveUp,
    /// A node's coordinator reads in a layout, and a replica answers "not found".
    Read {
        coordinator: usize,
        layout: u8,
        from: usize,
    },
    ReadOn {
        from: usize,
    },
    Crash {
        node: usize,
    },
    Die {
        node: usize,
    },
    /// Where trackers are told before they are flushed: a late flush.
    Flush {
        node: usize,
    },
}
