//! Two sides in memory, and the loop that a shell is: what is read, sent, lost and answered.

mod bounds;
mod figures;
mod laws;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::*;
use crate::types::{Digest, PartitionId};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

/// Two sides, A the one that begins.
pub(super) trait Sides {
    /// Everything that a side holds of a partition.
    fn each(&self, side: usize, partition: PartitionId, offer: &mut dyn FnMut(&Entry));

    /// Called before each reading of a side.
    fn meddle(&mut self) {}

    /// Whether the next reply is lost.
    fn loses(&mut self) -> bool {
        false
    }

    /// Whether a side can read a partition.
    fn reads(&self, _side: usize, _partition: PartitionId) -> bool {
        true
    }

    /// The first hour that counts there, by now.
    fn first(&self, _side: usize) -> u32 {
        0
    }

    fn tree(&self, side: usize, partition: PartitionId, terms: &Terms) -> Tree {
        let mut tree = Tree::new();
        self.each(side, partition, &mut |entry| {
            let element = leaf_element(&entry.stored, &entry.digest);
            tree.add(terms, entry.class, entry.hour, entry.leaf, element);
        });
        tree
    }

    fn read(&self, side: usize, terms: &Terms, wanted: &Wanted) -> Option<Read> {
        let mut read = Read::default();
        if wanted.tree {
            read.tree = Some(self.tree(side, wanted.partition, terms));
        }
        if !wanted.nodes.is_empty() {
            let mut survey = wanted.survey(terms);
            self.each(side, wanted.partition, &mut |entry| survey.offer(entry));
            read.survey = Some(survey);
        }
        self.reads(side, wanted.partition).then_some(read)
    }
}

/// What a round came to.
#[derive(Default, Debug)]
pub(super) struct Round {
    pub(super) found: BTreeMap<Bytes, Exchange>,
    pub(super) differ: usize,
    pub(super) unfinished: BTreeSet<PartitionId>,
    pub(super) roots_bytes: usize,
    pub(super) walk_bytes: usize,
    pub(super) requests: usize,
    pub(super) largest: (usize, usize),
    pub(super) most_open: usize,
}

pub(super) fn round(sides: &mut dyn Sides, partitions: u32, terms: &Terms) -> Round {
    let mut told = Round::default();
    let partitions = (0..partitions).map(PartitionId);
    let mut terms = terms.clone();
    let mut differ = Vec::new();
    loop {
        differ.clear();
        sides.meddle();
        let roots: Vec<_> = partitions.clone().map(|p| (p, sides.tree(A, p, &terms).root())).collect();
        sides.meddle();
        let mut later = None;
        for roots in Roots::of(&terms, &roots) {
            let held = |p| sides.reads(B, p).then(|| sides.tree(B, p, &roots.terms).root());
            let reply = answer_roots(&roots, sides.first(B), held);
            told.roots_bytes += roots.size() + reply.size();
            match reply {
                RootsReply::Later(first) => later = Some(first),
                RootsReply::Malformed => panic!("malformed: {roots:?}"),
                RootsReply::Compared { differ: some, cannot } => {
                    differ.extend(some);
                    told.unfinished.extend(cannot);
                }
            }
        }
        match later {
            Some(first) => terms.first = first,
            None => break,
        }
    }
    told.differ = differ.len();
    let mut walk = Walk::new(terms, differ);
    for step in 0.. {
        assert!(step < 100_000, "it does not end");
        let wanted = walk.wanted(sides.first(A));
        if wanted.is_empty() {
            break;
        }
        sides.meddle();
        let read = wanted.iter().filter_map(|w| Some((w.partition, sides.read(A, walk.terms(), w)?))).collect();
        let Some(request) = walk.ask(&read) else { continue };
        sides.meddle();
        let reply = reply_of(sides, &request);
        told.requests += 1;
        told.most_open = told.most_open.max(walk.open());
        told.walk_bytes += request.size() + reply.size();
        told.largest = (told.largest.0.max(request.size()), told.largest.1.max(reply.size()));
        if sides.loses() {
            walk.lost();
            continue;
        }
        for Difference { partition, stored, exchange } in walk.answered(reply).expect("our own replies are understood")
        {
            assert!(stored.starts_with(&partition.0.to_be_bytes()));
            assert_eq!(told.found.insert(stored, exchange), None, "once in a walk");
        }
    }
    told.unfinished.extend(walk.unfinished());
    told
}

pub(super) fn reply_of(sides: &dyn Sides, request: &Request) -> Reply {
    let mut answering = match Answering::new(request, sides.first(B)) {
        Ok(answering) => answering,
        Err(reply) => return reply,
    };
    while let Some(wanted) = answering.wanted() {
        let read = sides.read(B, &request.terms, &wanted);
        answering.read(read.as_ref());
    }
    answering.reply()
}

/// Maps in memory.
#[derive(Clone, Default, Debug)]
pub(super) struct Maps {
    pub(super) sides: [BTreeMap<Bytes, Entry>; 2],
    pub(super) firsts: [u32; 2],
}

impl Maps {
    /// Puts version `version` of a key on a side.
    pub(super) fn put(&mut self, side: usize, partition: u32, leaf: u8, name: &[u8], version: u8) -> &mut Entry {
        let stored = Bytes::from([&partition.to_be_bytes()[..], name].concat());
        let entry = Entry {
            stored: stored.clone(),
            digest: Digest([version; 16]),
            leaf,
            class: 0,
            hour: MAIN,
            is_fresh: false,
        };
        let held = self.sides[side].entry(stored).or_insert_with(|| entry.clone());
        *held = entry;
        held
    }

    /// Does what was found: both sides hold the greater version then.
    pub(super) fn repair(&mut self, found: &BTreeMap<Bytes, Exchange>) {
        for stored in found.keys() {
            let greatest =
                self.sides.iter().filter_map(|side| side.get(stored)).max_by_key(|entry| (entry.digest, entry.hour));
            let Some(greatest) = greatest.cloned() else { continue };
            self.sides.iter_mut().for_each(|side| drop(side.insert(stored.clone(), greatest.clone())));
        }
    }
}

impl Sides for Maps {
    fn each(&self, side: usize, partition: PartitionId, offer: &mut dyn FnMut(&Entry)) {
        let from = Bytes::copy_from_slice(&partition.0.to_be_bytes());
        let to = Bytes::copy_from_slice(&(partition.0 + 1).to_be_bytes());
        self.sides[side].range(from..to).for_each(|(_, entry)| offer(entry));
    }

    fn first(&self, side: usize) -> u32 {
        self.firsts[side]
    }
}

pub(super) fn terms(salt: u64, width: Width) -> Terms {
    Terms { salt, width, first: 0, classes: vec![0] }
}
