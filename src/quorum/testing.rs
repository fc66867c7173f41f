//! What the tests of this room share: stores by number, objects by name.

use super::{Level, OwnersIn, RegionOwners, Requirement, requirement};
use crate::causality::{MergeRules, Object, Payload, Supersedes, Write, write};
use crate::types::{ActorId, Digest, Stamp, StoreId};

pub(super) fn ids(bits: impl IntoIterator<Item = u128>) -> Vec<StoreId> {
    bits.into_iter().map(StoreId::from_bits).collect()
}

pub(super) fn owners(layout: u64, range: std::ops::Range<u128>) -> OwnersIn {
    let n = range.clone().count();
    OwnersIn { layout, regions: vec![RegionOwners { region: "eu".into(), n, owners: ids(range) }] }
}

/// Stores 0 to n - 1 in layout 1.
pub(super) fn one_layout(level: Level, n: u128) -> Requirement {
    requirement(level, &[owners(1, 0..n)], "eu").unwrap()
}

/// Stores 0, 1, 2 in layout 1; 1, 2, 3 in layout 2.
pub(super) fn two_layouts(level: Level) -> Requirement {
    requirement(level, &[owners(1, 0..3), owners(2, 1..4)], "eu").unwrap()
}

/// `base`, and on top of it a write of `value` by `actor`, which supersedes what `base` holds.
pub(super) fn on_top(base: &Object, actor: u64, value: &str) -> Object {
    let payload = Payload { value: Some(value.to_owned().into()), ..Payload::default() };
    let put = Write { payload, supersedes: Supersedes::Seen, request: None };
    write(base, put, ActorId(actor), Stamp(1), Stamp(0), &MergeRules::default()).object
}

/// A digest that tells the objects of these tests apart: of their dots, as no two writes of a test share one.
pub(super) fn digest(object: &Object) -> Digest {
    let held = object.siblings().iter().map(|sibling| sibling.dot);
    let numbers = held.chain(object.context().iter()).flat_map(|dot| [dot.actor.0, dot.stamp.0]);
    let count = object.siblings().len() as u128;
    let hash = numbers
        .fold(count + 1, |hash, number| (hash ^ u128::from(number)).wrapping_mul(0x1000_0000_01b3).rotate_left(29));
    Digest(hash.to_be_bytes())
}

/// Whether everything in `old` is in `new`, or superseded there.
pub(super) fn includes(new: &Object, old: &Object) -> bool {
    new == old || !new.clone().merge(old, &MergeRules::default()).changed
}
