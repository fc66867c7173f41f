//! One page of a list as a state machine: what was said in, whom to ask and at last the page out.

use bytes::Bytes;

use super::cover::{Cover, Gap};
use super::merge::{Merge, Next};
use crate::quorum::NoVote;
use crate::types::{PartitionId, StoreId};

/// Answers of one stream in a row that bring nothing: then another store is asked.
const STALLS: u32 = 2;
/// The fewest bytes of an answer: one that is asked for less is all overhead.
const ANSWER_LEAST: usize = 64 << 10;

/// What a list goes by that is none of its business.
pub trait Keys {
    /// What a store says of a key.
    type Said;
    /// Where a key lies.
    fn partition_of(&self, key: &Bytes) -> PartitionId;
    /// What all that answered for a key say of it together; none: there is nothing to show.
    fn join(&self, key: &Bytes, said: Vec<Self::Said>) -> Option<Self::Said>;
    /// How much of a page this takes.
    fn bytes(&self, key: &Bytes, said: &Self::Said) -> usize;
}

/// A question to one store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asking {
    /// Names the question: answers come with it.
    pub stream: usize,
    /// Whom to ask.
    pub store: StoreId,
    /// For which partitions.
    pub partitions: Vec<PartitionId>,
    /// For the keys behind this one; empty: from the first on.
    pub after: Bytes,
    /// For about so many keys.
    pub keys: usize,
    /// For about so many bytes.
    pub bytes: usize,
}

/// What a store answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<T> {
    /// The keys behind the one that was named, in order.
    pub keys: Vec<(Bytes, T)>,
    /// Up to this key, itself included, they are all there are; none: to the end.
    pub whole: Option<Bytes>,
    /// The partitions that it cannot answer for: none of their keys is among these.
    pub unable: Vec<(PartitionId, NoVote)>,
}

/// A page: all keys behind where it begins and up to `upto`, but for those of the gaps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListPage<T> {
    /// The keys, in order.
    pub keys: Vec<(Bytes, T)>,
    /// Where the next page goes on: behind this key. None: there are no more.
    pub upto: Option<Bytes>,
    /// The partitions that too few could answer for: none of their keys is on the page.
    pub gaps: Vec<Gap>,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListStep<T> {
    /// Ask these, beside those that were asked before.
    Ask(Vec<Asking>),
    /// Wait for an answer, or for the deadline.
    Wait,
    /// Here it is.
    Done(ListPage<T>),
}

#[derive(Debug)]
struct Asked {
    store: StoreId,
    partitions: Vec<PartitionId>,
    in_flight: bool,
    stalls: u32,
}

/// How much of a list is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The keys behind this one; empty: from the first on.
    pub after: Bytes,
    /// At most so many keys.
    pub keys: usize,
    /// No more keys once there are so many bytes.
    pub bytes: usize,
}

/// Makes one page.
#[derive(Debug)]
pub struct ListCore<K: Keys> {
    rules: K,
    wanted: Wanted,
    cover: Cover,
    partitions: usize,
    merge: Merge<K::Said>,
    streams: Vec<Asked>,
    /// Partitions that nobody is asked for yet, and behind which key.
    open: Vec<(Bytes, Vec<PartitionId>)>,
    keys: Vec<(Bytes, K::Said)>,
    bytes: usize,
    /// The last key that was gone through.
    at: Bytes,
    is_late: bool,
}

impl<K: Keys> ListCore<K> {
    /// Begins a page of what lies in the partitions of `cover`: `partitions` of them.
    #[must_use]
    pub fn new(rules: K, wanted: Wanted, cover: Cover, partitions: u32) -> Self {
        let all = (0..partitions).map(PartitionId).collect();
        Self {
            rules,
            cover,
            partitions: all_of(partitions),
            merge: Merge::default(),
            streams: Vec::new(),
            open: vec![(wanted.after.clone(), all)],
            keys: Vec::new(),
            bytes: 0,
            at: wanted.after.clone(),
            wanted,
            is_late: false,
        }
    }

