//! One task a member sends heartbeats and tells the failure detector what came of them; one task judges all members.

use std::sync::PoisonError;
use std::time::Duration;

use tracing::{info, warn};

use super::{HEARTBEAT_EVERY, PeerMood, PeerStatus, Peers};
use crate::causality::Reading;
use crate::transport::messages::{Ask, Request, Tell};
use crate::transport::{Answer, CallError, Hello};
use crate::types::{Mono, StoreId, Wall};

/// How long one heartbeat may take: short enough that two lost in a row take no regular member down.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// How soon a heartbeat for which there was no room is tried again: under load the member must not fall silent.
const ROOM_WITHIN: Duration = Duration::from_millis(25);

/// Begins to watch a member.
pub(super) fn start(peers: &Peers, store: StoreId, address: String) {
    peers.detector().watch(store, peers.inner.env.clock.now());
    let peers = peers.clone();
    let tasks = peers.inner.env.tasks.clone();
    tasks.spawn(async move {
        let clock = peers.inner.env.clock.clone();
        // Until it is no member any more, or another task has taken over because it moved.
        while peers.beats_to(store, &address) {
            let sent = clock.now();
            let beat = peers.beat(store);
            let sent_wall = Wall(beat.wall_ms);
            let request = Request { head: peers.head(), ..Request::new(Ask::Heartbeat(beat)) };
            let answer = peers.inner.transport.call(&address, Some(store), request, ANSWER_WITHIN).await;
            let now = clock.now();
            let mut every = HEARTBEAT_EVERY;
            match answer {
                Ok(answer) => heard(&peers, store, &answer, (sent, sent_wall), now).await,
                // Full of this node's own calls: that says nothing of the member.
                Err(CallError::Busy(_)) => every = ROOM_WITHIN,
                Err(failed) => {
                    peers.inner.metrics.peers.heartbeat_misses.inc();
                    peers.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner).forget(store);
                    // What took all its time was not refused, whatever became of it: that is silence.
                    let refused = matches!(failed, CallError::NotSent(_) | CallError::Rejected(_));
                    if refused && now.since(sent) < ANSWER_WITHIN {
                        let mut detector = peers.detector();
                        detector.broke(store);
                        down(&peers, store, &failed.to_string());
                    }
                }
            }
            // After one that was lost the next is due at once, and where somebody has just come in.
            let mut come_in = std::pin::pin!(peers.inner.come_in.notified());
            come_in.as_mut().enable();
            tokio::select! {
                biased;
                () = &mut come_in => {}
                () = clock.sleep(every.saturating_sub(now.since(sent))) => {}
            }
        }
    });
}

/// Begins to judge everybody's silence.
pub(super) fn judge(peers: &Peers) {
    let peers = peers.clone();
    let tasks = peers.inner.env.tasks.clone();
    tasks.spawn(async move {
        loop {
            peers.inner.env.clock.sleep(HEARTBEAT_EVERY).await;
            let now = peers.inner.env.clock.now();
            let mut detector = peers.detector();
            for store in detector.judge(now) {
                down(&peers, store, "it is silent");
            }
        }
    });
}

/// Publishes that a member is down. The detector is held by the caller.
fn down(peers: &Peers, store: StoreId, why: &str) {
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

/// A heartbeat was answered.
async fn heard(peers: &Peers, store: StoreId, answer: &Answer, (sent, sent_wall): (Mono, Wall), now: Mono) {
    let Some(Tell::Alive(beat)) = &answer.reply.tell else { return };
    peers.note_head(store, answer.reply.head);
    peers.inner.seen.answered(store, answer.from.boot, now);
    {
        let reading = Reading::new(sent_wall, now.since(sent), Wall(beat.wall_ms));
        peers.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner).note(store, reading);
    }
    let mood = PeerMood::from_bits(beat.state);
    let up = peers.up();
    let before = up.get(store);
    let same_process =
        before.is_some_and(|peer| peer.hello.as_ref().is_some_and(|hello| hello.boot == answer.from.boot));
    let was_up = before.is_some_and(|peer| peer.up);
    if !(was_up && same_process) {
        // Whoever was away may have seen more of this store than this node remembers of itself.
        if !super::recall::check(peers, store).await {
            return;
        }
        info!(%store, name = answer.from.name, "a member is up");
        if let Some((here, there)) = peers.hello().other_defaults(&answer.from) {
            warn!(%store, name = answer.from.name, here, there, "[cluster] settings differ");
        }
    }
    // What it was asked meanwhile it has answered as well.
    let now = peers.inner.env.clock.now();
    let mut detector = peers.detector();
    detector.heartbeat(store, now);
    // It may have been judged while it was asked.
    let life = |hello: &Hello| (hello.generation, hello.incarnation);
    let same_life = |peer: &PeerStatus| peer.hello.as_ref().is_some_and(|known| life(known) == life(&answer.from));
    if same_process && peers.up().get(store).is_some_and(|peer| peer.up && peer.mood == mood && same_life(peer)) {
        return;
    }
    let since = if was_up { before.map_or(now, |peer| peer.since) } else { now };
    let status = PeerStatus { up: true, since, mood, hello: Some(answer.from.clone()), why: String::new() };
    peers.change(|up| {
        // One that is no member any more was taken out meanwhile.
        if let Some(peer) = up.peers.get_mut(&store) {
            *peer = status.clone();
        }
    });
}
