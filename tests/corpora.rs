//! The fuzzing corpora of the wire, as plain tests: every file goes through what its fuzz target does.
//!
//! Seeds are made from real encodings: `QUORATE_WRITE_CORPORA=1 cargo test --test corpora` writes them anew.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use bytes::Bytes;
use prost::Message;
use quorate::transport::frame::Kind;
use quorate::transport::handshake::{Handshake, Role, Secrets, Step, encode_hello};
use quorate::transport::messages::{
    self, Ask, Copy, Fetch, HandedWrite, Heartbeat, Held, Page, PageEntry, Probe, Probed, Read, Refusal, Reply,
    Request, Target, Tell, Write, Written,
};

#[path = "../fuzz/entry/wire.rs"]
#[allow(unreachable_pub)]
mod wire;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn each(target: &str, run: fn(&[u8])) {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder(target)).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        run(&bytes);
        // And cut short or damaged anywhere.
        for at in 0..bytes.len().min(400) {
            run(&bytes[..at]);
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            run(&damaged);
        }
        seen += 1;
    }
    assert!(seen > 0, "no corpus for {target}");
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(folder(target)).unwrap();
    std::fs::write(folder(target).join(name), bytes).unwrap();
}

fn target() -> Target {
    Target { bucket: "b".into(), generation: 1, key: Bytes::from_static(b"key") }
}

fn requests() -> Vec<(&'static str, Ask)> {
    let record = Bytes::from_static(b"a record");
    vec![
        ("probe", Ask::Probe(Probe {})),
        ("heartbeat", Ask::Heartbeat(Heartbeat { wall_ms: 1, state: 7, progress: 3 })),
        ("read", Ask::Read(Read { target: target(), have: Some(record.clone()), to_mend: true })),
        ("write", Ask::Write(Write { target: target(), record: record.clone(), epoch: 4, flush: true })),
        (
            "handed-write",
            Ask::HandedWrite(HandedWrite {
                target: target(),
                level: "quorum".into(),
                payload: messages::Payload { value: Some(record), ..messages::Payload::default() },
                ..HandedWrite::default()
            }),
        ),
        ("fetch", Ask::Fetch(Fetch { partition: 9, after: Bytes::from_static(b"after"), max_bytes: 1000 })),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let record = Bytes::from_static(b"a record");
    let entries = vec![PageEntry { target: target(), record: record.clone() }];
    vec![
        (
            "probed",
            Reply::new(Tell::Probed(Probed {
                fresh: true,
                layout: Some(record.clone()),
                seeds: vec!["10.0.0.1:7402".into()],
                weight: 100,
            })),
        ),
        ("copy", Reply::new(Tell::Copy(Copy { held: Held::Object.into(), record: Some(record), epoch: 1, sealed: 2 }))),
        ("written", Reply::new(Tell::Written(Written { flushed: true }))),
        ("page", Reply::new(Tell::Page(Page { entries, next: None, epoch: 1, unreadable: vec![target()] }))),
        ("refused", Reply::refused(Refusal::Layout, "another layout")),
    ]
}

/// Both directions of a handshake that succeeds, under another secret than the targets know.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let side = |role, n, nonce| {
        Handshake::new(role, wire::hello(n).into(), Secrets::new(&[b"corpus"]).into(), [nonce; 32]).unwrap()
    };
    let (mut dialler, mut listener) = (side(Role::Dialler, 2, 2), side(Role::Listener, 3, 3));
    let mut there = wire::framed(Kind::Hello, false, 0, &dialler.hello());
    let Step::Send(_, hello) = listener.receive(Kind::Hello as u8, &dialler.hello()).unwrap() else { panic!("hello") };
    let mut back = wire::framed(Kind::Hello, false, 0, &hello);
    let Step::Send(_, proof) = dialler.receive(Kind::Hello as u8, &hello).unwrap() else { panic!("proof") };
    there.extend(wire::framed(Kind::Proof, false, 0, &proof));
    let Step::Verified { welcome, .. } = listener.receive(Kind::Proof as u8, &proof).unwrap() else { panic!("end") };
    back.extend(wire::framed(Kind::Proof, false, 0, &welcome.unwrap()));
    (there, back)
}

fn write_corpora() {
    let mut stream = Vec::new();
    for (n, (name, ask)) in requests().into_iter().enumerate() {
        let bytes = Request { head: 3, counted: 2, budget_us: 1000, ask: Some(ask) }.encode_to_vec();
        write("message", name, &bytes);
        stream.extend(wire::framed(Kind::Request, false, n as u64, &bytes));
    }
    for (name, reply) in replies() {
        write("message", name, &reply.encode_to_vec());
    }
    write("frame", "requests", &stream);
    write("frame", "ping", &wire::framed(Kind::Ping, false, 0, &[]));
    let pieces = [(true, 1, "first "), (false, 2, "between"), (true, 1, "second "), (false, 1, "last")];
    let pieces: Vec<u8> =
        pieces.iter().flat_map(|(more, id, body)| wire::framed(Kind::Reply, *more, *id, body.as_bytes())).collect();
    write("frame", "pieces", &pieces);
    let (there, back) = conversation();
    write("handshake", "dialler", &there);
    write("handshake", "listener", &back);
    write("handshake", "hello", &encode_hello(&wire::hello(2), &[2; 32]));
    write("handshake", "refused", &wire::framed(Kind::Refused, false, 0, b"wrong cluster secret"));
}

#[test]
fn corpora() {
    if std::env::var_os("QUORATE_WRITE_CORPORA").is_some() {
        write_corpora();
    }
    each("frame", wire::frame);
    each("handshake", wire::handshake);
    each("message", wire::message);
}
