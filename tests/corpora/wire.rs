//! Frames, handshakes, messages.

use bytes::Bytes;
use prost::Message;
use quorate::membership::{Life, Name, View};
use quorate::transport::frame::Kind;
use quorate::transport::handshake::{Handshake, Role, Secrets, Step, encode_hello};
use quorate::transport::messages::buckets::{BucketEntry, BucketTable};
use quorate::transport::messages::gossip::{Gossip, Gossiped};
use quorate::transport::messages::layouts::{
    Ballot, Decide, Decided, DigestOf, Digests, Layouts, LayoutsTold, ListDigests, Promised, Renounce, TrackerOf, Voice,
};
use quorate::transport::messages::lists::{List, Listed, ListedKey, ReadUnder, Unable};
use quorate::transport::messages::{
    self, Ask, Copy, Fetch, HandedRead, HandedWrite, Heartbeat, Held, Page, PageEntry, Probe, Probed, Read, Refusal,
    Reply, Request, Settle, Settled, Target, Tell, Write, Written,
};
use quorate::types::{Mono, NodeId};

#[path = "../../fuzz/entry/wire.rs"]
#[allow(unreachable_pub)]
mod entry;

use super::{each, save, writes};

fn target() -> Target {
    Target { bucket: "b".into(), generation: 1, key: Bytes::from_static(b"key") }
}

/// Both sides of an exchange: hash, digest, push, delta.
fn gossip() -> ([Gossip; 2], [Gossiped; 2]) {
    let now = Mono(1);
    let view = |node, zone: &'static str| {
        let mut view = View::new(NodeId::from_bits(node), Life { generation: 2, boot: 3 }, now);
        view.set(Name::new("zone").unwrap(), Bytes::from_static(zone.as_bytes())).unwrap();
        view
    };
    let (mine, mut theirs) = (view(1, "a"), view(2, "b"));
    assert!(theirs.remove(NodeId::from_bits(9)));
    let digest = theirs.digest(0, now);
    let (push, _) = mine.answer_digest(&digest, 0, now);
    let (delta, _) = theirs.answer_push(&push, 0, now);
    ([mine.hash().into(), (&push).into()], [Some(&digest).into(), (&delta).into()])
}

fn buckets() -> BucketTable {
    let entry = BucketEntry { bucket: "b".into(), settings: Bytes::from_static(&[1; 40]) };
    BucketTable { hash: Bytes::from_static(&[8; 16]), entries: vec![entry] }
}

