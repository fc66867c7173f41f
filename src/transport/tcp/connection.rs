//! One open connection: a single task that reads, serves, writes and keeps its deadlines.
//!
//! One task, not a reader, a writer and one per request: under load a wakeup then handles many frames of each sort.
//! **Coalescing**: when there is something to write, the task first lets every other task that is ready run once (it
//! wakes itself and goes to the end of the queue); what those queue meanwhile goes out in the same write.
//!
//! **Deadlines** cost no timer per call: one timer stands at the earliest deadline; when it fires, all calls are looked
//! through once and it is set to the earliest of what is left.
//!
//! **Silence.** TCP that was cut by a partition may stay dead for minutes after it heals. So when a call times out and
//! nothing at all was heard since it was queued, and whenever nothing was heard for [`Tuning::idle_probe`], the task
//! sends a ping; if nothing is heard within [`Tuning::probe_timeout`], the connection is closed.
//!
//! **Backpressure** on the serving side: nothing is read while [`Tuning::serving`] requests are under way or
//! [`HIGH_WATER`] bytes of replies wait; nothing is dropped.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use tokio_util::io::poll_read_buf;

use super::calls::Calls;
use super::net::Stream;
use crate::env::{BoxFuture, Env};
use crate::transport::counters::{Counters, add, count};
use crate::transport::frame::{self, Assembler, Frame, FrameError, Kind};
use crate::transport::messages::{Refusal, Reply, Request};
use crate::transport::{CallError, Handler};
use crate::types::Mono;

/// Bytes a buffer for reading is made with: the most that one read takes.
const READ: usize = 64 * 1024;
/// With less room than this left, a new one is made: frames that are still in use keep the old one.
const ROOM: usize = 4 * 1024;
/// Reading stops while this many bytes of output wait.
const HIGH_WATER: usize = 4 * 1024 * 1024;
/// An emptied buffer larger than this is given back.
const KEEP: usize = 1024 * 1024;
/// Turns of the loop before other tasks run.
const TURNS: usize = 16;

/// What a connection's task is told by the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    pub(super) max_frame: usize,
    pub(super) max_message: usize,
    pub(super) serving: usize,
    pub(super) idle_probe: Duration,
    pub(super) probe_timeout: Duration,
    pub(super) drain: Duration,
}

struct Serving {
    id: u64,
    reply: BoxFuture<'static, Reply>,
}

impl Future for Serving {
    type Output = (u64, Reply);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(self.reply.as_mut().poll(cx));
        Poll::Ready((self.id, reply))
    }
}

/// The task. As a future it ends when the connection does, and says why.
pub(super) struct Connection {
    env: Env,
    calls: Arc<Calls>,
    counters: Arc<Counters>,
    tuning: Tuning,
    /// Answers requests; none on a dialled connection.
    handler: Option<Arc<dyn Handler>>,
    stream: Box<dyn Stream>,
    input: BytesMut,
    assembler: Assembler,
    serving: FuturesUnordered<Serving>,
    writing: Vec<u8>,
    written: usize,
    piece: Bytes,
    yielded: bool,
    heard: Mono,
    probe_until: Option<Mono>,
    drain_until: Option<Mono>,
    timer: Option<(Mono, BoxFuture<'static, ()>)>,
}

impl Drop for Connection {
    /// However the task ends, its callers learn it.
    fn drop(&mut self) {
        self.calls.close("the connection was closed");
    }
}

impl Connection {
    /// A connection whose handshake is over; `input` is what was read past it.
    pub(super) fn new(
        env: Env,
        calls: Arc<Calls>,
        counters: Arc<Counters>,
        tuning: Tuning,
        stream: Box<dyn Stream>,
        input: BytesMut,
    ) -> Self {
        let heard = env.clock.now();
        Self {
            env,
            calls,
            counters,
            tuning,
            handler: None,
            stream,
            input,
            assembler: Assembler::new(tuning.max_message),
            serving: FuturesUnordered::new(),
            writing: Vec::new(),
            written: 0,
            piece: Bytes::new(),
            yielded: false,
            heard,
            probe_until: None,
            drain_until: None,
            timer: None,
        }
    }

