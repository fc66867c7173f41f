//! Whether this node's store speaks in the decision on the next layout, and how it gets its voice back.
//!
//! A directory that is proven to have gone back may have forgotten promises: from then on its store is silent, and
//! sync_acks nothing, for it may have vouched for that, too. It asks everybody who may propose, the members of the newest
//! layout, to renounce the decision that is open (`paxos::Recovery`), again and again until all have; then it speaks,
//! vouches for the most that it can have done, and sync_acks nothing older than the newest layout. All have then said that
//! they know no later layout: it cannot have promised anything in a decision that it does not know of.
//!
//! Everybody is asked, up or not: only an operator's word that a member is gone for good makes up for its answer (`layout
//! force`).
//!
//! Bounds: one recovery at a time, a question a member and second.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::join_all;
use tracing::{error, info, warn};

use super::decide::ANSWER_WITHIN;
use super::keeper::{LOOK_EVERY, LayoutKeeper, Pen};
use crate::paxos::{Decided, DecisionId, Record, Recovery, Reply, Value};
use crate::replica::{Bar, Fault};
use crate::ring::Layout;
use crate::storage::Keyspace;
use crate::transport::messages::layouts::{Decided as Told, Renounce};
use crate::transport::messages::{Ask, Tell};
use crate::types::StoreId;

const RECORD: &[u8] = b"layout/paxos";

/// The entry that remembers what an acceptor said.
pub(super) fn record_entry(decision: DecisionId, record: &Record) -> (Bytes, Bytes) {
    (Bytes::from_static(RECORD), [&decision.0[..], &record.encode()].concat().into())
}

fn decision_behind(parent: &Layout) -> DecisionId {
    DecisionId(parent.hash().0)
}

impl LayoutKeeper {
    /// What this store said as acceptor of a decision; none if nothing.
    pub(super) fn acceptor_record(&self, decision: DecisionId) -> Result<Option<Record>, Fault> {
        match self.inner.replica.storage().get(Keyspace::Meta, RECORD)? {
            Some(bytes) if bytes.starts_with(&decision.0) => {
                Record::decode(&bytes[32..]).map(Some).map_err(|bad| Fault::Malformed(bad.to_string()))
            }
            _ => Ok(None),
        }
    }

    /// Whether the store may speak.
    pub(super) fn may_speak(&self) -> Result<bool, Fault> {
        let barred = self.inner.replica.identity().barred();
        Ok(!matches!(barred, Some(Bar::Starting | Bar::Impostor | Bar::WentBack)) && !self.is_mute()?)
    }

    /// Whether the store may have forgotten what it said.
    fn is_mute(&self) -> Result<bool, Fault> {
        let breaks = self.inner.env.buggify.breaks("who has forgotten asks everybody before it speaks");
        Ok(!breaks && self.inner.replica.went_back()?)
    }

    /// The newest version that bars what is older from being sync_acked: of what was accepted, or may have been and was
    /// forgotten. The caller holds the pen.
    pub(super) fn bound_by(&self, pen: &Pen, newest: &Layout) -> Result<u64, Fault> {
        Ok(if self.is_mute()? { newest.version() + 1 } else { pen.pledged })
    }

    /// How far this store says it has sync_acked, to whoever judges what may be skipped: as far as it may ever have said.
    /// The caller holds the pen.
    pub(super) fn vouches(&self, pen: &Pen, newest: &Layout) -> Result<u64, Fault> {
        if self.is_mute()? {
            return Ok(newest.version());
        }
        let said = self.acceptor_record(decision_behind(newest))?.and_then(|record| record.attestation);
        let said = said.and_then(|said| said.as_ref().try_into().ok().map(u64::from_be_bytes));
        Ok(said.unwrap_or(0).max(pen.own.told().sync_ack))
    }

