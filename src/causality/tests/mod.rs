//! The laws of this room, over states that histories of real writes and merges reach.

mod kv679;
mod laws;
mod records;
mod tokens;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::types::{ActorId, Stamp, Wall};

/// One step of a history.
#[derive(Clone, Debug)]
enum Op {
    /// A write at a replica; the context, if any, is all that another replica holds just then.
    Write { at: usize, by: By, payload: Payload, request: Option<u8>, clock: u64 },
    /// A replica merges what another holds.
    Merge { into: usize, from: usize },
}

#[derive(Clone, Copy, Debug)]
enum By {
    Context(usize),
    Blind,
    Overwrite,
}

const REPLICAS: usize = 3;

fn rules(last_write_wins: bool) -> MergeRules {
    MergeRules { last_write_wins, idempotency_window: Duration::from_millis(20) }
}

fn payload() -> impl Strategy<Value = Payload> {
    let value = proptest::option::weighted(0.8, vec(any::<u8>(), 0..20).prop_map(Bytes::from));
    let content_type = proptest::option::of("[a-z/]{0,6}");
    let meta = proptest::collection::btree_map("[a-zé]{0,3}", "[ -~]{0,4}", 0..3);
    let expires_at = proptest::option::weighted(0.3, any::<u64>().prop_map(Wall));
    (value, content_type, meta, 0..3_000_000_000_000_u64, expires_at).prop_map(
        |(value, content_type, meta, written_at, expires_at)| Payload {
            value,
            content_type,
            meta,
            written_at: Wall(written_at),
            expires_at,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let by = prop_oneof![3 => (0..REPLICAS).prop_map(By::Context), 3 => Just(By::Blind), 1 => Just(By::Overwrite)];
    let request = proptest::option::of(0..4_u8);
    prop_oneof![
        3 => (0..REPLICAS, by, payload(), request, 0..60_u64)
            .prop_map(|(at, by, payload, request, clock)| Op::Write { at, by, payload, request, clock }),
        2 => (0..REPLICAS, 0..REPLICAS).prop_map(|(into, from)| Op::Merge { into, from }),
    ]
}

/// All the states that the replicas of one object went through, the empty one first.
fn states(lww: bool, ops: &[Op]) -> Vec<Object> {
    let mut now = vec![Object::new(); REPLICAS];
    let mut all = vec![Object::new()];
    for op in ops {
        let changed = match op {
            Op::Write { at, by, payload, request, clock } => {
                let supersedes = match by {
                    By::Context(shown) => Supersedes::Covered(now[*shown].context().clone()),
                    By::Blind => Supersedes::Tombstones,
                    By::Overwrite => Supersedes::Seen,
                };
                let request = request.map(|r| (RequestId([r; 16]), Fingerprint([r; 16])));
                let write = Write { payload: payload.clone(), supersedes, request };
                let minted = super::write(
                    &now[*at],
                    write,
                    ActorId(10 + *at as u64),
                    Stamp::at(Wall(*clock)),
                    Stamp::default(),
                    &rules(lww),
                );
                now[*at] = minted.object;
                *at
            }
            Op::Merge { into, from } => {
                let from = now[*from].clone();
                assert_eq!(now[*into].merge(&from, &rules(lww)).clashes, 0);
                *into
            }
        };
        all.push(now[changed].clone());
    }
    all
}

fn history() -> impl Strategy<Value = (bool, Vec<Object>)> {
    (any::<bool>(), vec(op(), 1..14)).prop_map(|(lww, ops)| (lww, states(lww, &ops)))
}

/// A history and three of its states.
fn three() -> impl Strategy<Value = (MergeRules, [Object; 3])> {
    (history(), any::<[prop::sample::Index; 3]>())
        .prop_map(|((lww, states), picks)| (rules(lww), picks.map(|pick| pick.get(&states).clone())))
}

fn merged(a: &Object, b: &Object, rules: &MergeRules) -> Object {
    let mut a = a.clone();
    a.merge(b, rules);
    a
}

fn value(text: &str) -> Payload {
    Payload { value: Some(Bytes::copy_from_slice(text.as_bytes())), ..Payload::default() }
}

fn put(local: &Object, text: &str, supersedes: Supersedes, actor: u64) -> Minted {
    let write = Write { payload: value(text), supersedes, request: None };
    super::write(local, write, ActorId(actor), Stamp(1), Stamp::default(), &MergeRules::default())
}

fn values(object: &Object) -> Vec<String> {
    let payloads = object.siblings().iter().flat_map(|sibling| &sibling.payloads);
    let mut values: Vec<String> =
        payloads.filter_map(|p| p.value.as_ref()).map(|v| String::from_utf8_lossy(v).into_owned()).collect();
    values.sort();
    values
}
