//! I-ACK's first link, the chain: one value is decided, whatever happens; and it is decided once messages get through.

mod schedules;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::types::{NodeId, StoreId};

const CHAIN: DecisionId = DecisionId([3; 32]);

fn store(n: usize) -> StoreId {
    StoreId::from_bits(100 + n as u128)
}

fn stores(range: std::ops::Range<usize>) -> impl Iterator<Item = StoreId> {
    range.map(store)
}

fn electorate(n: usize) -> Electorate {
    Electorate::new(stores(0..n)).unwrap()
}

fn ballot(round: u64, node: u128) -> Ballot {
    Ballot { round, node: NodeId::from_bits(node), proposal: 1000 + node as u64 }
}

fn prepare(round: u64, node: u128) -> Request {
    Request::Prepare(Prepare { decision: CHAIN, ballot: ballot(round, node) })
}

fn accept(round: u64, node: u128, value: &'static str) -> Request {
    Request::Accept(Accept { decision: CHAIN, ballot: ballot(round, node), value: Value::new(value) })
}

fn fresh() -> Acceptor {
    Acceptor::new(store(0), CHAIN, &electorate(3), Record::default()).unwrap()
}

/// Flushes where it must, and says whether it had to.
fn ask(acceptor: Acceptor, request: &Request, attest: &'static str) -> (Acceptor, Reply, bool) {
    match acceptor.receive(request, || Bytes::from_static(attest.as_bytes())) {
        Step::Answer(acceptor, reply) => (acceptor, reply, false),
        Step::Flush(unflushed) => {
            let (acceptor, reply) = unflushed.flushed();
            (acceptor, reply, true)
        }
    }
}

fn text(reply: &Reply) -> String {
    match reply {
        Reply::Promised { ballot, accepted } => {
            let carried = accepted.as_ref().map(|a| format!(" with {:?}", a.value.bytes()));
            format!("promised {}{}", ballot.round, carried.unwrap_or_default())
        }
        Reply::Accepted { ballot, attestation, .. } => format!("accepted {}, attests {attestation:?}", ballot.round),
        Reply::Refused { ballot, highest } => format!("refused {} for {}", ballot.round, highest.round),
        Reply::Decided(decided) => format!("decided {:?}", decided.value.bytes()),
        Reply::OtherDecision => "other decision".to_owned(),
        Reply::Renounced { highest } => format!("renounced up to {highest}"),
    }
}

#[test]
fn an_acceptor_answers() {
    let mut acceptor = fresh();
    for (request, attest, answer, flushes) in [
        (prepare(2, 1), "", "promised 2", true),
        (prepare(2, 1), "", "promised 2", false),
        (prepare(1, 1), "", "refused 1 for 2", false),
        (accept(1, 1, "old"), "", "refused 1 for 2", false),
        (accept(2, 1, "a"), "no", "accepted 2, attests b\"no\"", true),
        (accept(2, 1, "a"), "yes", "accepted 2, attests b\"no\"", false),
        (accept(2, 1, "b"), "yes", "refused 2 for 2", false),
        (prepare(3, 2), "", "promised 3 with b\"a\"", true),
        (accept(2, 1, "a"), "", "refused 2 for 3", false),
        (accept(5, 1, "b"), "yes", "accepted 5, attests b\"no\"", true),
        (prepare(4, 2), "", "refused 4 for 5", false),
        (prepare(6, 2), "", "promised 6 with b\"b\"", true),
    ] {
        let (next, reply, flushed) = ask(acceptor, &request, attest);
        assert_eq!((text(&reply).as_str(), flushed), (answer, flushes), "{request:?}");
        acceptor = next;
    }
    let foreign = Request::Prepare(Prepare { decision: DecisionId([4; 32]), ballot: ballot(9, 1) });
    let (mut acceptor, reply, flushed) = ask(acceptor, &foreign, "");
    assert_eq!((text(&reply).as_str(), flushed), ("other decision", false));
    let value = Value::new("b");
    acceptor.learn(Decided { decision: DecisionId([4; 32]), value: value.clone(), attestations: BTreeMap::new() });
    assert_eq!(acceptor.decided(), None, "of another decision");
    acceptor.learn(Decided { decision: CHAIN, value, attestations: BTreeMap::new() });
    let (_, reply, flushed) = ask(acceptor, &prepare(1, 3), "");
    assert_eq!((text(&reply).as_str(), flushed), ("decided b\"b\"", false), "whoever is late is told at once");
}

