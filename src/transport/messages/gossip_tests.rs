use proptest::prelude::*;
use prost::Message as _;

use super::super::{Ask, Reply, Request, Tell};
use super::*;
use crate::membership::View;
use crate::types::Mono;

const NOW: Mono = Mono(5_000_000);

/// The view of a node that has said something.
fn view(node: u128, values: &[(&str, &str)]) -> View {
    let life = Life { generation: node as u64, boot: 7 };
    let mut view = View::new(NodeId::from_bits(node), life, NOW);
    for (name, value) in values {
        view.set(Name::new(name).unwrap(), Bytes::copy_from_slice(value.as_bytes())).unwrap();
    }
    view
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two views become equal by what travels as bytes alone.
#[test]
fn an_exchange_over_the_wire_makes_two_views_equal() {
    let (mut a, mut b) = (view(1, &[("name", "a"), ("zone", "x")]), view(2, &[("name", "b")]));
    assert!(b.remove(NodeId::from_bits(9)));
    let ask = |ask: Gossip| {
        let Ok(Request { ask: Some(Ask::Gossip(read)), .. }) =
            Request::decode(&Request::new(Ask::Gossip(ask)).encode_to_vec()[..])
        else {
            panic!("another request")
        };
        read.ask.unwrap()
    };
    let tell = |tell: Gossiped| {
        let Ok(Reply { tell: Some(Tell::Gossiped(read)), .. }) =
            Reply::decode(&Reply::new(Tell::Gossiped(tell)).encode_to_vec()[..])
        else {
            panic!("another reply")
        };
        read.tell.unwrap()
    };
    let GossipAsk::Hash(told) = ask(a.hash().into()) else { panic!("no hash") };
    let digest = b.answer_hash(hash(&told).unwrap(), 0, NOW).unwrap();
    let GossipTell::Digest(told) = tell(Some(&digest).into()) else { panic!("no digest") };
    assert_eq!(membership::Digest::try_from(&told), Ok(digest.clone()));
    let (push, events) = a.answer_digest(&digest, 0, NOW);
    assert_eq!(events, []);
    let GossipAsk::Push(told) = ask((&push).into()) else { panic!("no push") };
    assert_eq!(membership::Push::try_from(&told), Ok(push.clone()));
    let (delta, _) = b.answer_push(&push, 0, NOW);
    let GossipTell::Delta(told) = tell((&delta).into()) else { panic!("no delta") };
    assert_eq!(membership::Delta::try_from(&told), Ok(delta.clone()));
    assert_eq!(a.apply(&delta, NOW).len(), 2, "one changed, one removed");
    assert_eq!(a.hash(), b.hash());
    let GossipAsk::Hash(told) = ask(a.hash().into()) else { panic!("no hash") };
    assert_eq!(b.answer_hash(hash(&told).unwrap(), 0, NOW), None);
    assert_eq!(tell(None.into()), GossipTell::Same(Same {}));
}

/// What older nodes say must be read for good: these bytes never change.
#[test]
fn golden_bytes() {
    let known = membership::Known {
        node: NodeId::from_bits(1),
        life: Life { generation: 3, boot: 0x0102_0304_0506_0708 },
        version: 5,
    };
    let digest = membership::Digest {
        scope: Scope::Arc(NodeId::from_bits(1), NodeId::from_bits(2)),
        known: vec![known],
        removed: 6,
    };
    let entry = membership::Entry { name: Name::new("zone").unwrap(), value: Bytes::from_static(b"a"), version: 5 };
    let delta = membership::Delta {
        nodes: vec![membership::NodeDelta {
            node: known.node,
            life: known.life,
            base: 4,
            age: Duration::from_millis(1500),
            entries: vec![entry],
        }],
        removed: vec![NodeId::from_bits(9)],
    };
    let push = membership::Push { delta: delta.clone(), wants: vec![known], removed: 6 };
    let (one, two) = ("00000000000000000000000000000001", "00000000000000000000000000000002");
    let (six, nine) = ("00000000000000000000000000000006", "00000000000000000000000000000009");
    let known = format!("0a10{one}1003190807060504030201");
    let node = format!("{known}200428dc0b320b0a047a6f6e651201611805");
    let told = format!("0a2f{node}1210{nine}");
    for (bytes, golden) in [
        (Gossip::from(ViewHash([0xab; 16])).encode_to_vec(), format!("0a10{}", "ab".repeat(16))),
        (Gossiped::from(None::<&membership::Digest>).encode_to_vec(), "0a00".to_owned()),
        (Gossiped::from(Some(&digest)).encode_to_vec(), format!("12570a1f{known}20051210{one}1a10{two}2210{six}")),
        (Gossiped::from(&delta).encode_to_vec(), format!("1a43{told}")),
        (Gossip::from(&push).encode_to_vec(), format!("12780a43{told}121f{known}20051a10{six}")),
    ] {
        assert_eq!(hex(&bytes), golden);
    }
}

fn small() -> Delta {
    let entry = Entry { name: "name".into(), value: Bytes::from_static(b"v"), version: 1 };
    let node = NodeDelta { node: sixteen(1), entries: vec![entry], ..NodeDelta::default() };
    Delta { nodes: vec![node], removed: vec![sixteen(2)] }
}

#[test]
fn what_is_beyond_a_bound_is_refused() {
    assert!(membership::Delta::try_from(&small()).is_ok());
    let spoilt = |spoil: &dyn Fn(&mut Delta)| {
        let mut delta = small();
        spoil(&mut delta);
        membership::Delta::try_from(&delta).unwrap_err()
    };
    let too_many = |what, got, most| BadGossip::TooMany { what, got, most };
    assert_eq!(spoilt(&|delta| delta.nodes[0].node = Bytes::from_static(b"short")), BadGossip::Sixteen(5));
    assert_eq!(spoilt(&|delta| delta.removed[0] = Bytes::new()), BadGossip::Sixteen(0));
    assert_eq!(spoilt(&|delta| delta.nodes[0].entries[0].name.clear()), BadGossip::Name(0));
    assert_eq!(spoilt(&|delta| delta.nodes[0].entries[0].name = "n".repeat(161)), BadGossip::Name(161));
    let large = |delta: &mut Delta| delta.nodes[0].entries[0].value = vec![0; VALUE_MAX + 1].into();
    assert_eq!(spoilt(&large), too_many("bytes in a value", VALUE_MAX + 1, VALUE_MAX));
    let many = |delta: &mut Delta| delta.nodes[0].entries = vec![delta.nodes[0].entries[0].clone(); ENTRIES_MAX + 1];
    assert_eq!(spoilt(&many), too_many("values of a node", ENTRIES_MAX + 1, ENTRIES_MAX));
    let removed = |delta: &mut Delta| delta.removed = vec![sixteen(2); REMOVED_MAX + 1];
    assert_eq!(spoilt(&removed), too_many("removed ids", REMOVED_MAX + 1, REMOVED_MAX));
    let heavy = |delta: &mut Delta| delta.nodes = vec![delta.nodes[0].clone(); 1000];
    assert!(matches!(spoilt(&heavy), BadGossip::TooMany { what: "bytes in a delta", .. }));

    let known = Known { node: sixteen(1), ..Known::default() };
    let digest = Digest { known: vec![known.clone(); KNOWN_MAX], removed: sixteen(0), ..Digest::default() };
    assert!(membership::Digest::try_from(&digest).is_ok());
    let half = Digest { first: Some(sixteen(1)), ..digest.clone() };
    assert_eq!(membership::Digest::try_from(&half), Err(BadGossip::HalfAScope));
    let long = Digest { known: vec![known.clone(); KNOWN_MAX + 1], ..digest };
    let beyond = too_many("nodes in a digest", KNOWN_MAX + 1, KNOWN_MAX);
    assert_eq!(membership::Digest::try_from(&long), Err(beyond));
    let push = Push { delta: small(), wants: vec![known; KNOWN_MAX + 1], removed: sixteen(0) };
    let beyond = too_many("nodes asked for", KNOWN_MAX + 1, KNOWN_MAX);
    assert_eq!(membership::Push::try_from(&push), Err(beyond));
    assert_eq!(hash(&Bytes::from_static(b"h")), Err(BadGossip::Sixteen(1)));
}

proptest! {
    /// Whatever is let in is said again in the same words.
    #[test]
    fn what_is_let_in_comes_out_as_it_went_in(
        ids in prop::collection::vec(any::<u128>(), 0..5),
        values in prop::collection::vec(("[a-z]{1,8}", prop::collection::vec(any::<u8>(), 0..20)), 0..5),
        numbers in any::<[u32; 4]>(),
    ) {
        let [generation, boot, base, age] = numbers.map(u64::from);
        let entries = values.into_iter().zip(1..).map(|((name, value), version)| Entry { name, value: value.into(), version });
        let entries: Vec<Entry> = entries.collect();
        let nodes = ids.iter().map(|node| {
            let entries = entries.clone();
            NodeDelta { node: sixteen(*node), generation, boot, base, age_ms: age, entries }
        });
        let delta = Delta { nodes: nodes.collect(), removed: ids.iter().map(|node| sixteen(*node)).collect() };
        let read = membership::Delta::try_from(&delta).unwrap();
        prop_assert_eq!(Delta::from(&read), delta);
    }
}
