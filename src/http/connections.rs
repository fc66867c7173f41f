//! The connections of one listener: how many there are, which of them wait for a request, and how they are told to end.
//!
//! The register is locked where a connection comes or goes, not at a request: a request marks its own connection alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use futures_util::task::AtomicWaker;

use super::routes::Routes;

/// It is at work on a request.
const AT_WORK: u64 = 0;

/// What a connection is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Told {
    /// Go on.
    Nothing,
    /// Finish the request under way, take no further one.
    Finish,
    /// End at once.
    Close,
}

/// All connections of a listener, by number.
#[derive(Default)]
struct Register {
    last: u64,
    open: BTreeMap<u64, Arc<State>>,
}

/// The connections there are.
pub(super) struct Connections {
    register: Mutex<Register>,
    /// Counts the times that a connection began to wait: who waits longest has the least number.
    waits: AtomicU64,
}

/// What others may change of a connection.
struct State {
    /// When it began to wait for a request, as a count; [`AT_WORK`] while it does not wait.
    waiting: AtomicU64,
    told: AtomicU8,
    waker: AtomicWaker,
}

impl State {
    fn told(&self) -> Told {
        match self.told.load(Ordering::Acquire) {
            0 => Told::Nothing,
            told if told == Told::Finish as u8 => Told::Finish,
            _ => Told::Close,
        }
    }

    fn tell(&self, told: Told) {
        self.told.fetch_max(told as u8, Ordering::Release);
        self.waker.wake();
    }
}

impl Connections {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { register: Mutex::default(), waits: AtomicU64::new(AT_WORK) })
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection that will be served by `routes`, another one's if need be: of those that wait, the
    /// one which has waited longest is closed. None where all are at work.
    pub(super) fn open(self: &Arc<Self>, most: usize, routes: &Arc<Routes>) -> Option<Connection> {
        let mut register = self.lock();
        if register.open.len() >= most {
            let number = register.longest()?;
            if let Some(longest) = register.open.remove(&number) {
                longest.tell(Told::Close);
            }
        }
        register.last += 1;
        let number = register.last;
        let state = Arc::new(State {
            waiting: AtomicU64::new(self.next_wait()),
            told: AtomicU8::new(Told::Nothing as u8),
            waker: AtomicWaker::new(),
        });
        register.open.insert(number, Arc::clone(&state));
        Some(Connection { all: Arc::clone(self), number, state, routes: Arc::clone(routes) })
    }

    /// Tells all of them.
    pub(super) fn tell(&self, told: Told) {
        for state in self.lock().open.values() {
            state.tell(told);
        }
    }

    fn next_wait(&self) -> u64 {
        self.waits.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Register {
    /// Which of those that wait has waited longest.
    fn longest(&self) -> Option<u64> {
        let waits = self.open.iter().map(|(number, state)| (state.waiting.load(Ordering::Relaxed), *number));
        waits.filter(|(since, _)| *since != AT_WORK).min().map(|(_, number)| number)
    }
}

/// A connection's place in the register.
pub(super) struct Connection {
    all: Arc<Connections>,
    number: u64,
    state: Arc<State>,
    /// What it serves.
    pub(super) routes: Arc<Routes>,
}

impl Connection {
    /// Marks it as at work until what this gives back is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Working {
        self.state.waiting.store(AT_WORK, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    /// What it is told by now. Its task is woken when that changes; `known` is the waker that this is sure of.
    pub(super) fn told(&self, known: &mut Option<Waker>, cx: &mut Context<'_>) -> Told {
        let told = self.state.told();
        if told == Told::Nothing && known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            return told;
        }
        // To be woken uses a waker up: told something, it is handed in again.
        *known = Some(cx.waker().clone());
        self.state.waker.register(cx.waker());
        self.state.told()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.lock().open.remove(&self.number);
    }
}

/// Marks its connection as at work until dropped.
pub(super) struct Working(pub(super) Arc<Connection>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.state.waiting.store(self.0.all.next_wait(), Ordering::Relaxed);
    }
}
