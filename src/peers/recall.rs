//! Asking peers what they saw of this store before: was this data directory rolled back, or copied (I-MINT)?

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::{error, warn};

use super::Peers;
use crate::causality::{LastLife, Memory, Start, on_start};
use crate::replica::{Bar, Fault};
use crate::transport::CallError;
use crate::transport::messages::{Ask, Recall, Refusal, Tell};
use crate::types::StoreId;

/// How long a start waits for its peers' answers before it goes on under a new incarnation.
pub const ASK_FOR: Duration = Duration::from_millis(500);

/// What one peer remembers of this store.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    memory: Memory,
    progress: u64,
    /// It remembers the life this node is in.
    kept: bool,
}

enum Said {
    Remembers(Remembered),
    /// The process that answers as this member will not have this node.
    Refuses(String),
    /// The process that answers as this member is none (yet).
    Outside,
    Nothing,
}

impl Said {
    fn remembered(self) -> Option<Remembered> {
        if let Self::Remembers(remembered) = self { Some(remembered) } else { None }
    }
}

async fn ask(peers: &Peers, store: StoreId, remember: bool) -> Said {
    match peers.call(store, Ask::Recall(Recall { remember }), 0, ASK_FOR).await {
        Ok(reply) => match reply.tell {
            Some(Tell::Recalled(told)) => Said::Remembers(Remembered {
                memory: Memory { latest: told.known.then_some((told.generation, told.boot)), alive: false },
                progress: told.progress,
                kept: told.kept,
            }),
            Some(Tell::Refused(refused)) if refused.why() == Refusal::NotOwner => Said::Outside,
            _ => Said::Nothing,
        },
        Err(CallError::Rejected(why)) if refuses_anybody(peers, store).await => Said::Refuses(why),
        Err(_) => Said::Nothing,
    }
}

/// Tells a member that refuses this node from another process at its address (a wiped one, which waits outside): that one
/// answers who asks for nobody in particular.
async fn refuses_anybody(peers: &Peers, store: StoreId) -> bool {
    let Some(chain) = peers.inner.chain.load_full() else { return false };
    let Some(member) = super::member_of(&chain, store) else { return false };
    let asked = peers.ask(&member.peer_address, Ask::Recall(Recall { remember: false }), ASK_FOR).await;
    matches!(asked, Err(CallError::Rejected(_)))
}

/// Whether a peer has seen what this directory does not know: of `life`, or of the lives before.
fn proves_rollback(peers: &Peers, life: LastLife, remembered: Remembered) -> bool {
    let identity = peers.inner.replica.identity();
    let Remembered { memory, progress: seen, .. } = remembered;
    // What it remembers of this life is compared with this life; what it remembers of earlier ones, with what the
    // directory held when it was opened.
    let mine = memory.latest == Some((identity.generation(), identity.boot()));
    let progress = if mine { identity.progress() } else { identity.known_progress() };
    on_start(life, &[memory]) == Start::RolledBack
        || seen > progress
        || memory.latest.is_some_and(|(generation, boot)| identity.disowns(generation, boot))
}

/// The life this node is in, to be compared with what a peer remembers of it.
fn this_life(peers: &Peers) -> LastLife {
    let identity = peers.inner.replica.identity();
    LastLife { ended_clean: true, generation: identity.generation(), boot: identity.boot() }
}