    /// Goes as far as it can. `up` and `rank`: see [`Cover::assign`].
    pub fn step<R: Ord>(&mut self, up: impl Fn(StoreId) -> bool, rank: impl Fn(StoreId) -> R) -> ListStep<K::Said> {
        loop {
            for (after, partitions) in std::mem::take(&mut self.open) {
                let is_late = self.is_late;
                for (store, mut partitions) in self.cover.assign(&partitions, |store| !is_late && up(store), &rank) {
                    partitions.sort_unstable();
                    self.merge.open(after.clone());
                    self.streams.push(Asked { store, partitions, in_flight: false, stalls: 0 });
                }
            }
            if self.keys.len() >= self.wanted.keys || self.bytes >= self.wanted.bytes {
                return ListStep::Done(self.page(Some(self.at.clone())));
            }
            match self.merge.advance() {
                Next::Done => return ListStep::Done(self.page(None)),
                Next::Key(key, said) => self.take(key, said),
                Next::Wants(streams) if self.is_late => {
                    let reached = self.merge.reached().cloned().unwrap_or_default();
                    if reached > self.wanted.after {
                        return ListStep::Done(self.page(Some(reached)));
                    }
                    // Those who have said nothing yet hold up the whole page.
                    for stream in streams {
                        if self.merge.whole_to(stream) == Some(&reached) {
                            self.failed(stream, NoVote::TimedOut);
                        }
                    }
                }
                Next::Wants(streams) => {
                    let idle: Vec<usize> = streams.into_iter().filter(|at| !self.streams[*at].in_flight).collect();
                    if idle.is_empty() {
                        return ListStep::Wait;
                    }
                    return ListStep::Ask(idle.into_iter().map(|at| self.ask(at)).collect());
                }
            }
        }
    }

    fn take(&mut self, key: Bytes, said: Vec<(usize, K::Said)>) {
        self.at = key.clone();
        if self.cover.is_gap(self.rules.partition_of(&key)) {
            return;
        }
        if let Some(joined) = self.rules.join(&key, said.into_iter().map(|(_, said)| said).collect()) {
            self.bytes += self.rules.bytes(&key, &joined);
            self.keys.push((key, joined));
        }
    }

    /// Of what is left as much as lies, by and large, in the stream's partitions, and some more: another round trip costs
    /// more than a few keys that are not needed.
    fn ask(&mut self, at: usize) -> Asking {
        let stream = &mut self.streams[at];
        stream.in_flight = true;
        let (keys, bytes) = (self.wanted.keys - self.keys.len(), self.wanted.bytes - self.bytes);
        let share = |of: usize| of.saturating_mul(stream.partitions.len()) / self.partitions;
        let likely = share(keys);
        Asking {
            stream: at,
            store: stream.store,
            partitions: stream.partitions.clone(),
            after: self.merge.whole_to(at).cloned().unwrap_or_default(),
            keys: keys.min(likely + 3 * likely.isqrt() + 8),
            bytes: bytes.min(share(bytes).saturating_mul(2).max(ANSWER_LEAST)),
        }
    }

    /// A store has answered.
    pub fn on_answer(&mut self, stream: usize, answer: Answer<K::Said>) {
        self.streams[stream].in_flight = false;
        let Some(before) = self.merge.whole_to(stream).cloned() else { return };
        let Answer { mut keys, whole, unable } = answer;
        let store = self.streams[stream].store;
        let mut left = Vec::new();
        for (partition, why) in unable {
            if let Ok(at) = self.streams[stream].partitions.binary_search(&partition) {
                self.streams[stream].partitions.remove(at);
                self.cover.fail(partition, store, why);
                left.push(partition);
            }
        }
        if !left.is_empty() {
            self.open.push((before.clone(), left));
        }
        if self.streams[stream].partitions.is_empty() {
            return self.merge.close(stream);
        }
        keys.retain(|(key, _)| self.streams[stream].partitions.binary_search(&self.rules.partition_of(key)).is_ok());
        let moved = whole.as_ref().is_none_or(|whole| *whole > before);
        if !self.merge.feed(stream, keys, whole) {
            return self.failed(stream, NoVote::Failed);
        }
        self.streams[stream].stalls = if moved { 0 } else { self.streams[stream].stalls + 1 };
        if self.streams[stream].stalls >= STALLS {
            self.failed(stream, NoVote::TimedOut);
        }
    }

    /// A store has not answered.
    pub fn on_failed(&mut self, stream: usize, why: NoVote) {
        self.streams[stream].in_flight = false;
        self.failed(stream, why);
    }

    fn failed(&mut self, stream: usize, why: NoVote) {
        let Some(before) = self.merge.whole_to(stream).cloned() else { return };
        self.merge.close(stream);
        let Asked { store, partitions, .. } = &mut self.streams[stream];
        let partitions = std::mem::take(partitions);
        partitions.iter().for_each(|partition| self.cover.fail(*partition, *store, why));
        self.open.push((before, partitions));
    }

    /// No time is left: what is known makes the page.
    pub fn on_deadline(&mut self) {
        self.is_late = true;
    }

    /// Whether anybody was asked in vain, or too few could be.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        !self.cover.gaps().is_empty()
    }

    fn page(&mut self, upto: Option<Bytes>) -> ListPage<K::Said> {
        let mut keys = std::mem::take(&mut self.keys);
        keys.retain(|(key, _)| !self.cover.is_gap(self.rules.partition_of(key)));
        ListPage { keys, upto, gaps: self.cover.gaps() }
    }
}

fn all_of(partitions: u32) -> usize {
    usize::try_from(partitions).unwrap_or(usize::MAX).max(1)
}
