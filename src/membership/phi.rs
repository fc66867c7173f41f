//! Is it down? The phi accrual failure detector, over direct heartbeats.
//!
//! Phi is how unlikely it is that a node that lives has been silent for so long, as a power of ten: at 8, one such
//! silence in a hundred million would be a mistake. How likely a silence is, is learnt from the intervals between the
//! node's own heartbeats, so a slow link is given longer than a fast one, within bounds.
//!
//! Two rules are about this node, not the other one. A stall of its own (a paused process, a busy runtime) looks like
//! everybody's silence; so after one it judges nobody until all have had as long as ever to be heard. And no interval
//! that spans a stall, or an outage, is learnt from: it says nothing of the link.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::types::{Mono, StoreId};

/// How to judge.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PhiRules {
    /// Phi from which on a node is down.
    pub threshold: f64,
    /// How often a heartbeat is sent: what is expected while nothing is learnt yet.
    pub every: Duration,
    /// The deviation is never taken for less: a link that was quiet for a minute may still lose two frames in a row.
    pub least_deviation: Duration,
    /// An interval is never taken for more: a node that gets slower and slower is down at some time.
    pub longest: Duration,
    /// Intervals remembered.
    pub window: usize,
    /// A detector that is not asked for longer than this was stalled with its node.
    pub stall: Duration,
}

impl Default for PhiRules {
    /// A regular peer is down 1.3 s after its last heartbeat; the most irregular one within 4 s.
    fn default() -> Self {
        Self {
            threshold: 8.0,
            every: Duration::from_millis(250),
            least_deviation: Duration::from_millis(200),
            longest: Duration::from_secs(1),
            window: 128,
            stall: Duration::from_millis(500),
        }
    }
}

/// What is thought of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opinion {
    /// Nothing yet: not heard, and not waited for long enough.
    Unheard,
    /// Up.
    Up,
    /// Down, until it is heard.
    Down,
}

#[derive(Clone, Debug)]
struct Watched {
    opinion: Opinion,
    /// When it was last heard; before that, when watching began.
    last: Mono,
    /// Seconds.
    intervals: VecDeque<f64>,
}

impl Watched {
    /// Phi after this much silence.
    fn phi(&self, rules: &PhiRules, silence: Duration) -> f64 {
        // Two beats that were never heard: a mean to begin with, which soon weighs nothing.
        let every = rules.every.as_secs_f64();
        let count = self.intervals.len() as f64 + 2.0;
        let mean = (self.intervals.iter().sum::<f64>() + 2.0 * every) / count;
        let squares: f64 = self.intervals.iter().map(|interval| (interval - mean).powi(2)).sum();
        let deviation = ((squares + 2.0 * (every - mean).powi(2)) / count).sqrt();
        let y = (silence.as_secs_f64() - mean) / deviation.max(rules.least_deviation.as_secs_f64());
        // The normal distribution's tail, to within 1 %: 1 / (1 + e^x).
        let x = y * (1.5976 + 0.070_566 * y * y);
        // Past 40 the 1 is lost to rounding; the logarithm of what is left is x itself, however large.
        (if x > 40.0 { x } else { x.exp().ln_1p() }) / std::f64::consts::LN_10
    }
}

/// One node's opinion of others. Tell it of heartbeats and broken connections as they come, and have it judge about as
/// often as heartbeats are due.
#[derive(Clone, Debug)]
pub struct FailureDetector {
    rules: PhiRules,
    peers: BTreeMap<StoreId, Watched>,
    /// When it was last told or asked anything.
    observed: Option<Mono>,
    /// When the last stall ended.
    resumed: Option<Mono>,
}

impl FailureDetector {
    /// Watches nobody yet.
    #[must_use]
    pub const fn new(rules: PhiRules) -> Self {
        Self { rules, peers: BTreeMap::new(), observed: None, resumed: None }
    }

    /// Begins to watch a peer; nothing changes if it is watched.
    pub fn watch(&mut self, peer: StoreId, now: Mono) {
        self.observe(now);
        let fresh = || Watched { opinion: Opinion::Unheard, last: now, intervals: VecDeque::new() };
        self.peers.entry(peer).or_insert_with(fresh);
    }

    /// Watches a peer no longer.
    pub fn forget(&mut self, peer: StoreId) {
        self.peers.remove(&peer);
    }

    /// A peer was heard directly. True if it was not up before.
    pub fn heartbeat(&mut self, peer: StoreId, now: Mono) -> bool {
        self.observe(now);
        // What arrives while this node catches up was sent at other times.
        let learns_from = self.resumed.map(|resumed| resumed + self.rules.longest);
        let Some(watched) = self.peers.get_mut(&peer) else { return false };
        let before = watched.opinion;
        if before == Opinion::Up && learns_from.is_none_or(|from| watched.last >= from) {
            let interval = now.since(watched.last).min(self.rules.longest);
            if watched.intervals.len() >= self.rules.window {
                watched.intervals.pop_front();
            }
            watched.intervals.push_back(interval.as_secs_f64());
        }
        watched.last = watched.last.max(now);
        watched.opinion = Opinion::Up;
        before != Opinion::Up
    }

    /// A connection to a peer was refused or reset: it is down at once, until it is heard. True if it was not before.
    pub fn broke(&mut self, peer: StoreId) -> bool {
        let Some(watched) = self.peers.get_mut(&peer) else { return false };
        std::mem::replace(&mut watched.opinion, Opinion::Down) != Opinion::Down
    }

    /// Judges everybody; gives who is down now and was not before. Nobody, if this node itself was away.
    pub fn judge(&mut self, now: Mono) -> Vec<StoreId> {
        self.observe(now);
        let mut fallen = Vec::new();
        for (peer, watched) in &mut self.peers {
            let silence = now.since(watched.last.max(self.resumed.unwrap_or_default()));
            if watched.opinion != Opinion::Down && watched.phi(&self.rules, silence) >= self.rules.threshold {
                watched.opinion = Opinion::Down;
                fallen.push(*peer);
            }
        }
        fallen
    }

    /// What is thought of a peer; nothing of one that is not watched.
    #[must_use]
    pub fn opinion(&self, peer: StoreId) -> Opinion {
        self.peers.get(&peer).map_or(Opinion::Unheard, |watched| watched.opinion)
    }

    /// Phi of a peer, to look at.
    #[must_use]
    pub fn phi(&self, peer: StoreId, now: Mono) -> Option<f64> {
        let silence = |watched: &Watched| now.since(watched.last.max(self.resumed.unwrap_or_default()));
        self.peers.get(&peer).map(|watched| watched.phi(&self.rules, silence(watched)))
    }

    fn observe(&mut self, now: Mono) {
        if self.observed.is_some_and(|before| now.since(before) > self.rules.stall) {
            self.resumed = Some(now);
        }
        self.observed = self.observed.max(Some(now));
    }
}
