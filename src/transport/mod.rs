//! The network seam: one call to one peer, and what a failure proves.
//!
//! [`messages`] are all that ever passes between nodes. A transport carries them, knows who is at the other end (its
//! [`Hello`], authenticated by the handshake) and says of each call that failed whether the peer can have seen it: the
//! coordinator's honesty (I-HONEST) and its right to try a second owner rest on that.
//!
//! `tcp.rs` is the real one; `sim/` has the simulated one; `faults.rs` decorates either.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::env::BoxFuture;
use crate::types::{ClusterId, Incarnation, NodeId, StoreId};

pub mod counters;
pub mod faults;
pub mod frame;
pub mod handshake;
pub mod messages;
pub mod tcp;

use messages::{Reply, Request};

/// Who a node says it is when a connection opens; the same for every connection of one boot but for what founding and
/// a new incarnation change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The node.
    pub node: NodeId,
    /// Its data directory's contents.
    pub store: StoreId,
    /// The cluster it is a member of; none while it is fresh.
    pub cluster: Option<ClusterId>,
    /// The life it mints in.
    pub incarnation: Incarnation,
    /// Counts the starts of this data directory; what went back was rolled back or copied.
    pub generation: u64,
    /// Random bits of this start: two processes with one generation are copies of one directory.
    pub boot: u64,
    /// Name for people, unique in the cluster.
    pub name: String,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
    /// Where other nodes reach it: `host:port`.
    pub peer_address: String,
    /// Where clients reach it: `host:port`.
    pub client_address: String,
    /// Oldest and newest protocol version it speaks.
    pub protocol: (u16, u16),
    /// Fingerprint of the `[cluster]` settings that safety needs to be equal; 0 where there is none to compare.
    pub settings: u64,
    /// The other `[cluster]` settings, for people; empty where there are none to compare.
    pub defaults: String,
}

impl Hello {
    /// The `[cluster]` settings here and there, where both are told and differ in what safety does not need.
    #[must_use]
    pub fn other_defaults<'a>(&'a self, peer: &'a Self) -> Option<(&'a str, &'a str)> {
        let (here, there) = (self.defaults.as_str(), peer.defaults.as_str());
        (here != there && !here.is_empty() && !there.is_empty()).then_some((here, there))
    }
}

/// Why a call has no reply, and what that proves.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CallError {
    /// The peer cannot have seen the request: nothing of it was written to a connection that got through.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Not sent: as much as may be is under way to that peer already. Says nothing of the peer.
    #[error("not sent: {0}")]
    Busy(String),
    /// The peer may have seen it, may see it later, may have done it.
    #[error("no answer: {0}")]
    Lost(String),
    /// Not answered within the deadline; the peer may have seen it, may see it later, may have done it.
    #[error("no answer in time")]
    TimedOut,
    /// One of us refuses the other: another cluster, another secret, another store, no common protocol version. The
    /// request was not sent.
    #[error("refused: {0}")]
    Rejected(String),
}

impl CallError {
    /// Whether the peer provably never saw the request.
    #[must_use]
    pub const fn proves_unseen(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Busy(_) | Self::Rejected(_))
    }
}

/// A peer's reply, and who gave it.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The node that answered.
    pub from: Arc<Hello>,
    /// What it said.
    pub reply: Reply,
}

/// A member of another cluster, which called and proved that it knows the secret. It was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranger {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// The address it called, where its layout lists a member there: so it took this node for that member.
    pub dialled: Option<String>,
}

/// What a node does with what others send it. Registered once by `node/`, so that nothing below it names a service.
pub trait Handler: Send + Sync + 'static {
    /// Whether to talk to this node at all; the text says why not and what to do.
    fn admit(&self, peer: &Hello) -> Result<(), String>;

    /// Whether the layout in force lists a member at this address: who is called there is told so.
    fn lists(&self, address: &str) -> bool {
        let _ = address;
        false
    }

    /// A member of another cluster called, and was refused.
    fn overhear(&self, stranger: &Stranger) {
        let _ = stranger;
    }

    /// Answers one request. Runs beside the others of the same connection.
    fn handle(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply>;
}

/// Carries requests to peers and replies back.
pub trait Transport: Send + Sync + 'static {
    /// Sets who this node is, to whom it listens from now on, and by whom requests are answered. Calls again when
    /// founding or a new incarnation changes the [`Hello`]; connections made under the old one are made anew. After
    /// [`Transport::shutdown`] it does nothing.
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>);

    /// Sends `request` to the node at `address` and waits for its reply for at most `deadline`.
    ///
    /// Where `expect` is given, only a node with that store id gets the request; another one at that address is
    /// [`CallError::Rejected`].
    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>>;

    /// What it has counted since it began.
    fn stats(&self) -> counters::Stats {
        counters::Stats::default()
    }

    /// Closes every connection and stops listening. Requests under way are [`CallError::Lost`].
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}
