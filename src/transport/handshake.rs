//! The handshake: who is at the other end, and does it know the cluster's secret?
//!
//! ```text
//! dialler                                 listener
//!    | Hello (who I am, fresh nonce)  ----->  | protocol, settings, not myself
//!    | <-----  Hello (who I am, fresh nonce)  |
//!    | Proof  ----------------------------->  | checks it, then the cluster, asks Handler::admit
//!    | <-----------------------------  Proof  |
//!    | checks it, then the cluster, asks Handler::admit; requests may follow
//! ```
//! Either side may end it by `Refused` with a text for people.
//!
//! A proof is a keyed hash (BLAKE3, key derived from the secret) over the prover's role and both hellos, byte for byte
//! as they were sent, nonces included. So the secret never travels; a proof seen once is worth nothing on another
//! connection (nonces) or thrown back at its maker (role); nobody can change a hello on the way. The dialler proves
//! first: whoever just connects learns nothing to try guesses against. It authenticates the opening of a connection and
//! encrypts nothing: against somebody *on* the path only TLS helps.
//!
//! Members of two clusters refuse each other only once the secret is proved: a node that founded alone by mistake stops
//! on such a call ([`Stranger`]), and nobody else shall be able to stop it.
//!
//! **Rotation**: the first secret signs, all verify. Add the new one second on every node, then swap them, then
//! remove the old one. **Without a secret** a fixed key is used, so there is one code path; nodes then trust whoever
//! reaches the port.
//!
//! Pure: nonces are handed in, frames are bytes in and bytes out; [`Handshake::receive`] says what to do next.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use super::frame::{Kind, UNAUTHENTICATED_CAP};
use super::{Hello, Stranger};
use crate::types::{ClusterId, Incarnation, NodeId, StoreId};

/// First bytes of every hello.
pub const MAGIC: &[u8; 8] = b"quorate\0";
/// Longest text taken from a peer that refuses.
const MAX_REFUSAL: usize = 512;
const KEY_CONTEXT: &str = "quorate 2026-11 peer handshake v1";
const NO_SECRET: &[u8] = b"";

/// A number used once: 256 random bits for one connection.
pub type Nonce = [u8; 32];

/// The cluster's secrets: the first signs, all verify.
#[derive(Clone)]
pub struct Secrets(Vec<[u8; 32]>);

impl Secrets {
    /// Of these secrets; none means the fixed key that every node without a secret uses.
    #[must_use]
    pub fn new(secrets: &[&[u8]]) -> Self {
        let given = if secrets.is_empty() { &[NO_SECRET][..] } else { secrets };
        Self(given.iter().map(|secret| blake3::derive_key(KEY_CONTEXT, secret)).collect())
    }
}

impl Default for Secrets {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} not shown)", self.0.len())
    }
}

/// Why two nodes do not talk. The text is for people.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum HandshakeError {
    /// Whoever is there does not speak this protocol.
    #[error("this is no Quorate peer port (wrong magic bytes)")]
    Magic,
    /// A frame that cannot be read.
    #[error("unreadable handshake: {0}")]
    Malformed(&'static str),
    /// A frame that has no place here.
    #[error("unexpected frame of kind {0} in the handshake")]
    Unexpected(u8),
    /// What this node says of itself does not fit a frame.
    #[error(
        "this node's name, labels and addresses are too long: {0} bytes, at most {UNAUTHENTICATED_CAP} fit a handshake"
    )]
    OwnHelloTooLong(usize),
    /// No protocol version that both speak.
    #[error("no common protocol version: {0:?} here, {1:?} there; upgrade the older node")]
    Protocol((u16, u16), (u16, u16)),
    /// Members of two clusters.
    #[error(
        "other cluster: {mine} here, {} there ({:?} at {:?}). One of the two has the other's address among its seeds or \
         took it over: set node.seeds and node.advertise right; a node changes its cluster only with an empty data \
         directory",
        .stranger.cluster, .stranger.name, .stranger.address
    )]
    OtherCluster {
        /// Ours.
        mine: ClusterId,
        /// Who called, or was called.
        stranger: Stranger,
    },
    /// `[cluster]` differs.
    #[error(
        "other [cluster] settings: fingerprint {mine:016x} here, {theirs:016x} at {name:?}; they must be equal on all nodes"
    )]
    OtherSettings {
        /// Ours.
        mine: u64,
        /// Theirs.
        theirs: u64,
        /// The peer's name.
        name: String,
    },
    /// The peer is this very process.
    #[error("this is myself: the address leads back to this node")]
    Myself,
    /// Another process with this node's id.
    #[error("the process at {address:?} has this node's id {node}: is its data directory a copy of ours?")]
    SameNode {
        /// The id.
        node: NodeId,
        /// The peer's address.
        address: String,
    },
    /// The peer does not know our secret, or we do not know its.
    #[error("wrong cluster secret")]
    WrongSecret,
    /// The peer does not want us.
    #[error("{0}")]
    Refused(String),
}