fn requests() -> Vec<(&'static str, Ask)> {
    let record = Bytes::from_static(b"a record");
    let ([hash, push], _) = gossip();
    let ballot = Ballot { round: 1, node: Bytes::from_static(&[7; 16]), proposal: 5 };
    let decide = Decide { decision: Bytes::from_static(&[9; 32]), ballot, value: Some(record.clone()) };
    let list = ListDigests { partition: 9, after: Bytes::new(), to: Bytes::from_static(b"to"), most: 100 };
    vec![
        ("gossip-hash", Ask::Gossip(hash)),
        ("gossip-push", Ask::Gossip(push)),
        ("probe", Ask::Probe(Probe { weight: 1, by_plan: false })),
        ("heartbeat", Ask::Heartbeat(Heartbeat { wall_ms: 1, state: 7, progress: 3 })),
        ("read", Ask::Read(Read { target: target(), have: Some(record.clone()), to_mend: true })),
        ("write", Ask::Write(Write { target: target(), record: record.clone(), epoch: 4, flush: true, repair: false })),
        (
            "handed-read",
            Ask::HandedRead(HandedRead {
                target: target(),
                level: "one".into(),
                floor: Some(Bytes::from_static(&[0; 16])),
                ..HandedRead::default()
            }),
        ),
        (
            "handed-write",
            Ask::HandedWrite(HandedWrite {
                target: target(),
                level: "quorum".into(),
                payload: messages::Payload { value: Some(record), ..messages::Payload::default() },
                ..HandedWrite::default()
            }),
        ),
        (
            "fetch",
            Ask::Fetch(Fetch {
                partition: 9,
                after: Bytes::from_static(b"after"),
                max_bytes: 1000,
                held: Bytes::from_static(&[5; 32]),
            }),
        ),
        ("layouts", Ask::Layouts(Layouts { since: 3 })),
        ("decide", Ask::Decide(decide)),
        ("renounce", Ask::Renounce(Renounce { decision: Bytes::from_static(&[7; 32]) })),
        ("list-digests", Ask::ListDigests(list)),
        ("buckets", Ask::Buckets(buckets())),
        ("settle", Ask::Settle(Settle { partition: 9, until: 300 })),
        (
            "list",
            Ask::List(List {
                bucket: "b".into(),
                generation: 1,
                partitions: vec![3, 9, 700],
                prefix: Bytes::from_static(b"k"),
                after: Bytes::from_static(b"k1"),
                now_ms: 1,
                keys: 100,
                max_bytes: 1000,
                records: true,
                dead: true,
            }),
        ),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let record = Bytes::from_static(b"a record");
    let (_, [digest, delta]) = gossip();
    let entries = vec![PageEntry { target: target(), record: record.clone() }];
    let tracker = TrackerOf { store: Bytes::from_static(&[3; 16]), tracker: record.clone() };
    let told = LayoutsTold { chain: Some(record.clone()), trackers: vec![tracker] };
    let ballot = Ballot { round: 2, node: Bytes::from_static(&[7; 16]), proposal: 5 };
    let promised = Promised { ballot: ballot.clone(), accepted: Some(ballot), value: Some(record.clone()) };
    let listed_key = ListedKey {
        key: Bytes::from_static(b"k2"),
        digest: Bytes::from_static(&[1; 16]),
        siblings: 2,
        expired: 1,
        record: Some(record.clone()),
    };
    let unable = vec![Unable { partition: 9, why: Refusal::Syncing.into() }];
    let read = vec![ReadUnder { partition: 3, epoch: 1 << 32, sealed: 7 }];
    let listed = Listed { keys: vec![listed_key], whole: Some(record.clone()), unable, read };
    let digest_of = DigestOf { stored: record.clone(), digest: Bytes::from_static(&[1; 16]) };
    vec![
        (
            "probed",
            Reply::new(Tell::Probed(Probed {
                fresh: true,
                chain: Some(record.clone()),
                seeds: vec!["10.0.0.1:7402".into()],
                weight: 100,
            })),
        ),
        ("gossiped-same", Reply::new(Tell::Gossiped(None.into()))),
        ("gossiped-digest", Reply::new(Tell::Gossiped(digest))),
        ("gossiped-delta", Reply::new(Tell::Gossiped(delta))),
        ("copy", Reply::new(Tell::Copy(Copy { held: Held::Object.into(), record: Some(record), epoch: 1, sealed: 2 }))),
        ("written", Reply::new(Tell::Written(Written { flushed: true, layouts: vec![2] }))),
        (
            "page",
            Reply::new(Tell::Page(Page {
                entries,
                next: None,
                epoch: 1,
                unreadable: vec![target()],
                acked: 2,
                ..Page::default()
            })),
        ),
        ("refused", Reply::refused(Refusal::Layout, "another layout")),
        ("buckets-told", Reply::new(Tell::Buckets(buckets()))),
        ("settled", Reply::new(Tell::Settled(Settled { counting: true, until: 300 }))),
        ("listed", Reply::new(Tell::Listed(listed))),
        ("layouts-told", Reply::new(Tell::Layouts(told))),
        ("decided", Reply::new(Tell::Decided(Decided { voice: Some(Voice::Promised(promised)) }))),
        (
            "digests",
            Reply::new(Tell::Digests(Digests { entries: vec![digest_of], next: Some(Bytes::from_static(b"k")) })),
        ),
    ]
}

/// Both directions of a handshake that succeeds, under another secret than the targets know.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let side = |role, n, nonce| {
        Handshake::new(role, entry::hello(n).into(), Secrets::new(&[b"corpus"]).into(), [nonce; 32]).unwrap()
    };
    let (mut dialler, mut listener) = (side(Role::Dialler, 2, 2), side(Role::Listener, 3, 3));
    let mut there = entry::framed(Kind::Hello, false, 0, &dialler.hello());
    let Step::Send(_, hello) = listener.receive(Kind::Hello as u8, &dialler.hello()).unwrap() else { panic!("hello") };
    let mut back = entry::framed(Kind::Hello, false, 0, &hello);
    let Step::Send(_, proof) = dialler.receive(Kind::Hello as u8, &hello).unwrap() else { panic!("proof") };
    there.extend(entry::framed(Kind::Proof, false, 0, &proof));
    let Step::Verified { welcome, .. } = listener.receive(Kind::Proof as u8, &proof).unwrap() else { panic!("end") };
    back.extend(entry::framed(Kind::Proof, false, 0, &welcome.unwrap()));
    (there, back)
}

fn write_corpora() {
    let mut stream = Vec::new();
    for (n, (name, ask)) in requests().into_iter().enumerate() {
        let bytes = Request { head: 3, counted: 2, also: vec![1], budget_us: 1000, ask: Some(ask) }.encode_to_vec();
        save("message", name, &bytes);
        stream.extend(entry::framed(Kind::Request, false, n as u64, &bytes));
    }
    for (name, reply) in replies() {
        save("message", name, &reply.encode_to_vec());
    }
    save("frame", "requests", &stream);
    save("frame", "ping", &entry::framed(Kind::Ping, false, 0, &[]));
    let pieces = [(true, 1, "first "), (false, 2, "between"), (true, 1, "second "), (false, 1, "last")];
    let pieces: Vec<u8> =
        pieces.iter().flat_map(|(more, id, body)| entry::framed(Kind::Reply, *more, *id, body.as_bytes())).collect();
    save("frame", "pieces", &pieces);
    let (there, back) = conversation();
    save("handshake", "dialler", &there);
    save("handshake", "listener", &back);
    let to_member = Handshake::new(Role::Dialler, entry::hello(2).into(), Secrets::default().into(), [2; 32]).unwrap();
    save("handshake", "to-member", &to_member.to_member("10.0.0.1:7402").unwrap().hello());
    save("handshake", "hello", &encode_hello(&entry::hello(2), &[2; 32]));
    save("handshake", "refused", &entry::framed(Kind::Refused, false, 0, b"wrong cluster secret"));
}

#[test]
fn the_corpora_of_the_wire() {
    if writes() {
        write_corpora();
    }
    each("frame", entry::frame);
    each("handshake", entry::handshake);
    each("message", entry::message);
}