    /// Answers what comes by `handler`.
    pub(super) fn served_by(mut self, handler: Arc<dyn Handler>) -> Self {
        self.handler = Some(handler);
        self
    }

    /// Runs until the connection ends, then lets the requests under way end. Gives back why it ended.
    pub(super) async fn run(mut self) -> String {
        let why = std::future::poll_fn(|cx| self.poll_turns(cx)).await;
        self.calls.close(&why);
        let mut serving = std::mem::take(&mut self.serving);
        drop(self);
        while serving.next().await.is_some() {}
        why
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        for _ in 0..TURNS {
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(why) => return Poll::Ready(why),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One turn; whether to take another at once.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let mut again = self.read(cx)?;
        again |= self.serve(cx);
        let look = self.calls.look(cx.waker());
        if look.done && self.serving.is_empty() && self.is_written() {
            return Err("retired".into());
        }
        if look.drain && self.drain_until.is_none() {
            self.calls.signal(Kind::Goodbye);
            self.drain_until = Some(self.env.clock.now() + self.tuning.drain);
            again = true;
        }
        again |= self.keep_time(cx, look.next_deadline)?;
        if self.is_written() {
            if !look.output {
                return Ok(again);
            }
            if !std::mem::replace(&mut self.yielded, true) {
                cx.waker().wake_by_ref();
                return Ok(false);
            }
        }
        self.yielded = false;
        again |= self.write(cx).map_err(|error| format!("write: {error}"))?;
        Ok(again)
    }

    /// A dialled connection always reads: were both ends to wait for the other to read, neither would.
    fn may_read(&self) -> bool {
        self.handler.is_none() || (self.serving.len() < self.tuning.serving && self.calls.queued_bytes() < HIGH_WATER)
    }

    /// Reads once and takes every whole frame; whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let again = self.take_frames(cx)?;
        if !self.may_read() {
            return Ok(again);
        }
        if self.input.capacity() - self.input.len() < ROOM {
            self.input.reserve(READ);
        }
        let n = match poll_read_buf(Pin::new(&mut *self.stream), cx, &mut self.input) {
            Poll::Pending => return Ok(again),
            Poll::Ready(Err(error)) => return Err(format!("read: {error}")),
            Poll::Ready(Ok(0)) => return Err("the peer closed the connection".into()),
            Poll::Ready(Ok(n)) => n,
        };
        count(&self.counters.reads);
        add(&self.counters.bytes_in, n);
        self.heard = self.env.clock.now();
        self.probe_until = None;
        self.take_frames(cx)?;
        // Only a read that finds nothing leaves a waker behind.
        Ok(true)
    }