impl HandshakeError {
    /// A peer's refusal, as it may be shown: of bounded length, without control characters.
    #[must_use]
    pub fn refused_by_peer(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&text[..text.len().min(MAX_REFUSAL)]);
        Self::Refused(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

/// Which end of the connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Opened it.
    Dialler,
    /// Took it.
    Listener,
}

/// What to do after a frame of the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this, then wait.
    Send(Kind, Bytes),
    /// The peer is who it says: ask [`super::Handler::admit`]; if it agrees, send `welcome` where there is one, and the
    /// connection is open.
    Verified {
        /// Who it is.
        peer: Arc<Hello>,
        /// The protocol version to speak.
        protocol: u16,
        /// The proof that the dialler waits for.
        welcome: Option<Bytes>,
    },
}

/// One side of one handshake.
#[derive(Debug)]
pub struct Handshake {
    role: Role,
    me: Arc<Hello>,
    secrets: Arc<Secrets>,
    nonce: Nonce,
    mine: Bytes,
    theirs: Option<Theirs>,
}

/// A peer's hello.
#[derive(Debug)]
struct Theirs {
    bytes: Bytes,
    hello: Arc<Hello>,
    /// The member's address it called, as its layout has it.
    dialled: Option<String>,
    protocol: u16,
}

impl Handshake {
    /// Begins one. A dialler sends [`Handshake::hello`] first, a listener waits.
    pub fn new(role: Role, me: Arc<Hello>, secrets: Arc<Secrets>, nonce: Nonce) -> Result<Self, HandshakeError> {
        let mine = encode_hello(&me, &nonce);
        Self { role, me, secrets, nonce, mine, theirs: None }.fitting()
    }

    /// Says in the hello that this node's layout lists a member at `dialled`, the address being called.
    pub fn to_member(mut self, dialled: &str) -> Result<Self, HandshakeError> {
        self.mine = encode(&self.me, &self.nonce, Some(dialled));
        self.fitting()
    }

    fn fitting(self) -> Result<Self, HandshakeError> {
        let len = self.mine.len();
        if len > UNAUTHENTICATED_CAP { Err(HandshakeError::OwnHelloTooLong(len)) } else { Ok(self) }
    }

    /// The body of this side's [`Kind::Hello`].
    #[must_use]
    pub fn hello(&self) -> Bytes {
        self.mine.clone()
    }

    /// Takes the peer's next frame.
    pub fn receive(&mut self, kind: u8, body: &Bytes) -> Result<Step, HandshakeError> {
        match (Kind::of(kind), self.theirs.take()) {
            (Some(Kind::Refused), _) => Err(HandshakeError::refused_by_peer(body)),
            (Some(Kind::Hello), None) => {
                let (hello, _, dialled) = decode(body)?;
                let protocol = self.judge(&hello)?;
                self.theirs = Some(Theirs { bytes: body.clone(), hello: Arc::new(hello), dialled, protocol });
                Ok(match self.role {
                    Role::Dialler => Step::Send(Kind::Proof, self.prove(body)),
                    Role::Listener => Step::Send(Kind::Hello, self.hello()),
                })
            }
            (Some(Kind::Proof), Some(Theirs { bytes, hello: peer, dialled, protocol })) => {
                self.verify(&bytes, body)?;
                of_one_cluster(&self.me, &peer, dialled)?;
                same_settings(&self.me, &peer)?;
                let welcome = (self.role == Role::Listener).then(|| self.prove(&bytes));
                Ok(Step::Verified { peer, protocol, welcome })
            }
            _ => Err(HandshakeError::Unexpected(kind)),
        }
    }

