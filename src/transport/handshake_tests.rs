//! Tests of the handshake: both sides as pure machines, and somebody in between.

use proptest::prelude::*;

use super::*;

fn hello(n: u128) -> Hello {
    Hello {
        node: NodeId::from_bits(n),
        store: StoreId::from_bits(n + 100),
        cluster: Some(ClusterId::from_bits(7)),
        incarnation: Incarnation(n + 200),
        generation: 3,
        boot: 40 + n as u64,
        name: format!("n{n}"),
        region: "eu".into(),
        zone: "a".into(),
        peer_address: format!("10.0.0.{n}:7402"),
        client_address: format!("10.0.0.{n}:7400"),
        protocol: (1, 1),
        settings: 0xfeed,
        defaults: String::new(),
    }
}

fn side(role: Role, me: Hello, secrets: &[&[u8]], nonce: u8) -> Handshake {
    Handshake::new(role, Arc::new(me), Arc::new(Secrets::new(secrets)), [nonce; 32]).unwrap()
}

type Parties = (Arc<Hello>, Arc<Hello>, u16);

/// Runs both sides to the end: who each one says it talks to.
fn run(mut dialler: Handshake, mut listener: Handshake) -> Result<Parties, HandshakeError> {
    let Step::Send(kind, body) = listener.receive(Kind::Hello as u8, &dialler.hello())? else { panic!("hello") };
    let Step::Send(kind, body) = dialler.receive(kind as u8, &body)? else { panic!("proof") };
    let Step::Verified { peer: seen, protocol, welcome } = listener.receive(kind as u8, &body)? else { panic!("end") };
    let last = dialler.receive(Kind::Proof as u8, &welcome.expect("the listener's proof"))?;
    let Step::Verified { peer, protocol: same, welcome: None } = last else { panic!("end") };
    assert_eq!(protocol, same);
    Ok((peer, seen, protocol))
}

fn meet(a: Hello, b: Hello) -> Result<Parties, HandshakeError> {
    run(side(Role::Dialler, a, &[b"s"], 1), side(Role::Listener, b, &[b"s"], 2))
}

