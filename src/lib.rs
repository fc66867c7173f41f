//! Quorate: a leaderless, Dynamo-style quorum database. This page is the map.
//!
//! **The one idea: decide apart from do.** A pure half decides: plain state machines, values in, values out, without
//! clock, randomness, socket or disk. A shell half does. Between them stand four seams: time and entropy ([`mod@env`]),
//! [`storage`], [`transport`]. Whoever replaces the seams gets a whole cluster in one deterministic, seeded process.
//!
//! Arrows point down only: edges -> [`node`], `client`, `sim` -> shell -> [`kv`] -> seams -> pure. A test holds them.

pub mod types;

pub mod causality;
pub mod collect;
pub mod membership;
pub mod merkle;
pub mod pacing;
pub mod paxos;
pub mod quorum;
pub mod ring;

pub mod env;
pub mod metrics;
pub mod storage;
pub mod transport;

pub mod kv;

pub mod cluster;
pub mod coordinator;
pub mod node;
pub mod peers;
pub mod repair;
pub mod replica;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "sim")]
pub mod sim;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "http")]
pub mod http;