    /// Whether the two may talk at all, as far as that can be known without the node's own rules; the protocol version.
    fn judge(&self, peer: &Hello) -> Result<u16, HandshakeError> {
        let me = &*self.me;
        let protocol = me.protocol.1.min(peer.protocol.1);
        if protocol < me.protocol.0.max(peer.protocol.0) {
            return Err(HandshakeError::Protocol(me.protocol, peer.protocol));
        }
        if peer.node == me.node && peer.boot == me.boot {
            return Err(HandshakeError::Myself);
        }
        if peer.node == me.node {
            let address = peer.peer_address.clone();
            return Err(HandshakeError::SameNode { node: me.node, address });
        }
        Ok(protocol)
    }

    fn prove(&self, theirs: &[u8]) -> Bytes {
        // `Secrets` is never empty.
        let key = self.secrets.0.first().copied().unwrap_or_default();
        Bytes::copy_from_slice(self.proof(&key, self.role, theirs).as_bytes())
    }

    fn verify(&self, theirs: &[u8], proof: &[u8]) -> Result<(), HandshakeError> {
        let proof: [u8; 32] = proof.try_into().map_err(|_| HandshakeError::Malformed("a proof has 32 bytes"))?;
        let other = match self.role {
            Role::Dialler => Role::Listener,
            Role::Listener => Role::Dialler,
        };
        // `blake3::Hash` compares in constant time.
        let known = self.secrets.0.iter().any(|key| self.proof(key, other, theirs) == blake3::Hash::from_bytes(proof));
        if known { Ok(()) } else { Err(HandshakeError::WrongSecret) }
    }

    /// What `prover` proves with `key`: the same bytes whichever side computes it.
    fn proof(&self, key: &[u8; 32], prover: Role, theirs: &[u8]) -> blake3::Hash {
        let (dialler, listener) = match self.role {
            Role::Dialler => (&self.mine[..], theirs),
            Role::Listener => (theirs, &self.mine[..]),
        };
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&[match prover {
            Role::Dialler => 1,
            Role::Listener => 2,
        }]);
        for hello in [dialler, listener] {
            hasher.update(&(hello.len() as u64).to_be_bytes());
            hasher.update(hello);
        }
        hasher.finalize()
    }
}

/// Whether two members are set up alike where they have to be. Asked last: what else is wrong says more.
fn same_settings(me: &Hello, peer: &Hello) -> Result<(), HandshakeError> {
    if me.settings != 0 && peer.settings != 0 && me.settings != peer.settings {
        let name = peer.name.clone();
        return Err(HandshakeError::OtherSettings { mine: me.settings, theirs: peer.settings, name });
    }
    Ok(())
}

/// Refuses the member of another cluster. `dialled` is what its hello says of the address it called.
pub fn of_one_cluster(me: &Hello, peer: &Hello, dialled: Option<String>) -> Result<(), HandshakeError> {
    match (me.cluster, peer.cluster) {
        (Some(mine), Some(cluster)) if mine != cluster => {
            let (name, address) = (peer.name.clone(), peer.peer_address.clone());
            Err(HandshakeError::OtherCluster { mine, stranger: Stranger { cluster, name, address, dialled } })
        }
        _ => Ok(()),
    }
}

