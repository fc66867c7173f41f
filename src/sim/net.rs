//! A network of messages: what happens to each frame on its way, link by link.
//!
//! Every frame is bytes with a sender and a receiver, and the net's own seeded entropy decides its fate: how long it
//! takes, whether it is lost, doubled, or overtaken. A **cut** link (one direction; two make a partition) loses frames
//! or **holds** them, and delivers the held ones some time after the heal, behind newer ones: that is how old writes
//! come back in reality. Frames to or from a paused node wait until it is resumed.
//!
//! All frames wait in one queue ordered by (time due, number), and one task delivers them: nothing here depends on how
//! a runtime orders its timers. Who listens and calls is in [`super::transport`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::time::{SimTime, micros};
use super::transport::{Accepted, Endpoint, Pending};
use crate::env::{Entropy, Tasks};
use crate::transport::Hello;
use crate::types::Digest;

/// Where a node listens: `host:port`.
pub type Address = Arc<str>;

/// How one direction between two nodes treats frames. Chances are 0 to 1, per frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Link {
    /// Least time a frame takes.
    pub delay_min: Duration,
    /// Most time a frame takes, unless it is late.
    pub delay_max: Duration,
    /// Chance that it is late, and may be overtaken.
    pub reorder: f64,
    /// How much later than [`Link::delay_max`] a late or held frame may come.
    pub late_max: Duration,
    /// Chance that it is lost.
    pub loss: f64,
    /// Chance that it comes twice: states and questions only. A write that is handed over is minted each time it
    /// comes, and rests on what a connection promises: at most once.
    pub duplicate: f64,
    /// Chance that a frame which meets a cut is held until after the heal, not lost.
    pub hold: f64,
}

impl Default for Link {
    /// A quiet local network: 100 to 500 microseconds, in order, nothing lost.
    fn default() -> Self {
        Self {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_micros(500),
            reorder: 0.0,
            late_max: Duration::from_millis(50),
            loss: 0.0,
            duplicate: 0.0,
            hold: 0.0,
        }
    }
}

/// How a process ends when it ends badly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// The process is killed: its machine refuses connections and resets those it had.
    Killed,
    /// The machine loses power: silence.
    PowerCut,
}

/// What the net has done so far: a run whose faults never happened proves little.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetStats {
    /// Frames handed to the net.
    pub sent: u64,
    /// Frames delivered.
    pub delivered: u64,
    /// Frames lost, on the way or in a cut.
    pub lost: u64,
    /// Frames that came twice.
    pub duplicated: u64,
    /// Frames sent late, to be overtaken.
    pub late: u64,
    /// Frames held in a cut and delivered after its heal.
    pub held: u64,
}

/// What travels.
#[derive(Clone)]
pub(super) enum Frame {
    Open {
        dial: u64,
        hello: Arc<Hello>,
        /// The dialler's layout lists a member at this address.
        to_member: bool,
    },
    Opened {
        dial: u64,
        answer: Result<(u64, Arc<Hello>), NotOpened>,
    },
    /// `once`: a connection delivers it at most once, and whoever sent it relies on that.
    Request {
        connection: u64,
        call: u64,
        bytes: Bytes,
        once: bool,
    },
    Reply {
        call: u64,
        bytes: Bytes,
    },
    Reset {
        connection: u64,
    },
    Retire {
        connection: u64,
    },
}

/// Why a connection did not come to be.
#[derive(Clone)]
pub(super) enum NotOpened {
    NobodyListens,
    Rejected(String),
}

/// A frame on its way.
#[derive(Clone)]
pub(super) struct Parcel {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) frame: Frame,
}

/// All the net knows. Ordered maps only.
pub(super) struct Fabric {
    base: Link,
    links: BTreeMap<(Address, Address), Link>,
    cuts: BTreeSet<(Address, Address)>,
    queue: BTreeMap<(u64, u64), Parcel>,
    newest: BTreeMap<(Address, Address), u64>,
    held: Vec<Parcel>,
    parked: Vec<(Address, Parcel)>,
    pub(super) silent: BTreeSet<Address>,
    pub(super) endpoints: BTreeMap<Address, Endpoint>,
    pub(super) pending: BTreeMap<u64, Pending>,
    last_id: u64,
    stats: NetStats,
    trace: blake3::Hasher,
}

impl Fabric {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn link(&self, from: &Address, to: &Address) -> &Link {
        self.links.get(&(from.clone(), to.clone())).unwrap_or(&self.base)
    }

    fn is_cut(&self, from: &Address, to: &Address) -> bool {
        self.cuts.contains(&(from.clone(), to.clone()))
    }

    fn is_paused(&self, address: &Address) -> bool {
        self.endpoints.get(address).is_some_and(|endpoint| endpoint.clock.is_paused())
    }
}

