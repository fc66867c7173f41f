//! What stands for the machine: turmoil's sockets behind the transport's seam and the HTTP edge's, and clocks on
//! turmoil's time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quorate::env::{Blocking, BoxFuture, Buggify, Clock, Entropy, Env, Tasks};
use quorate::sim::time::START;
use quorate::transport::tcp::{Listener, Net, Stream};
use quorate::types::{Mono, Wall};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use turmoil::net::{TcpListener, TcpStream};

/// What sockets do that no program may count on, and what a bad cable does.
pub(crate) struct Whims {
    pub(crate) entropy: Entropy,
    /// Chance that a read or a write takes a few bytes, though there are more.
    pub(crate) short: f64,
    /// Chance that something read from a peer has a bit turned over.
    pub(crate) flipped: f64,
}

/// The most that a short read or write takes.
const FEW: usize = 16;

/// What all hosts of one run share: its time, its sockets' whims, and its trace.
pub(crate) struct World {
    /// When the current step began, in microseconds.
    step: AtomicU64,
    whims: Whims,
    /// No bit is turned over any more.
    calm: AtomicBool,
    flips: AtomicU64,
    trace: Option<Mutex<String>>,
}

impl World {
    pub(crate) fn new(whims: Whims, traced: bool) -> Arc<Self> {
        let (step, calm, flips) = Default::default();
        Arc::new(Self { step, whims, calm, flips, trace: traced.then(Mutex::default) })
    }

    /// From now on cables are good.
    pub(crate) fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Bits turned over so far.
    pub(crate) fn flips(&self) -> u64 {
        self.flips.load(Ordering::Relaxed)
    }

    /// How many bytes the next read or write may take of so many.
    fn few(&self, of: usize) -> usize {
        let Whims { entropy, short, .. } = &self.whims;
        if entropy.chance(*short) { of.min(1 + entropy.below(FEW as u64) as usize) } else { of }
    }

    /// Turns a bit over, perhaps.
    fn spoil(&self, bytes: &mut [u8]) {
        let Whims { entropy, flipped, .. } = &self.whims;
        if !bytes.is_empty() && !self.calm.load(Ordering::Relaxed) && entropy.chance(*flipped) {
            bytes[entropy.below(bytes.len() as u64) as usize] ^= 1 << entropy.below(8);
            self.flips.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Microseconds since the run began. Outside hosts (between steps, while a crash drops what a host had) it is the
    /// step's beginning: no tokio clock is to be read there, since it would be the machine's.
    pub(crate) fn now(&self) -> u64 {
        let inside = tokio::runtime::Handle::try_current().ok().and_then(|_| turmoil::sim_elapsed());
        inside.map_or_else(|| self.step.load(Ordering::Relaxed), |time| time.as_micros() as u64)
    }

    /// A step ended.
    pub(crate) fn stepped(&self, elapsed: Duration) {
        self.step.store(elapsed.as_micros() as u64, Ordering::Relaxed);
    }

    /// Adds a line to the trace, if one is kept.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let line = format!("{} {}\n", self.now(), line());
            trace.lock().unwrap().push_str(&line);
        }
    }

    /// The trace so far, if one is kept.
    pub(crate) fn trace(&self) -> Option<String> {
        self.trace.as_ref().map(|trace| trace.lock().unwrap().clone())
    }
}

/// How a wall clock runs: what it is ahead by, in microseconds, at some moment, and how fast that grows.
#[derive(Clone, Copy, Default)]
struct Course {
    ahead: i64,
    since: u64,
    drift_ppm: i64,
    born: u64,
}

/// One machine's clocks: a monotonic one that starts with its process, a wall clock that can be wrong. While it is
/// paused, nothing that waits for it goes on.
pub(crate) struct HostClock {
    world: Arc<World>,
    course: Mutex<Course>,
    paused: watch::Sender<bool>,
}