/// A hello on the wire, after [`MAGIC`].
#[derive(Clone, PartialEq, Message)]
struct WireHello {
    #[prost(uint32, tag = "1")]
    protocol_min: u32,
    #[prost(uint32, tag = "2")]
    protocol_max: u32,
    #[prost(bytes = "bytes", tag = "3")]
    nonce: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    node: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    store: Bytes,
    #[prost(bytes = "bytes", optional, tag = "6")]
    cluster: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "7")]
    incarnation: Bytes,
    #[prost(uint64, tag = "8")]
    generation: u64,
    #[prost(fixed64, tag = "9")]
    boot: u64,
    #[prost(string, tag = "10")]
    name: String,
    #[prost(string, tag = "11")]
    region: String,
    #[prost(string, tag = "12")]
    zone: String,
    #[prost(string, tag = "13")]
    peer_address: String,
    #[prost(string, tag = "14")]
    client_address: String,
    #[prost(fixed64, tag = "15")]
    settings: u64,
    #[prost(string, optional, tag = "16")]
    dialled: Option<String>,
    #[prost(string, tag = "17")]
    defaults: String,
}

/// The body of a [`Kind::Hello`] frame.
#[must_use]
pub fn encode_hello(hello: &Hello, nonce: &Nonce) -> Bytes {
    encode(hello, nonce, None)
}

fn encode(hello: &Hello, nonce: &Nonce, dialled: Option<&str>) -> Bytes {
    let wire = WireHello {
        protocol_min: hello.protocol.0.into(),
        protocol_max: hello.protocol.1.into(),
        nonce: Bytes::copy_from_slice(nonce),
        node: Bytes::copy_from_slice(hello.node.as_bytes()),
        store: Bytes::copy_from_slice(hello.store.as_bytes()),
        cluster: hello.cluster.map(|cluster| Bytes::copy_from_slice(cluster.as_bytes())),
        incarnation: Bytes::copy_from_slice(&hello.incarnation.0.to_be_bytes()),
        generation: hello.generation,
        boot: hello.boot,
        name: hello.name.clone(),
        region: hello.region.clone(),
        zone: hello.zone.clone(),
        peer_address: hello.peer_address.clone(),
        client_address: hello.client_address.clone(),
        settings: hello.settings,
        dialled: dialled.map(str::to_owned),
        defaults: hello.defaults.clone(),
    };
    let mut out = MAGIC.to_vec();
    wire.encode(&mut out).expect("a vector grows");
    out.into()
}

/// Reads the body of a [`Kind::Hello`] frame.
pub fn decode_hello(body: &Bytes) -> Result<(Hello, Nonce), HandshakeError> {
    decode(body).map(|(hello, nonce, _)| (hello, nonce))
}

fn decode(body: &Bytes) -> Result<(Hello, Nonce, Option<String>), HandshakeError> {
    use HandshakeError::Malformed;
    if !body.starts_with(MAGIC) {
        return Err(HandshakeError::Magic);
    }
    let wire = WireHello::decode(body.slice(MAGIC.len()..)).map_err(|_| Malformed("the hello"))?;
    let version = |number: u32| u16::try_from(number).map_err(|_| Malformed("a protocol version"));
    let incarnation = wire.incarnation[..].try_into().map_err(|_| Malformed("the incarnation"))?;
    let hello = Hello {
        node: NodeId::from_slice(&wire.node).ok_or(Malformed("the node id"))?,
        store: StoreId::from_slice(&wire.store).ok_or(Malformed("the store id"))?,
        cluster: match wire.cluster {
            Some(bytes) => Some(ClusterId::from_slice(&bytes).ok_or(Malformed("the cluster id"))?),
            None => None,
        },
        incarnation: Incarnation(u128::from_be_bytes(incarnation)),
        generation: wire.generation,
        boot: wire.boot,
        name: wire.name,
        region: wire.region,
        zone: wire.zone,
        peer_address: wire.peer_address,
        client_address: wire.client_address,
        protocol: (version(wire.protocol_min)?, version(wire.protocol_max)?),
        settings: wire.settings,
        defaults: wire.defaults,
    };
    let nonce = wire.nonce[..].try_into().map_err(|_| Malformed("the nonce"))?;
    Ok((hello, nonce, wire.dialled))
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