#[test]
fn a_store_that_is_not_asked_has_no_voice() {
    assert!(Acceptor::new(store(3), CHAIN, &electorate(3), Record::default()).is_none());
    let mut proposer = Proposer::new(CHAIN, electorate(3), NodeId::from_bits(1), 1001, Value::new("a"));
    let promised = || Reply::Promised { ballot: ballot(1, 1), accepted: None };
    for stranger in [3, 4, 5] {
        assert_eq!(proposer.on_reply(store(stranger), promised()), Progress::Wait);
    }
    assert_eq!(proposer.on_reply(store(0), promised()), Progress::Wait);
    assert_eq!(proposer.on_reply(store(0), promised()), Progress::Wait, "twice is once");
    assert_eq!(proposer.on_reply(store(1), promised()), Progress::Send(accept(1, 1, "a")));
}

#[test]
fn who_decides_the_successor() {
    let decide = |layout: std::ops::Range<usize>, parent: Option<std::ops::Range<usize>>| {
        deciders(stores(layout), parent.map(stores)).map(|e| (e.stores().collect::<Vec<_>>(), e.majority()))
    };
    let all = |range| Some(stores(range).collect::<Vec<_>>());
    assert_eq!(decide(0..3, None), all(0..3).map(|e| (e, 2)), "layout 1: all");
    assert_eq!(decide(0..5, Some(0..3)), all(0..3).map(|e| (e, 2)), "joiners wait");
    assert_eq!(decide(1..5, Some(0..3)), all(1..3).map(|e| (e, 2)), "who left does not decide");
    assert_eq!(decide(3..7, Some(0..3)), all(3..7).map(|e| (e, 3)), "none left: all");
    assert_eq!(decide(0..0, Some(0..3)), None);
}

#[test]
fn the_loser_is_told_what_was_decided() {
    let promise = |n, accepted| (store(n), Reply::Promised { ballot: ballot(1, 1), accepted });
    let mut proposer = Proposer::new(CHAIN, electorate(3), NodeId::from_bits(1), 1001, Value::new("mine"));
    let theirs = |round, value: &'static str| Some(Accepted { ballot: ballot(round, 0), value: Value::new(value) });
    let (from, reply) = promise(2, theirs(0, "theirs"));
    assert_eq!(proposer.on_reply(from, reply), Progress::Wait);
    let (from, reply) = promise(1, None);
    assert_eq!(proposer.on_reply(from, reply), Progress::Send(accept(1, 1, "theirs")), "carried on");
    let value = Value::new("theirs").hash();
    let accepted = |value, says: &'static str| Reply::Accepted {
        ballot: ballot(1, 1),
        value,
        attestation: Bytes::from_static(says.as_bytes()),
    };
    assert_eq!(proposer.on_reply(store(0), accepted(Value::new("mine").hash(), "no")), Progress::Wait, "not that");
    assert_eq!(proposer.on_reply(store(1), accepted(value, "no")), Progress::Wait);
    let Progress::Over(outcome) = proposer.on_reply(store(2), accepted(value, "yes")) else { panic!("a majority") };
    assert_eq!(outcome.to_string(), format!("conflict: decided value is {value}"));
    assert_eq!(outcome.decided().attestations.len(), 2);
    assert_eq!(proposer.on_reply(store(0), accepted(value, "no")), Progress::Wait);
    assert_eq!(proposer.outcome().unwrap().decided().attestations.len(), 3, "who comes later is kept too");
    assert_eq!((proposer.retry(), proposer.request()), (None, None), "it is over");
}

