//! What callers and a connection's one task share: queued output, and who waits for which reply.
//!
//! A caller encodes its request straight into the output buffer under a short lock and wakes the task only if that is
//! idle; so a burst of calls is one wakeup and one write. Bounds: [`Limits::in_flight`] calls and
//! [`Limits::queued_bytes`] of output; past either a call is [`CallError::Busy`], and counted.
//!
//! **What a failure proves.** Every call remembers the batch its first byte was queued in. When the connection ends,
//! a call whose batch the task never took cannot have reached the peer: `NotSent`. All others are `Lost`.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use prost::Message;
use tokio::sync::oneshot;

use crate::transport::counters::{Counters, count};
use crate::transport::frame::{self, Kind};
use crate::transport::messages::Request;
use crate::transport::{CallError, Hello};
use crate::types::Mono;

/// Bits of a request id that index its slot; the rest make it unique on its connection.
const SLOT_BITS: u32 = 20;
/// Most calls in flight that the ids allow for.
pub(super) const MAX_SLOTS: usize = 1 << SLOT_BITS;
/// A batch that is never taken: that of a long message whose first piece still waits.
const NOT_TAKEN: u64 = u64::MAX;

/// The bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) in_flight: usize,
    pub(super) queued_bytes: usize,
    pub(super) message: usize,
}

/// A message too long for one frame, on its way.
pub(super) struct Long {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) rest: Bytes,
}

struct Waiting {
    id: u64,
    batch: u64,
    queued_at: Mono,
    deadline: Mono,
    reply: oneshot::Sender<Result<Bytes, CallError>>,
}

/// Everything behind the lock.
pub(super) struct State {
    closed: Option<String>,
    retired: bool,
    pub(super) drain: bool,
    out: Vec<u8>,
    frames: usize,
    batch: u64,
    long: VecDeque<Long>,
    long_bytes: usize,
    slots: Vec<Option<Waiting>>,
    free: Vec<usize>,
    sequence: u64,
    in_flight: usize,
    next_deadline: Mono,
    waker: Option<Waker>,
}

/// One connection, as seen from outside its task.
pub(super) struct Calls {
    pub(super) peer: Arc<Hello>,
    counters: Arc<Counters>,
    limits: Limits,
    state: Mutex<State>,
}

/// Why a request was not queued.
pub(super) enum Unsent {
    /// The connection takes no more calls: try another.
    Gone,
    /// A bound is reached, or the message is too long for any connection.
    Refused(CallError),
}