pub(super) struct Net {
    pub(super) time: SimTime,
    pub(super) entropy: Entropy,
    fabric: Mutex<Fabric>,
    wake: Notify,
}

/// The network of a simulation. A clone is the same network.
#[derive(Clone)]
pub struct SimNet(pub(super) Arc<Net>);

impl std::fmt::Debug for SimNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimNet").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl SimNet {
    /// A network whose fates follow from `seed`; `tasks` runs its delivery, so cancel them only when all is over.
    #[must_use]
    pub fn new(time: SimTime, seed: u64, base: Link, tasks: &Tasks) -> Self {
        let fabric = Fabric {
            base,
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            queue: BTreeMap::new(),
            newest: BTreeMap::new(),
            held: Vec::new(),
            parked: Vec::new(),
            silent: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            pending: BTreeMap::new(),
            last_id: 0,
            stats: NetStats::default(),
            trace: blake3::Hasher::new(),
        };
        let net = Net { time, entropy: Entropy::seeded(seed), fabric: Mutex::new(fabric), wake: Notify::new() };
        let net = Self(Arc::new(net));
        let pump = net.clone();
        tasks.spawn(async move { pump.pump().await });
        net
    }

    /// Sets how every link without an own setting behaves from now on.
    pub fn set_base(&self, link: Link) {
        self.fabric().base = link;
    }

    /// Sets how one direction behaves from now on; none: like all others.
    pub fn set_link(&self, from: &str, to: &str, link: Option<Link>) {
        let way = (Address::from(from), Address::from(to));
        let mut fabric = self.fabric();
        match link {
            Some(link) => fabric.links.insert(way, link),
            None => fabric.links.remove(&way),
        };
    }

    /// Cuts one direction.
    pub fn cut(&self, from: &str, to: &str) {
        self.fabric().cuts.insert((from.into(), to.into()));
    }

    /// Cuts both directions between every node of `side` and every one of `rest`.
    pub fn partition(&self, side: &[&str], rest: &[&str]) {
        for a in side {
            for b in rest {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    /// Ends every cut. Frames that were held come late.
    pub fn heal(&self) {
        let now = self.0.time.now();
        let mut fabric = self.fabric();
        fabric.cuts.clear();
        for parcel in std::mem::take(&mut fabric.held) {
            let link = fabric.link(&parcel.from, &parcel.to).clone();
            let at = now + micros(link.delay_max) + self.below(micros(link.late_max));
            fabric.stats.held += 1;
            let number = fabric.next_id();
            fabric.queue.insert((at, number), parcel);
        }
        drop(fabric);
        self.0.wake.notify_one();
    }

    /// Stops the node at `address`: its timers, and every frame to or from it. False if nobody listens there.
    pub fn pause(&self, address: &str) -> bool {
        let fabric = self.fabric();
        fabric.endpoints.get(address).inspect(|endpoint| endpoint.clock.pause()).is_some()
    }

    /// Lets it go on: what came or was sent meanwhile moves now.
    pub fn resume(&self, address: &str) {
        let mut fabric = self.fabric();
        if let Some(endpoint) = fabric.endpoints.get(address) {
            endpoint.clock.resume();
        }
        let (mine, others) = std::mem::take(&mut fabric.parked).into_iter().partition(|(at, _)| &**at == address);
        fabric.parked = others;
        let now = self.0.time.now();
        let mine: Vec<(Address, Parcel)> = mine;
        for (at, parcel) in mine {
            if at == parcel.to {
                let number = fabric.next_id();
                fabric.queue.insert((now, number), parcel);
            } else {
                self.dispatch(&mut fabric, parcel);
            }
        }
        drop(fabric);
        self.0.wake.notify_one();
    }

    /// Ends the process at `address` without a word of its own: its handlers stop where they wait, nobody listens any
    /// more. Calls to it that are under way become `Lost` when a reset arrives ([`Death::Killed`]), or stay without
    /// answer ([`Death::PowerCut`], or a reset that did not get through).
    pub fn crash(&self, address: &str, death: Death) {
        let mut fabric = self.fabric();
        let Some((address, endpoint)) = fabric.endpoints.remove_entry(address) else { return };
        endpoint.tasks.cancel();
        fabric.pending.retain(|_, pending| pending.caller != address);
        fabric.parked.retain(|(at, _)| *at != address);
        match death {
            Death::PowerCut => {
                fabric.silent.insert(address);
            }
            Death::Killed => self.reset_all(&mut fabric, &address, endpoint.accepted),
        }
        drop(fabric);
        // The handler may own the node, and with it a transport of this net: not to be dropped under the lock.
        drop(endpoint.handler);
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        self.fabric().stats
    }

    /// A hash of every delivery so far, its time, way and bytes: equal for two runs of one seed.
    #[must_use]
    pub fn trace(&self) -> Digest {
        let hash = *self.fabric().trace.finalize().as_bytes();
        Digest::from_slice(&hash[..16]).expect("half of a 32-byte hash is 16 bytes")
    }

    pub(super) fn fabric(&self) -> MutexGuard<'_, Fabric> {
        self.0.fabric.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the delivery look at the queue again.
    pub(super) fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Sends a frame.
    pub(super) fn post(&self, parcel: Parcel) {
        self.dispatch(&mut self.fabric(), parcel);
        self.0.wake.notify_one();
    }

    /// Tells every dialer that its connection is gone.
    pub(super) fn reset_all(&self, fabric: &mut Fabric, from: &Address, accepted: BTreeMap<u64, Accepted>) {
        for (connection, Accepted { dialer, .. }) in accepted {
            let frame = Frame::Reset { connection };
            self.dispatch(fabric, Parcel { from: from.clone(), to: dialer, frame });
        }
        self.0.wake.notify_one();
    }

    fn below(&self, bound: u64) -> u64 {
        self.0.entropy.below(bound.max(1))
    }

    fn chance(&self, p: f64) -> bool {
        p > 0.0 && self.0.entropy.chance(p)
    }

    pub(super) fn dispatch(&self, fabric: &mut Fabric, parcel: Parcel) {
        fabric.stats.sent += 1;
        if fabric.is_paused(&parcel.from) {
            fabric.parked.push((parcel.from.clone(), parcel));
            return;
        }
        let link = fabric.link(&parcel.from, &parcel.to).clone();
        if self.chance(link.loss) {
            fabric.stats.lost += 1;
            return;
        }
        let doubles = matches!(parcel.frame, Frame::Request { once: false, .. } | Frame::Reply { .. });
        let twice = doubles && self.chance(link.duplicate);
        if twice {
            fabric.stats.duplicated += 1;
            self.enqueue(fabric, &link, parcel.clone());
        }
        self.enqueue(fabric, &link, parcel);
    }

    fn enqueue(&self, fabric: &mut Fabric, link: &Link, parcel: Parcel) {
        let (least, most) = (micros(link.delay_min), micros(link.delay_max));
        let mut at = self.0.time.now() + least + self.below(most.saturating_sub(least) + 1);
        if self.chance(link.reorder) {
            fabric.stats.late += 1;
            at += self.below(micros(link.late_max));
        } else {
            let newest = fabric.newest.entry((parcel.from.clone(), parcel.to.clone())).or_default();
            at = at.max(*newest);
            *newest = at;
        }
        let number = fabric.next_id();
        fabric.queue.insert((at, number), parcel);
    }

    async fn pump(self) {
        loop {
            let next = self.fabric().queue.first_key_value().map(|(&(at, _), _)| at);
            match next {
                None => self.0.wake.notified().await,
                Some(at) if at <= self.0.time.now() => {
                    if let Some(parcel) = self.take_due() {
                        self.deliver(parcel);
                    }
                }
                Some(at) => tokio::select! {
                    biased;
                    () = self.0.wake.notified() => {}
                    () = self.0.time.until(at) => {}
                },
            }
        }
    }

    /// The next frame, unless a cut or a pause keeps it.
    fn take_due(&self) -> Option<Parcel> {
        let mut fabric = self.fabric();
        let ((at, _), parcel) = fabric.queue.pop_first()?;
        if fabric.is_cut(&parcel.from, &parcel.to) {
            let hold = fabric.link(&parcel.from, &parcel.to).hold;
            if self.chance(hold) {
                fabric.held.push(parcel);
            } else {
                fabric.stats.lost += 1;
            }
            return None;
        }
        if fabric.is_paused(&parcel.to) {
            fabric.parked.push((parcel.to.clone(), parcel));
            return None;
        }
        fabric.stats.delivered += 1;
        let (kind, id, bytes): (u8, u64, &[u8]) = match &parcel.frame {
            Frame::Open { dial, .. } => (1, *dial, &[]),
            Frame::Opened { dial, .. } => (2, *dial, &[]),
            Frame::Request { call, bytes, .. } => (3, *call, bytes),
            Frame::Reply { call, bytes } => (4, *call, bytes),
            Frame::Reset { connection } => (5, *connection, &[]),
            Frame::Retire { connection } => (6, *connection, &[]),
        };
        let length = bytes.len() as u64;
        fabric.trace.update(&at.to_le_bytes()).update(parcel.from.as_bytes()).update(&[0]).update(parcel.to.as_bytes());
        fabric.trace.update(&[0, kind]).update(&id.to_le_bytes()).update(&length.to_le_bytes()).update(bytes);
        Some(parcel)
    }
}