    /// Whether this node's store has no voice in the decision on the next layout.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.inner.mute.load(Ordering::Acquire)
    }

    /// Recovers the store's voice whenever it has lost it, until the node ends.
    pub(super) async fn keep_voice(self) {
        let mut changes = self.changes();
        let mut recovery = None;
        loop {
            changes.mark_unchanged();
            match self.look_for_voice(&mut recovery).await {
                Ok(Some(parent)) => {
                    if let Some(recovery) = &mut recovery {
                        self.ask_to_renounce(&parent, recovery).await;
                    }
                }
                Ok(None) => recovery = None,
                Err(fault) => error!(%fault, "what this store said about the next layout cannot be stored, or read"),
            }
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                () = self.inner.env.clock.sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The layout whose successor's decision has to be renounced by others before this store speaks in it; none: it may
    /// speak, or nobody asks it. Ends a recovery that has heard everybody, and drops one that is of no use any more.
    async fn look_for_voice(&self, recovery: &mut Option<Recovery>) -> Result<Option<Layout>, Fault> {
        let inner = &self.inner;
        let mut pen = inner.pen.lock().await;
        let Some(known) = self.known().filter(|known| known.is_member()) else { return Ok(None) };
        let (newest, before) = (known.newest().clone(), inner.mute.load(Ordering::Acquire));
        let (decision, mute) = (decision_behind(&newest), self.is_mute()?);
        inner.mute.store(mute, Ordering::Release);
        if !mute {
            return Ok(None);
        }
        if !before {
            warn!(
                version = newest.version() + 1,
                "this store may have forgotten what it said about the next layout: it says nothing there until every member has given up what it proposes"
            );
        }
        if recovery.as_ref().is_none_or(|recovery| recovery.decision() != decision) {
            *recovery = Some(Recovery::new(decision, newest.members().iter().map(|member| member.store)));
        }
        // It may have sync_acked whatever it could.
        let vouched = Bytes::copy_from_slice(&newest.version().to_be_bytes());
        let regained = recovery.as_ref().and_then(|its| its.record(inner.replica.identity().node(), vouched));
        let Some(record) = regained else { return Ok(Some(newest)) };
        // It may have accepted the newest layout, and pledged not to sync_ack what that one left behind.
        let pledged = pen.pledged.max(newest.version());
        inner.replica.remember(vec![record_entry(decision, &record), Self::pledge_entry(pledged)]).await?;
        self.pledged_up_to(&mut pen, pledged);
        inner.replica.heeded_going_back().await?;
        inner.mute.store(false, Ordering::Release);
        drop(pen);
        inner.metrics.layout.voices_regained.inc();
        info!(version = newest.version() + 1, "every member gave up what it proposed: this store has a voice again");
        Ok(None)
    }

    /// Asks whoever has not renounced yet.
    async fn ask_to_renounce(&self, parent: &Layout, recovery: &mut Recovery) {
        let decision = recovery.decision();
        let asked = recovery.unheard().iter().map(|store| self.ask_one_to_renounce(*store, decision));
        for (store, reply) in join_all(asked).await {
            match reply {
                Some(Reply::Renounced { highest }) => recovery.renounced(store, highest),
                Some(Reply::Decided(decided)) => match Layout::decode(decided.value.bytes()) {
                    Ok(layout) => {
                        if let Err(why) = self.append(layout).await {
                            warn!(%store, %why, parent = parent.version(), "what was decided could not be taken");
                        }
                    }
                    Err(bad) => warn!(%store, %bad, "what it says was decided is no layout"),
                },
                // Down, behind, or concluding something right now: it is asked again.
                _ => {}
            }
        }
    }

    async fn ask_one_to_renounce(&self, store: StoreId, decision: DecisionId) -> (StoreId, Option<Reply>) {
        if store == self.inner.me {
            return (store, self.renounce(decision).ok());
        }
        let ask = Ask::Renounce(Renounce { decision: Bytes::copy_from_slice(&decision.0) });
        let reply = match self.inner.peers.call(store, ask, 0, ANSWER_WITHIN).await.map(|reply| reply.tell) {
            Ok(Some(Tell::Decided(told))) => told.reply(decision).ok(),
            _ => None,
        };
        (store, reply)
    }

    /// Gives up what this node proposes in a decision, or tells what was decided.
    fn renounce(&self, decision: DecisionId) -> Result<Reply, Fault> {
        // First: what is concluded after this was not under way any more.
        let tried = self.proposals().renounce(decision);
        let Some(known) = self.known() else { return Ok(Reply::OtherDecision) };
        let asked = |layout: &&Layout| decision_behind(layout) == decision;
        let Some(parent) = known.chain.layouts().iter().find(asked) else { return Ok(Reply::OtherDecision) };
        if let Some(next) = known.chain.get(parent.version() + 1) {
            let value = Value::new(next.encode());
            return Ok(Reply::Decided(Decided { decision, value, attestations: Default::default() }));
        }
        let Some(tried) = tried else { return Ok(Reply::OtherDecision) };
        let promised = self.acceptor_record(decision)?.and_then(|record| record.promised);
        Ok(Reply::Renounced { highest: tried.max(promised.map_or(0, |ballot| ballot.round)) })
    }

    /// Answers a store that has forgotten what it said.
    pub(super) fn serve_renounce(&self, renounce: &Renounce) -> Result<Told, Fault> {
        let decision: [u8; 32] = renounce.decision.as_ref().try_into().map_err(|_| {
            Fault::Malformed(format!("a decision is named by 32 bytes, not by {}", renounce.decision.len()))
        })?;
        self.renounce(DecisionId(decision)).map(|reply| Told::from(&reply))
    }
}