impl Peers {
    /// Decides as whom this start mints: asks all members at once, for at most [`ASK_FOR`], and has those that answered
    /// remember this life before the first mint. It goes on as who it was only where more than half of the others answered
    /// and remember it, none contradicting (`docs/decisions/0013`). Returns why the node must not serve, if it must not:
    /// another process has its store id. One that was refused before, for the reason given, waits for somebody who takes it
    /// in: that nobody answers any more is no word for it.
    pub async fn settle(&self, members: &[StoreId], refused: Option<String>) -> Result<Option<String>, Fault> {
        let said = join_all(members.iter().map(|store| ask(self, *store, false))).await;
        let (mut answers, mut answered, mut refusal) = (Vec::new(), Vec::new(), refused);
        for (said, store) in said.into_iter().zip(members) {
            match said {
                Said::Remembers(remembered) => {
                    answers.push(remembered);
                    answered.push(*store);
                }
                Said::Refuses(why) => refusal = Some(why),
                Said::Outside | Said::Nothing => {}
            }
        }
        // Where one member takes this node in, another's refusal is that one's trouble.
        if answers.is_empty() && refusal.is_some() {
            return Ok(refusal);
        }
        let identity = self.inner.replica.identity();
        let last = identity.last_life();
        let memories: Vec<Memory> = answers.iter().map(|remembered| remembered.memory).collect();
        let mut start = if answers.iter().any(|told| proves_rollback(self, last, *told)) {
            Start::RolledBack
        } else {
            on_start(last, &memories)
        };
        if start == Start::RolledBack {
            self.rolled_back(&answers).await?;
        }
        let remembered = join_all(answered.iter().map(|store| ask(self, *store, true))).await;
        let remembered: Vec<Remembered> = remembered.into_iter().filter_map(Said::remembered).collect();
        // Another process may have started on a copy at the same time, and been remembered first.
        let life = this_life(self);
        if remembered.iter().any(|told| proves_rollback(self, life, *told)) {
            self.rolled_back(&remembered).await?;
            start = Start::RolledBack;
        }
        // More than half of them each time: so one of those that answer knows the last life that went on as who it was.
        let most = members.len() / 2 + 1;
        let kept = remembered.iter().filter(|told| told.kept).count();
        if start == Start::SameIncarnation && answers.len().min(kept) < most {
            start = Start::NewIncarnation;
        }
        identity.settle(start)?;
        let incarnation = identity.incarnation();
        self.introduce(|hello| hello.incarnation = incarnation);
        identity.lift(Bar::Starting);
        Ok(None)
    }

    async fn rolled_back(&self, answers: &[Remembered]) -> Result<(), Fault> {
        let newest = answers.iter().filter_map(|told| told.memory.latest).map(|(generation, _)| generation).max();
        let furthest = answers.iter().map(|told| told.progress).max();
        self.went_back(newest.unwrap_or(0), furthest.unwrap_or(0)).await
    }

    /// It is proven that this data directory went back, or was copied: others have seen it in this generation, and with
    /// this progress. It mints as somebody new, above both, and every partition is merged anew.
    pub async fn went_back(&self, generation: u64, progress: u64) -> Result<(), Fault> {
        warn!(
            "a peer has seen more of this data directory than it holds: it was rolled back or copied; every partition is merged anew from the other owners"
        );
        let identity = self.inner.replica.identity();
        // Until it is another actor it mints nothing; where that fails, not before the proof comes again.
        identity.bar(Bar::WentBack);
        self.inner.replica.roll_back().await?;
        identity.catch_up(generation, progress)?;
        let (generation, incarnation) = (identity.generation(), identity.incarnation());
        self.introduce(|hello| (hello.generation, hello.incarnation) = (generation, incarnation));
        identity.lift(Bar::WentBack);
        Ok(())
    }
}

/// Asks one member that has (re)appeared; acts on what it says, and only then has it remember this life: what it remembered
/// before may be the proof. False: do not count it as up yet.
pub(super) async fn check(peers: &Peers, store: StoreId) -> bool {
    match ask(peers, store, false).await {
        Said::Nothing => false,
        Said::Outside => {
            peers.inner.outside.lock().unwrap_or_else(PoisonError::into_inner).insert(store);
            false
        }
        Said::Refuses(why) => {
            error!(why, "a member refuses this node");
            peers.note_refusal(store, true);
            false
        }
        Said::Remembers(remembered) => {
            peers.note_refusal(store, false);
            if proves_rollback(peers, this_life(peers), remembered)
                && let Err(fault) = peers.rolled_back(&[remembered]).await
            {
                error!(%fault, "could not act on the proof of a rollback");
                return false;
            }
            // A peer whose disk failed cannot remember; it is a peer all the same.
            matches!(ask(peers, store, true).await, Said::Remembers(_))
        }
    }
}
