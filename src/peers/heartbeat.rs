//! One task a member: is it up, by this node's own round trips?

use std::time::Duration;

use tracing::{info, warn};

use super::{DOWN_AFTER, HEARTBEAT_EVERY, PeerMood, PeerStatus, Peers};
use crate::causality::Reading;
use crate::transport::messages::{Ask, Request, Tell};
use crate::transport::{Answer, CallError};
use crate::types::{Mono, StoreId, Wall};

/// How long one heartbeat may take: shorter than [`DOWN_AFTER`], so that a single lost one takes nobody down.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// A task that wakes this much too late was stalled with the whole node: it judges nobody this time.
const STALLED: Duration = Duration::from_millis(500);

/// Begins to watch a member.
pub(super) fn start(peers: &Peers, store: StoreId, address: String) {
    let peers = peers.clone();
    let tasks = peers.inner.env.tasks.clone();
    tasks.spawn(async move {
        let clock = peers.inner.env.clock.clone();
        let mut last_heard = clock.now();
        loop {
            let sent = clock.now();
            let beat = peers.beat();
            let sent_wall = Wall(beat.wall_ms);
            let request = Request::new(Ask::Heartbeat(beat));
            let answer = peers.inner.transport.call(&address, Some(store), request, ANSWER_WITHIN).await;
            let now = clock.now();
            match answer {
                Ok(answer) => {
                    if heard(&peers, store, &answer, (sent, sent_wall), now).await {
                        last_heard = now;
                    }
                }
                // Full of this node's own calls: that says nothing of the peer.
                Err(CallError::Busy(_)) => {}
                Err(failed) => {
                    peers.inner.metrics.peers.heartbeat_misses.inc();
                    peers.inner.clocks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).forget(store);
                    let refused = matches!(failed, CallError::NotSent(_) | CallError::Rejected(_));
                    if refused || now.since(last_heard) >= DOWN_AFTER {
                        suspect(&peers, store, &failed.to_string());
                    }
                }
            }
            let slept_from = clock.now();
            clock.sleep(HEARTBEAT_EVERY).await;
            let now = clock.now();
            if now.since(slept_from) > HEARTBEAT_EVERY + STALLED
                || now.since(sent) > ANSWER_WITHIN + HEARTBEAT_EVERY + STALLED
            {
                last_heard = now;
            }
        }
    });
}

/// Takes a member that cannot be reached for down, at once.
pub(super) fn suspect(peers: &Peers, store: StoreId, why: &str) {
    if !peers.up().is_up(store) {
        return;
    }
    let now = peers.inner.env.clock.now();
    peers.inner.metrics.peers.went_down.inc();
    warn!(%store, why, "a member is down");
    peers.change(|up| {
        if let Some(peer) = up.peers.get_mut(&store) {
            *peer = PeerStatus { up: false, since: now, why: why.to_owned(), ..peer.clone() };
        }
    });
}

/// A heartbeat was answered. Tells whether the member counts as heard from.
async fn heard(peers: &Peers, store: StoreId, answer: &Answer, (sent, sent_wall): (Mono, Wall), now: Mono) -> bool {
    let Some(Tell::Alive(beat)) = &answer.reply.tell else { return false };
    peers.inner.seen.answered(store, answer.from.boot, now);
    {
        let reading = Reading::new(sent_wall, now.since(sent), Wall(beat.wall_ms));
        peers.inner.clocks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).note(store, reading);
    }
    let mood = PeerMood::from_bits(beat.state);
    let up = peers.up();
    let before = up.get(store);
    let same_process =
        before.is_some_and(|peer| peer.hello.as_ref().is_some_and(|hello| hello.boot == answer.from.boot));
    let was_up = before.is_some_and(|peer| peer.up);
    if was_up && same_process && before.is_some_and(|peer| peer.mood == mood) {
        return true;
    }
    if !(was_up && same_process) {
        // Whoever was away may have seen more of this store than this node remembers of itself.
        if !super::recall::check(peers, store).await {
            return false;
        }
        info!(%store, name = answer.from.name, "a member is up");
        if let Some((here, there)) = peers.hello().other_defaults(&answer.from) {
            warn!(%store, name = answer.from.name, here, there, "[cluster] settings differ");
        }
    }
    let since = if was_up { before.map_or(now, |peer| peer.since) } else { now };
    let status = PeerStatus { up: true, since, mood, hello: Some(answer.from.clone()), why: String::new() };
    peers.change(|up| drop(up.peers.insert(store, status.clone())));
    true
}