impl Calls {
    pub(super) fn new(peer: Arc<Hello>, counters: Arc<Counters>, limits: Limits) -> Self {
        let state = State {
            closed: None,
            retired: false,
            drain: false,
            out: Vec::new(),
            frames: 0,
            batch: 0,
            long: VecDeque::new(),
            long_bytes: 0,
            slots: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            in_flight: 0,
            next_deadline: Mono(u64::MAX),
            waker: None,
        };
        Self { peer, counters, limits, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether new calls are taken.
    pub(super) fn is_usable(&self) -> bool {
        let state = self.lock();
        !state.retired && state.closed.is_none()
    }

    /// Queues a request.
    pub(super) fn send(self: &Arc<Self>, request: &Request, now: Mono, deadline: Mono) -> Result<Call, Unsent> {
        let length = request.encoded_len();
        if length > self.limits.message {
            let text = format!("a message of {length} bytes; at most {} are sent", self.limits.message);
            return Err(Unsent::Refused(CallError::Busy(text)));
        }
        let (reply, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.retired || state.closed.is_some() {
            return Err(Unsent::Gone);
        }
        let queued = state.out.len() + state.long_bytes;
        if state.in_flight >= self.limits.in_flight || (queued > 0 && queued + length > self.limits.queued_bytes) {
            drop(state);
            count(&self.counters.in_flight_bound_hits);
            return Err(Unsent::Refused(CallError::Busy("too many calls in flight to this node".into())));
        }
        let slot = state.free.pop().unwrap_or_else(|| {
            state.slots.push(None);
            state.slots.len() - 1
        });
        state.sequence += 1;
        let id = state.sequence << SLOT_BITS | slot as u64;
        let batch = if length > frame::PIECE {
            state.push_long(Kind::Request, id, request.encode_to_vec().into());
            NOT_TAKEN
        } else {
            state.push(Kind::Request, id, request);
            state.batch
        };
        state.slots[slot] = Some(Waiting { id, batch, queued_at: now, deadline, reply });
        state.in_flight += 1;
        state.next_deadline = state.next_deadline.min(deadline);
        wake(state);
        Ok(Call { calls: self.clone(), id, receiver, ended: false })
    }

    /// Queues a reply, or says that there is one which is too long; gives back how many bytes of output wait.
    pub(super) fn answer(&self, id: u64, reply: &impl Message) -> usize {
        let length = reply.encoded_len();
        let mut state = self.lock();
        if length > self.limits.message {
            let text = format!("the reply has {length} bytes; at most {} are sent", self.limits.message);
            state.push_bytes(Kind::NoReply, id, text.as_bytes());
        } else if length > frame::PIECE {
            state.push_long(Kind::Reply, id, reply.encode_to_vec().into());
        } else {
            state.push(Kind::Reply, id, reply);
        }
        state.out.len() + state.long_bytes
    }

    /// Queues a frame without a message. Called by the task itself.
    pub(super) fn signal(&self, kind: Kind) {
        self.lock().push_bytes(kind, 0, &[]);
    }

    /// Bytes of output that wait.
    pub(super) fn queued_bytes(&self) -> usize {
        let state = self.lock();
        state.out.len() + state.long_bytes
    }

    /// Hands a reply to whoever waits for it.
    pub(super) fn complete(&self, id: u64, result: Result<Bytes, CallError>) {
        let taken = self.lock().take(id);
        match taken {
            // The caller may have gone this very moment: nobody is left to tell.
            Some(waiting) => drop(waiting.reply.send(result)),
            None => count(&self.counters.late_replies),
        }
    }

    /// Ends the calls whose deadline is over; whether the peer was silent all the time that one of them waited.
    pub(super) fn expire(&self, now: Mono, last_heard: Mono) -> bool {
        let mut state = self.lock();
        if state.next_deadline > now {
            return false;
        }
        let due: Vec<u64> = state.slots.iter().flatten().filter(|w| w.deadline <= now).map(|w| w.id).collect();
        let expired: Vec<Waiting> = due.into_iter().filter_map(|id| state.take(id)).collect();
        state.next_deadline = state.slots.iter().flatten().map(|w| w.deadline).min().unwrap_or(Mono(u64::MAX));
        drop(state);
        let mut silent = false;
        for waiting in expired {
            silent |= waiting.queued_at > last_heard;
            drop(waiting.reply.send(Err(CallError::TimedOut)));
        }
        silent
    }

    /// Takes no more calls; the task ends when those in flight have ended.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        state.retired = true;
        wake(state);
    }

    /// Asks the dialler for a new connection, serves this one until it has closed it.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        state.drain = true;
        wake(state);
    }

    /// Ends every call in flight at once.
    pub(super) fn close(&self, why: &str) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.closed = Some(why.to_owned());
        }
        let batch = state.batch;
        let slots = std::mem::take(&mut state.slots);
        state.free.clear();
        state.in_flight = 0;
        state.out = Vec::new();
        state.long.clear();
        state.long_bytes = 0;
        drop(state);
        for waiting in slots.into_iter().flatten() {
            let unseen = waiting.batch >= batch;
            let error = if unseen { CallError::NotSent(why.to_owned()) } else { CallError::Lost(why.to_owned()) };
            drop(waiting.reply.send(Err(error)));
        }
    }

    /// What the task is to do next, in one look; registers `waker` if there is nothing to write.
    pub(super) fn look(&self, waker: &Waker) -> Look {
        let mut state = self.lock();
        let output = !state.out.is_empty() || !state.long.is_empty();
        if !output && !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        Look {
            output,
            next_deadline: state.next_deadline,
            drain: std::mem::take(&mut state.drain),
            done: state.retired && state.in_flight == 0 && !output,
        }
    }

    /// Takes all that is queued: short frames into `out` (empty), and one piece of the long message at the head, whose
    /// header ends `out`. Gives back the piece and the number of frames.
    pub(super) fn take_round(&self, out: &mut Vec<u8>) -> (Bytes, usize) {
        let mut guard = self.lock();
        let state = &mut *guard;
        std::mem::swap(out, &mut state.out);
        state.batch += 1;
        let mut frames = std::mem::take(&mut state.frames);
        let Some(long) = state.long.front_mut() else { return (Bytes::new(), frames) };
        let piece = long.rest.split_to(long.rest.len().min(frame::PIECE));
        let (kind, id, more) = (long.kind, long.id, !long.rest.is_empty());
        if !more {
            state.long.pop_front();
        }
        state.long_bytes -= piece.len();
        if kind == Kind::Request
            && let Some(waiting) = state.waiting(id)
        {
            waiting.batch = 0;
        }
        drop(guard);
        out.extend_from_slice(&frame::header(kind, more, id, &piece));
        frames += 1;
        (piece, frames)
    }

    /// The caller is gone: frees the slot, and the message if nothing of it is on the way.
    fn forget(&self, id: u64) {
        let mut state = self.lock();
        let Some(waiting) = state.take(id) else { return };
        if waiting.batch == NOT_TAKEN
            && let Some(at) = state.long.iter().position(|long| long.kind == Kind::Request && long.id == id)
            && let Some(long) = state.long.remove(at)
        {
            state.long_bytes -= long.rest.len();
        }
        if state.retired {
            wake(state);
        }
    }
}