#[test]
fn golden_bytes() {
    let body = encode_hello(&hello(1), &[0xab; 32]);
    assert_eq!(
        hex(&body),
        concat!(
            "71756f7261746500080110011a20abababababababababababababababababababababababababababababababab2210",
            "000000000000000000000000000000012a10000000000000000000000000000000653210000000000000000000000000",
            "000000073a10000000000000000000000000000000c9400349290000000000000052026e315a0265756201616a0d3130",
            "2e302e302e313a37343032720d31302e302e302e313a3734303079edfe000000000000"
        )
    );
    let dialler = side(Role::Dialler, hello(1), &[b"secret"], 1);
    assert_eq!(
        hex(&dialler.prove(&encode_hello(&hello(2), &[2; 32]))),
        "c5cca99e29a8b2cc6f44b25c9cc4f8309c96b60fd2552908f9573870c3128b7a"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_learns_who_the_other_is() {
    let (peer, seen, protocol) = meet(hello(1), hello(2)).unwrap();
    assert_eq!((&*peer, &*seen, protocol), (&hello(2), &hello(1), 1));
}

#[test]
fn the_newest_common_protocol_is_spoken() {
    let speaks = |n, protocol| Hello { protocol, ..hello(n) };
    assert_eq!(meet(speaks(1, (1, 4)), speaks(2, (2, 3))).unwrap().2, 3);
    let refused = meet(speaks(1, (1, 2)), speaks(2, (3, 4))).unwrap_err();
    assert_eq!(refused, HandshakeError::Protocol((3, 4), (1, 2)));
    assert!(refused.to_string().contains("no common protocol version"), "{refused}");
}

#[test]
fn clusters_do_not_mix_but_the_fresh_may_ask() {
    let fresh = |n| Hello { cluster: None, ..hello(n) };
    assert!(meet(fresh(1), hello(2)).is_ok());
    assert!(meet(hello(1), fresh(2)).is_ok());
    assert!(meet(fresh(1), fresh(2)).is_ok());
    let other = Hello { cluster: Some(ClusterId::from_bits(8)), ..hello(2) };
    let refused = meet(hello(1), other).unwrap_err();
    assert!(refused.to_string().starts_with("other cluster"), "{refused}");
}

#[test]
fn a_stranger_is_heard_once_it_has_proved_the_secret() {
    let other = Hello { cluster: Some(ClusterId::from_bits(8)), ..hello(1) };
    let meets = |secret: &[u8], dialled: Option<&str>| {
        let mut dialler = side(Role::Dialler, other.clone(), &[secret], 1);
        if let Some(address) = dialled {
            dialler = dialler.to_member(address).unwrap();
        }
        run(dialler, side(Role::Listener, hello(2), &[b"s"], 2)).unwrap_err()
    };
    for dialled in [Some("10.0.0.2:7402"), None] {
        let HandshakeError::OtherCluster { mine, stranger } = meets(b"s", dialled) else { panic!("{dialled:?}") };
        let dialled = dialled.map(str::to_owned);
        let (cluster, name, address) = (ClusterId::from_bits(8), "n1".to_owned(), "10.0.0.1:7402".to_owned());
        assert_eq!((mine, stranger), (ClusterId::from_bits(7), Stranger { cluster, name, address, dialled }));
    }
    assert_eq!(meets(b"guessed", Some("10.0.0.2:7402")), HandshakeError::WrongSecret);
}

#[test]
fn settings_differ_only_where_both_have_some() {
    let with = |n, settings| Hello { settings, ..hello(n) };
    assert!(meet(with(1, 0), with(2, 5)).is_ok());
    assert!(meet(with(1, 5), with(2, 0)).is_ok());
    let refused = meet(with(1, 4), with(2, 5)).unwrap_err();
    assert!(matches!(refused, HandshakeError::OtherSettings { mine: 5, theirs: 4, .. }), "{refused:?}");
}

#[test]
fn a_node_does_not_talk_to_itself_or_to_its_copy() {
    assert_eq!(meet(hello(1), hello(1)).unwrap_err(), HandshakeError::Myself);
    let copy = Hello { boot: 99, ..hello(1) };
    assert!(matches!(meet(hello(1), copy).unwrap_err(), HandshakeError::SameNode { .. }));
}

#[test]
fn secrets_rotate_without_a_gap() {
    let with = |dialler: &[&[u8]], listener: &[&[u8]]| {
        run(side(Role::Dialler, hello(1), dialler, 1), side(Role::Listener, hello(2), listener, 2)).map(|_| ())
    };
    let steps: [&[&[u8]]; 4] = [&[b"old"], &[b"old", b"new"], &[b"new", b"old"], &[b"new"]];
    for pair in steps.windows(2) {
        for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            assert_eq!(with(pair[a], pair[b]), Ok(()), "{a} {b} of {pair:?}");
        }
    }
    assert_eq!(with(&[b"old"], &[b"new"]), Err(HandshakeError::WrongSecret));
    assert_eq!(with(&[], &[b"new"]), Err(HandshakeError::WrongSecret));
    assert_eq!(with(&[], &[]), Ok(()));
}

#[test]
fn a_proof_replayed_on_another_connection_fails() {
    let mut dialler = side(Role::Dialler, hello(1), &[b"s"], 1);
    let mut listener = side(Role::Listener, hello(2), &[b"s"], 2);
    let Step::Send(_, answer) = listener.receive(1, &dialler.hello()).unwrap() else { panic!("hello") };
    let Step::Send(_, proof) = dialler.receive(1, &answer).unwrap() else { panic!("proof") };
    // Somebody who recorded all of it opens a second connection with the same hello.
    let mut later = side(Role::Listener, hello(2), &[b"s"], 3);
    later.receive(1, &dialler.hello()).unwrap();
    assert_eq!(later.receive(2, &proof), Err(HandshakeError::WrongSecret));
    assert!(listener.receive(2, &proof).is_ok());
}

#[test]
fn a_proof_thrown_back_fails() {
    // Somebody without the secret listens, and answers the dialler's proof with that very proof.
    let mut dialler = side(Role::Dialler, hello(1), &[b"s"], 1);
    let Step::Send(_, proof) = dialler.receive(1, &encode_hello(&hello(2), &[2; 32])).unwrap() else { panic!("proof") };
    assert_eq!(dialler.receive(2, &proof), Err(HandshakeError::WrongSecret));
}

#[test]
fn a_hello_changed_on_the_way_fails() {
    let mut dialler = side(Role::Dialler, hello(1), &[b"s"], 1);
    let mut listener = side(Role::Listener, hello(2), &[b"s"], 2);
    let changed = encode_hello(&Hello { store: StoreId::from_bits(666), ..hello(1) }, &[1; 32]);
    let Step::Send(_, answer) = listener.receive(1, &changed).unwrap() else { panic!("hello") };
    let Step::Send(_, proof) = dialler.receive(1, &answer).unwrap() else { panic!("proof") };
    assert_eq!(listener.receive(2, &proof), Err(HandshakeError::WrongSecret));
}

#[test]
fn nothing_is_skipped() {
    let mut listener = side(Role::Listener, hello(2), &[b"s"], 2);
    assert_eq!(listener.receive(2, &Bytes::from_static(&[0; 32])), Err(HandshakeError::Unexpected(2)));
    assert_eq!(listener.receive(Kind::Request as u8, &Bytes::new()), Err(HandshakeError::Unexpected(10)));
    assert_eq!(listener.receive(1, &Bytes::from_static(b"GET / HTTP/1.1")), Err(HandshakeError::Magic));
    let text = listener.receive(3, &Bytes::from_static(b"go\x1b[2J away\n")).unwrap_err().to_string();
    assert_eq!(text, "go [2J away ");
}

#[test]
fn an_own_hello_that_does_not_fit_is_said_at_once() {
    let me = Hello { name: "n".repeat(5000), ..hello(1) };
    let refused = Handshake::new(Role::Dialler, Arc::new(me), Arc::default(), [0; 32]).unwrap_err();
    assert!(matches!(refused, HandshakeError::OwnHelloTooLong(5001..)), "{refused:?}");
}

fn any_hello() -> impl Strategy<Value = Hello> {
    let ids = (any::<u128>(), any::<u128>(), any::<Option<u128>>(), any::<u128>());
    let numbers = (any::<u64>(), any::<u64>(), any::<(u16, u16)>(), any::<u64>());
    let texts = (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}");
    (ids, numbers, texts).prop_map(
        |((node, store, cluster, incarnation), (generation, boot, protocol, settings), texts)| Hello {
            node: NodeId::from_bits(node),
            store: StoreId::from_bits(store),
            cluster: cluster.map(ClusterId::from_bits),
            incarnation: Incarnation(incarnation),
            generation,
            boot,
            name: texts.0,
            region: texts.1,
            zone: texts.2,
            peer_address: texts.3,
            client_address: texts.4,
            protocol,
            settings,
            defaults: texts.5,
        },
    )
}

proptest! {
    #[test]
    fn hellos_round_trip(hello in any_hello(), nonce in any::<[u8; 32]>()) {
        prop_assert_eq!(decode_hello(&encode_hello(&hello, &nonce)), Ok((hello, nonce)));
    }

    #[test]
    fn any_bytes_are_read_or_refused(kind in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let mut body = if magic { MAGIC.to_vec() } else { Vec::new() };
        body.extend(bytes);
        let mut listener = side(Role::Listener, hello(2), &[b"s"], 2);
        let first = listener.receive(kind, &body.clone().into());
        let second = listener.receive(Kind::Proof as u8, &body.into());
        for step in [first, second] {
            let verified = matches!(step, Ok(Step::Verified { .. }));
            prop_assert!(!verified);
        }
    }
}