    fn take_frames(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let mut taken = 0;
        let mut crowded = self.handler.is_some() && self.calls.queued_bytes() >= HIGH_WATER;
        while self.serving.len() < self.tuning.serving && !crowded {
            let frame = match frame::decode(&mut self.input, self.tuning.max_frame) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return Err(self.broken(error)),
            };
            taken += 1;
            match self.assembler.push(frame) {
                Ok(Some(message)) => crowded = self.take_message(cx, message),
                Ok(None) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        add(&self.counters.frames_in, taken);
        Ok(taken > 0)
    }

    fn broken(&self, error: FrameError) -> String {
        let checksum = matches!(error, FrameError::Checksum);
        count(if checksum { &self.counters.bad_checksums } else { &self.counters.bad_frames });
        format!("broken frame: {error}")
    }

    /// Does what one message asks for; whether so much output waits that no more requests are to be taken.
    fn take_message(&mut self, cx: &mut Context<'_>, Frame { kind, id, body, .. }: Frame) -> bool {
        match (Kind::of(kind), &self.handler) {
            (Some(Kind::Reply), _) => self.calls.complete(id, Ok(body)),
            (Some(Kind::NoReply), _) => {
                let text = String::from_utf8_lossy(&body).into_owned();
                self.calls.complete(id, Err(CallError::Lost(text)));
            }
            (Some(Kind::Request), Some(handler)) => match Request::decode(body) {
                Ok(request) => {
                    let mut reply = handler.handle(self.calls.peer.clone(), request);
                    // What memory can answer is answered here: nothing is set up for what will not have to wait.
                    match reply.as_mut().poll(cx) {
                        Poll::Ready(reply) => return self.calls.answer(id, &reply) >= HIGH_WATER,
                        Poll::Pending => self.serving.push(Serving { id, reply }),
                    }
                }
                Err(error) => {
                    count(&self.counters.malformed_requests);
                    let reply = Reply::refused(Refusal::Malformed, error.to_string());
                    return self.calls.answer(id, &reply) >= HIGH_WATER;
                }
            },
            (Some(Kind::Ping), _) => self.calls.signal(Kind::Pong),
            (Some(Kind::Pong), _) => {}
            (Some(Kind::Goodbye), _) => self.calls.retire(),
            _ => {
                count(&self.counters.unknown_frames);
                let text = format!("frames of kind {kind} are not understood on this connection");
                self.calls.answer(id, &Reply::refused(Refusal::Unknown, text));
            }
        }
        false
    }

    /// Moves the requests under way on; whether one ended.
    fn serve(&mut self, cx: &mut Context<'_>) -> bool {
        let mut ended = false;
        while !self.serving.is_empty() && self.calls.queued_bytes() < HIGH_WATER {
            let Poll::Ready(Some((id, reply))) = self.serving.poll_next_unpin(cx) else { break };
            self.calls.answer(id, &reply);
            ended = true;
        }
        ended
    }

    /// Sets the timer to what is due next and does what is due; whether something was done.
    fn keep_time(&mut self, cx: &mut Context<'_>, next_deadline: Mono) -> Result<bool, String> {
        let idle = self.heard + self.tuning.idle_probe;
        let due = [Some(next_deadline), Some(self.probe_until.unwrap_or(idle)), self.drain_until];
        let at = due.into_iter().flatten().min().unwrap_or(idle);
        if self.timer.as_ref().is_none_or(|(set, _)| at < *set) {
            let wait = at.since(self.env.clock.now());
            self.timer = Some((at, self.env.clock.sleep(wait)));
        }
        let Some((_, sleep)) = &mut self.timer else { return Ok(false) };
        if sleep.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        self.timer = None;
        let now = self.env.clock.now();
        if self.probe_until.is_some_and(|until| until <= now) {
            count(&self.counters.silent_peers);
            return Err("the peer is silent".into());
        }
        if self.drain_until.is_some_and(|until| until <= now) {
            return Err("superseded".into());
        }
        if self.serving.len() >= self.tuning.serving {
            // It is we who do not listen.
            self.heard = now;
        }
        let silent = self.calls.expire(now, self.heard) || self.heard + self.tuning.idle_probe <= now;
        if silent && self.probe_until.is_none() {
            self.calls.signal(Kind::Ping);
            self.probe_until = Some(now + self.tuning.probe_timeout);
        }
        Ok(true)
    }

    fn is_written(&self) -> bool {
        self.written == self.writing.len() && self.piece.is_empty()
    }

    /// Writes what is queued, until nothing is left (true: look again) or the socket takes no more.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.is_written() {
            self.writing.clear();
            self.writing.shrink_to(KEEP);
            self.written = 0;
            let (piece, frames) = self.calls.take_round(&mut self.writing);
            self.piece = piece;
            add(&self.counters.frames_out, frames);
        }
        while !self.is_written() {
            let parts = [io::IoSlice::new(&self.writing[self.written..]), io::IoSlice::new(&self.piece)];
            let stream = Pin::new(&mut *self.stream);
            let polled = match (parts[0].is_empty(), parts[1].is_empty()) {
                (false, false) => stream.poll_write_vectored(cx, &parts),
                (false, true) => stream.poll_write(cx, &parts[0]),
                (true, _) => stream.poll_write(cx, &parts[1]),
            };
            let n = match polled {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => result?,
            };
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            count(&self.counters.writes);
            add(&self.counters.bytes_out, n);
            let first = n.min(self.writing.len() - self.written);
            self.written += first;
            bytes::Buf::advance(&mut self.piece, n - first);
        }
        match Pin::new(&mut *self.stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(true),
        }
    }
}