/// Wakes the task, if it sleeps, after the lock is gone.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl State {
    fn push(&mut self, kind: Kind, id: u64, message: &impl Message) {
        let at = frame::begin(&mut self.out);
        message.encode(&mut self.out).expect("a vector grows");
        frame::finish(&mut self.out, at, kind, false, id);
        self.frames += 1;
    }

    fn push_bytes(&mut self, kind: Kind, id: u64, body: &[u8]) {
        frame::put(&mut self.out, kind, false, id, body);
        self.frames += 1;
    }

    fn push_long(&mut self, kind: Kind, id: u64, rest: Bytes) {
        self.long_bytes += rest.len();
        self.long.push_back(Long { kind, id, rest });
    }

    fn waiting(&mut self, id: u64) -> Option<&mut Waiting> {
        let slot = usize::try_from(id & (MAX_SLOTS as u64 - 1)).ok()?;
        self.slots.get_mut(slot)?.as_mut().filter(|waiting| waiting.id == id)
    }

    fn take(&mut self, id: u64) -> Option<Waiting> {
        self.waiting(id)?;
        let slot = usize::try_from(id & (MAX_SLOTS as u64 - 1)).ok()?;
        self.in_flight -= 1;
        self.free.push(slot);
        self.slots.get_mut(slot)?.take()
    }
}

/// What [`Calls::look`] saw.
pub(super) struct Look {
    pub(super) output: bool,
    pub(super) next_deadline: Mono,
    pub(super) drain: bool,
    pub(super) done: bool,
}

/// A call in flight. Dropping it frees its slot.
pub(super) struct Call {
    calls: Arc<Calls>,
    id: u64,
    receiver: oneshot::Receiver<Result<Bytes, CallError>>,
    ended: bool,
}

impl Future for Call {
    type Output = Result<Bytes, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(|result| {
            self.ended = true;
            result.unwrap_or_else(|_| Err(CallError::Lost("the connection ended".into())))
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.calls.forget(self.id);
        }
    }
}