#[test]
fn beaten_when_too_many_refuse_and_not_before() {
    let mut proposer = Proposer::new(CHAIN, electorate(4), NodeId::from_bits(1), 1001, Value::new("a"));
    let refuse = |round| Reply::Refused { ballot: ballot(1, 1), highest: ballot(round, 2) };
    assert_eq!(proposer.on_reply(store(0), refuse(9)), Progress::Wait, "three of four may still promise");
    assert_eq!(proposer.on_reply(store(0), refuse(9)), Progress::Wait);
    assert_eq!(proposer.on_reply(store(1), refuse(4)), Progress::Beaten { by: ballot(9, 2) });
    assert_eq!(proposer.on_reply(store(2), refuse(4)), Progress::Wait, "said once");
    assert_eq!(proposer.retry(), Some(prepare(10, 1)), "above the highest");
    for from in 0..4 {
        let late = Reply::Promised { ballot: ballot(1, 1), accepted: None };
        assert_eq!(proposer.on_reply(store(from), late), Progress::Wait, "of the attempt before");
        let _ = proposer.on_reply(store(from), Reply::Refused { ballot: ballot(1, 1), highest: ballot(20, 2) });
    }
    assert_eq!(proposer.request(), Some(prepare(10, 1)), "late refusals end no other attempt");
    assert_eq!(proposer.retry(), Some(prepare(21, 1)), "and is heeded in the next");
    let _ = proposer.on_reply(store(2), Reply::Refused { ballot: ballot(1, 1), highest: ballot(u64::MAX, 2) });
    assert_eq!(proposer.retry(), None, "no ballot is used twice");
}

fn any_ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), any::<u128>(), any::<u64>()).prop_map(|(round, node, proposal)| Ballot {
        round,
        node: NodeId::from_bits(node),
        proposal,
    })
}

fn record() -> impl Strategy<Value = Record> {
    let accepted = (any_ballot(), vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..9));
    (proptest::option::of(any_ballot()), proptest::option::of(accepted)).prop_map(|(promised, accepted)| match accepted
    {
        None => Record { promised, ..Record::default() },
        Some((ballot, value, attestation)) => Record {
            promised: promised.max(Some(ballot)),
            accepted: Some(Accepted { ballot, value: Value::new(value) }),
            attestation: Some(attestation.into()),
        },
    })
}

#[test]
fn records_never_change_their_bytes() {
    let record = Record {
        promised: Some(ballot(7, 2)),
        accepted: Some(Accepted { ballot: ballot(6, 1), value: Value::new("layout") }),
        attestation: Some(Bytes::from_static(b"no")),
    };
    let hex: String = record.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = concat!(
        "0107",
        "0000000000000007", // promised: round, node, proposal
        "00000000000000000000000000000002",
        "00000000000003ea",
        "0000000000000006", // accepted: round, node, proposal, value
        "00000000000000000000000000000001",
        "00000000000003e9",
        "00000006",
        "6c61796f7574",
        "00000002", // attestation
        "6e6f",
    );
    assert_eq!(hex, golden);
    assert_eq!(Record::decode(&record.encode()), Ok(record));
    assert_eq!(Record::decode(&[1, 0]), Ok(Record::default()));
    assert_eq!(Record::decode(&[2, 0]), Err(RecordError::Format(2)));
    assert_eq!(Record::decode(&[]), Err(RecordError::Malformed), "nothing is not an empty record");
}

proptest! {
    #[test]
    fn records_round_trip_and_their_parts_do_not(record in record(), cut in any::<proptest::sample::Index>()) {
        let bytes = record.encode();
        prop_assert_eq!(Record::decode(&bytes), Ok(record));
        prop_assert!(Record::decode(&bytes[..cut.index(bytes.len())]).is_err());
        prop_assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn damaged_records_are_errors_or_records(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(&record.encode()[..], &bytes[..]);
        }
    }
}
