//! What the targets `frame`, `handshake` and `message` do with an input; `tests/corpora/` does the same with each
//! file of the corpora. None may panic, whatever the bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate::membership::{self, Life, View};
use quorate::transport::Hello;
use quorate::transport::frame::{self, Assembler, HEADER_LEN, Kind, UNAUTHENTICATED_CAP};
use quorate::transport::handshake::{Handshake, Role, Secrets, Step, decode_hello, encode_hello};
use quorate::transport::messages::gossip::{Gossip, GossipAsk, GossipTell, Gossiped};
use quorate::transport::messages::{Ask, Reply, Request, Tell};
use quorate::types::{ClusterId, Incarnation, Mono, NodeId, StoreId};

/// Reads a stream of frames and puts messages together: never more comes out than went in.
pub fn frame(data: &[u8]) {
    for cap in [UNAUTHENTICATED_CAP, 1 << 24] {
        let mut buffer = BytesMut::from(data);
        let mut assembler = Assembler::new(1 << 24);
        let (mut read, mut whole) = (0, 0);
        while let Ok(Some(frame)) = frame::decode(&mut buffer, cap) {
            read += HEADER_LEN + frame.body.len();
            match assembler.push(frame) {
                Ok(Some(message)) => whole += message.body.len(),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        assert!(read <= data.len() && whole <= read);
    }
}

/// Plays the input, a stream of frames, to both roles: nobody without the secret gets through.
pub fn handshake(data: &[u8]) {
    for role in [Role::Dialler, Role::Listener] {
        let secrets = Arc::new(Secrets::new(&[b"not in any corpus"]));
        let Ok(mut handshake) = Handshake::new(role, Arc::new(hello(1)), secrets, [7; 32]) else { continue };
        let mut buffer = BytesMut::from(data);
        while let Ok(Some(frame)) = frame::decode(&mut buffer, UNAUTHENTICATED_CAP) {
            match handshake.receive(frame.kind, &frame.body) {
                Ok(Step::Verified { .. }) => panic!("verified without the secret"),
                Ok(Step::Send(..)) => {}
                Err(error) => assert!(error.to_string().len() < 16 * UNAUTHENTICATED_CAP),
            }
        }
    }
    // A hello that can be read says the same when it is written again.
    if let Ok((hello, nonce)) = decode_hello(&Bytes::copy_from_slice(data)) {
        assert_eq!(decode_hello(&encode_hello(&hello, &nonce)), Ok((hello, nonce)));
    }
}

/// Decodes requests and replies: what can be read is the same when it is written and read again. Gossip that is let in
/// stays within its bounds, and spoils no view.
pub fn message(data: &[u8]) {
    use prost::Message;
    if let Ok(request) = Request::decode(data) {
        if let Some(Ask::Gossip(Gossip { ask: Some(GossipAsk::Push(push)) })) = &request.ask
            && let Ok(push) = membership::Push::try_from(push)
        {
            assert!(push.delta.weight() <= membership::DELTA_MAX);
            let (delta, _) = view().answer_push(&push, 1, Mono(1));
            assert!(delta.weight() <= membership::DELTA_MAX);
        }
        assert_eq!(Request::decode(&request.encode_to_vec()[..]).as_ref(), Ok(&request));
    }
    if let Ok(reply) = Reply::decode(data) {
        if let Some(Tell::Gossiped(Gossiped { tell: Some(GossipTell::Digest(digest)) })) = &reply.tell
            && let Ok(digest) = membership::Digest::try_from(digest)
        {
            assert!(view().answer_digest(&digest, 1, Mono(1)).0.wants.len() <= membership::KNOWN_MAX);
        }
        if let Some(Tell::Gossiped(Gossiped { tell: Some(GossipTell::Delta(delta)) })) = &reply.tell
            && let Ok(delta) = membership::Delta::try_from(delta)
        {
            view().apply(&delta, Mono(1));
        }
        assert_eq!(Reply::decode(&reply.encode_to_vec()[..]).as_ref(), Ok(&reply));
    }
}

/// What a node knows that has heard of nobody.
fn view() -> View {
    View::new(NodeId::from_bits(1), Life { generation: 2, boot: 3 }, Mono(0))
}

/// A node; its hello is the same in the corpora.
pub fn hello(n: u128) -> Hello {
    Hello {
        node: NodeId::from_bits(n),
        store: StoreId::from_bits(n + 1),
        cluster: Some(ClusterId::from_bits(1)),
        incarnation: Incarnation(n + 2),
        generation: 3,
        boot: n as u64,
        name: format!("n{n}"),
        region: "eu".into(),
        zone: "a".into(),
        peer_address: "10.0.0.1:7402".into(),
        client_address: "10.0.0.1:7400".into(),
        protocol: (1, 1),
        settings: 1,
        defaults: String::new(),
    }
}

/// One frame, for seeds.
pub fn framed(kind: Kind, more: bool, id: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, more, id, body);
    out
}
