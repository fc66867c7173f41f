//! Several ordered streams of keys as one, while they come in pieces.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

/// What comes next out of a merge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next<T> {
    /// The least key that has not come yet, and what each stream that has it says of it.
    Key(Bytes, Vec<(usize, T)>),
    /// These streams have to be fed first, or closed: the next key may be theirs.
    Wants(Vec<usize>),
    /// Every stream has ended.
    Done,
}

/// Where a stream stands: at a key, or behind one up to which it is whole. At the same key what is there comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stands {
    At,
    Behind,
}

#[derive(Debug)]
struct Stream<T> {
    fed: VecDeque<(Bytes, T)>,
    /// Up to this key, itself included, all is known; none: to the end.
    whole: Option<Bytes>,
}

/// Merges streams of keys in byte order. A key that several have comes once.
///
/// Each stream is fed in pieces, each of which says up to where the stream is whole by then: a key comes out only once no
/// stream can have a lesser one.
#[derive(Debug)]
pub struct Merge<T> {
    streams: Vec<Stream<T>>,
    /// Where each stream that has not ended stands.
    order: BTreeSet<(Bytes, Stands, usize)>,
}

impl<T> Default for Merge<T> {
    fn default() -> Self {
        Self { streams: Vec::new(), order: BTreeSet::new() }
    }
}

impl<T> Merge<T> {
    /// Opens a stream of which nothing is known behind `after` (empty: nothing at all), and names it.
    pub fn open(&mut self, after: Bytes) -> usize {
        let at = self.streams.len();
        self.streams.push(Stream { fed: VecDeque::new(), whole: Some(after) });
        self.place(at);
        at
    }

    /// Where the stream stands now.
    fn place(&mut self, at: usize) {
        let Stream { fed, whole } = &self.streams[at];
        match (fed.front(), whole) {
            (Some((key, _)), _) => drop(self.order.insert((key.clone(), Stands::At, at))),
            (None, Some(whole)) => drop(self.order.insert((whole.clone(), Stands::Behind, at))),
            (None, None) => {}
        }
    }

    fn displace(&mut self, at: usize) {
        let Stream { fed, whole } = &self.streams[at];
        match (fed.front(), whole) {
            (Some((key, _)), _) => drop(self.order.remove(&(key.clone(), Stands::At, at))),
            (None, Some(whole)) => drop(self.order.remove(&(whole.clone(), Stands::Behind, at))),
            (None, None) => {}
        }
    }

    /// Feeds a stream: the keys behind what it was whole up to, in order, and up to where it is whole with them (none: to
    /// the end). False, and nothing is done, where they are not in order or not where they should be.
    #[must_use]
    pub fn feed(&mut self, at: usize, keys: Vec<(Bytes, T)>, whole: Option<Bytes>) -> bool {
        let Some(before) = self.whole_to(at) else { return false };
        let mut last = before;
        for (key, _) in &keys {
            if key <= last {
                return false;
            }
            last = key;
        }
        if whole.as_ref().is_some_and(|whole| whole < last) {
            return false;
        }
        self.displace(at);
        self.streams[at].fed.extend(keys);
        self.streams[at].whole = whole;
        self.place(at);
        true
    }

    /// Up to which key a stream is whole; none: it has ended.
    #[must_use]
    pub fn whole_to(&self, at: usize) -> Option<&Bytes> {
        self.streams[at].whole.as_ref()
    }

    /// Closes a stream: nothing more comes of it, whatever it still has.
    pub fn close(&mut self, at: usize) {
        self.displace(at);
        self.streams[at] = Stream { fed: VecDeque::new(), whole: None };
    }

    /// The next key; or who has to be fed before it is known.
    pub fn advance(&mut self) -> Next<T> {
        let key = match self.order.first() {
            None => return Next::Done,
            Some((_, Stands::Behind, _)) => {
                let behind = self.order.iter().filter(|(_, stands, _)| *stands == Stands::Behind);
                return Next::Wants(behind.map(|(.., at)| *at).collect());
            }
            Some((key, Stands::At, _)) => key.clone(),
        };
        let mut said = Vec::with_capacity(1);
        while let Some((first, Stands::At, at)) = self.order.first() {
            if *first != key {
                break;
            }
            let at = *at;
            self.order.pop_first();
            if let Some((_, its)) = self.streams[at].fed.pop_front() {
                said.push((at, its));
            }
            self.place(at);
        }
        Next::Key(key, said)
    }

    /// Up to where all streams together are known while one of them wants to be fed; none while none does.
    #[must_use]
    pub fn reached(&self) -> Option<&Bytes> {
        match self.order.first() {
            Some((key, Stands::Behind, _)) => Some(key),
            _ => None,
        }
    }
}
