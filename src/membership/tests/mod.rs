//! Gossip: nothing goes back, nothing is lost in parts, all views become one; and what is said of what was removed, of
//! later lives and of copies.

mod choosing;
mod convergence;
mod detector;
mod laws;
mod views;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::types::{Mono, NodeId};

fn node(n: usize) -> NodeId {
    NodeId::from_bits(1 + n as u128)
}

fn life(generation: u64, boot: u64) -> Life {
    Life { generation, boot }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn value(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

fn view(n: usize) -> View {
    View::new(node(n), life(1, n as u64), Mono(0))
}

/// A whole exchange that `a` opens, nothing lost; gives what `a`, then `b`, is told of.
fn exchange(a: &mut View, b: &mut View, roll: u64, now: Mono) -> (Vec<Event>, Vec<Event>) {
    let Some(digest) = b.answer_hash(a.hash(), roll, now) else { return (Vec::new(), Vec::new()) };
    let (push, mut told_a) = a.answer_digest(&digest, roll, now);
    let (delta, told_b) = b.answer_push(&push, roll, now);
    told_a.extend(a.apply(&delta, now));
    (told_a, told_b)
}