impl HostClock {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        let course = Course { since: world.now(), born: world.now(), ..Course::default() };
        Arc::new(Self { world: Arc::clone(world), course: Mutex::new(course), paused: watch::Sender::new(false) })
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap()
    }

    fn ahead(&self, now: u64) -> i64 {
        let course = *self.course();
        course.ahead + now.saturating_sub(course.since) as i64 * course.drift_ppm / 1_000_000
    }

    fn set(&self, ahead: i64, drift_ppm: i64) {
        let now = self.world.now();
        let mut course = self.course();
        (course.ahead, course.since, course.drift_ppm) = (ahead, now, drift_ppm);
    }

    pub(crate) fn jump(&self, by_millis: i64) {
        let drift_ppm = self.course().drift_ppm;
        self.set(self.ahead(self.world.now()) + by_millis * 1_000, drift_ppm);
    }

    pub(crate) fn drift(&self, ppm: i64) {
        self.set(self.ahead(self.world.now()), ppm);
    }

    pub(crate) fn correct(&self) {
        self.set(0, 0);
    }

    /// A new process starts.
    pub(crate) fn reboot(&self) {
        self.course().born = self.world.now();
        self.pause(false);
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }
}

impl Clock for HostClock {
    fn now(&self) -> Mono {
        Mono(self.world.now().saturating_sub(self.course().born))
    }

    fn wall(&self) -> Wall {
        let now = self.world.now();
        let since_start = now as i64 + self.ahead(now);
        Wall(START.0.saturating_add_signed(since_start.div_euclid(1_000)))
    }

    #[allow(clippy::disallowed_methods, reason = "the clock seam of this simulation")]
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let mut paused = self.paused.subscribe();
        Box::pin(async move {
            tokio::time::sleep(time).await;
            // A clock that is gone holds nobody.
            drop(paused.wait_for(|paused| !paused).await);
        })
    }
}

/// A host's environment; its chance follows from `seed`.
pub(crate) fn env(clock: Arc<HostClock>, seed: u64, buggify: Buggify) -> Env {
    let entropy = Arc::new(Entropy::seeded(seed));
    Env { clock, entropy, tasks: Tasks::default(), blocking: Blocking::Inline, buggify }
}

/// Simulated TCP under the transport.
pub(crate) struct SimulatedTcp(pub(crate) Arc<World>);

impl Net for SimulatedTcp {
    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (address, world) = (address.to_owned(), Arc::clone(&self.0));
        Box::pin(async move { Ok(Box::new(Door::bind(&address, world).await?) as Box<dyn Listener>) })
    }

    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (address, world) = (address.to_owned(), Arc::clone(&self.0));
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(Socket::new(stream, world, true)?) as Box<dyn Stream>)
        })
    }
}

/// A listening socket of simulated TCP, for peers and for HTTP.
pub(crate) struct Door(TcpListener, Arc<World>);

impl Door {
    pub(crate) async fn bind(address: &str, world: Arc<World>) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(address).await?, world))
    }
}

impl Listener for Door {
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let (stream, _) = self.0.accept().await?;
            Ok(Box::new(Socket::new(stream, Arc::clone(&self.1), true)?) as Box<dyn Stream>)
        })
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

impl axum::serve::Listener for Door {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, from) = self.0.accept().await.expect("turmoil's accept does not fail");
        (Socket::new(stream, Arc::clone(&self.1), false).expect("a connection has two ends"), from)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// A connection with its world's whims, which tells the trace what passes.
pub(crate) struct Socket {
    stream: TcpStream,
    world: Arc<World>,
    ends: String,
    /// Between peers, whose frames carry checksums. Of HTTP the trace tells the length alone: it carries the machine's
    /// date.
    peers: bool,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, world: Arc<World>, peers: bool) -> io::Result<Self> {
        let ends = format!("{}-{}", stream.local_addr()?, stream.peer_addr()?);
        Ok(Self { stream, world, ends, peers })
    }

    fn tell(&self, how: &str, bytes: &[u8]) {
        let sum = || if self.peers { crc32fast::hash(bytes) } else { 0 };
        self.world.note(|| format!("{} {how} {} {:08x}", self.ends, bytes.len(), sum()));
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let most = this.world.few(buf.remaining());
        if most < buf.remaining() {
            let mut few = [0; FEW];
            let mut piece = ReadBuf::new(&mut few[..most]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut piece))?;
            buf.put_slice(piece.filled());
        } else {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        }
        if this.peers {
            this.world.spoil(&mut buf.filled_mut()[before..]);
        }
        this.tell("read", &buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let most = this.world.few(bytes.len());
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, &bytes[..most]))?;
        this.tell("wrote", &bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
