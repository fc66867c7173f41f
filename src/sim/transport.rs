//! The simulated [`Transport`]: connections, identity and calls on top of [`SimNet`].
//!
//! Kept to what a real one can know. A call opens a connection where there is none: both ends say [`Hello`] and may
//! refuse; nobody there is `NotSent`; a deadline that passes before the request was sent is `NotSent`, after it
//! `TimedOut`. A request that meets a process which does not know the connection (it was started anew) is reset, and
//! the call is `Lost`. A new identity retires the connections made under the old one: what is under way on them is
//! answered, the next call opens a new one. Requests and replies are separate frames of bytes, encoded and decoded: a message that does not
//! survive its own encoding fails here as it would on a wire.
//!
//! A frame outlives its sender: what a node sent before it crashed, or before it opened a newer connection, may still
//! come. It does not outlive the receiving process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot;

use super::net::{Address, Death, Fabric, Frame, NotOpened, Parcel, SimNet};
use super::time::SimClock;
use crate::env::{BoxFuture, Clock as _, Tasks};
use crate::transport::handshake::{HandshakeError, of_one_cluster};
use crate::transport::messages::{Ask, Refusal, Reply, Request};
use crate::transport::{Answer, CallError, Handler, Hello, Transport};
use crate::types::StoreId;

/// A connection that a listening process knows.
pub(super) struct Accepted {
    pub(super) dialer: Address,
    hello: Arc<Hello>,
    /// Made under an older identity of the listener: still answered, to be made anew.
    retired: bool,
}

/// A connection that its dialer may send on.
#[derive(Clone)]
struct Dialed {
    connection: u64,
    hello: Arc<Hello>,
}

/// A process that listens.
pub(super) struct Endpoint {
    process: u64,
    hello: Arc<Hello>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) clock: Arc<SimClock>,
    pub(super) tasks: Tasks,
    pub(super) accepted: BTreeMap<u64, Accepted>,
    dialed: BTreeMap<Address, Dialed>,
}

/// What somebody waits for.
pub(super) struct Pending {
    pub(super) caller: Address,
    wait: Wait,
}

enum Wait {
    Connection(oneshot::Sender<Result<Dialed, CallError>>),
    Reply { connection: u64, tell: oneshot::Sender<Result<Bytes, CallError>> },
}

/// One process's way to its peers.
pub struct SimTransport {
    net: SimNet,
    clock: Arc<SimClock>,
    tasks: Tasks,
    process: u64,
    stopped: AtomicBool,
}

impl std::fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimTransport").field("process", &self.process).finish_non_exhaustive()
    }
}

impl SimTransport {
    /// The transport of a new process on the machine whose clock this is. It serves once [`Transport::serve`] is
    /// called, at the address its [`Hello`] names.
    #[must_use]
    pub fn new(net: &SimNet, clock: Arc<SimClock>) -> Arc<Self> {
        let process = net.fabric().next_id();
        let (tasks, stopped) = (Tasks::default(), AtomicBool::new(false));
        Arc::new(Self { net: net.clone(), clock, tasks, process, stopped })
    }
}

impl Fabric {
    fn endpoint_of(&mut self, process: u64) -> Option<(&Address, &mut Endpoint)> {
        self.endpoints.iter_mut().find(|(_, endpoint)| endpoint.process == process)
    }

    /// Takes what was waiting on a connection.
    fn take_waiting_on(&mut self, connection: u64) -> Vec<Pending> {
        let on_it = |pending: &Pending| matches!(&pending.wait, Wait::Reply { connection: c, .. } if *c == connection);
        let ids: Vec<u64> = self.pending.iter().filter(|(_, p)| on_it(p)).map(|(&id, _)| id).collect();
        ids.iter().filter_map(|id| self.pending.remove(id)).collect()
    }
}

/// Forgets a wait when its call ends, however it ends.
struct Waiting {
    net: SimNet,
    id: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.net.fabric().pending.remove(&self.id);
    }
}

fn lost(why: &str) -> CallError {
    CallError::Lost(why.to_owned())
}

impl Transport for SimTransport {
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>) {
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        let address = Address::from(hello.peer_address.as_str());
        let mut fabric = self.net.fabric();
        let old = fabric.endpoint_of(self.process).map(|(at, _)| at.clone());
        let mut old = old.and_then(|at| fabric.endpoints.remove(&at));
        let mut accepted = old.as_mut().map(|old| std::mem::take(&mut old.accepted)).unwrap_or_default();
        for (&connection, known) in &mut accepted {
            known.retired = true;
            let frame = Frame::Retire { connection };
            let parcel = Parcel { from: address.clone(), to: known.dialer.clone(), frame };
            self.net.dispatch(&mut fabric, parcel);
        }
        fabric.silent.remove(&address);
        let endpoint = Endpoint {
            process: self.process,
            hello: Arc::new(hello),
            handler,
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            accepted,
            dialed: BTreeMap::new(),
        };
        let before = fabric.endpoints.insert(address.clone(), endpoint);
        drop(fabric);
        // Its handler may own a transport of this net: not to be dropped under the lock.
        drop(old);
        self.net.wake();
        assert!(before.is_none(), "two processes cannot listen at {address}: crash or shut down the first");
    }

    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let call = Call {
            net: self.net.clone(),
            process: self.process,
            to: address.into(),
            expect,
            once: matches!(request.ask, Some(Ask::HandedWrite(_))),
            bytes: request.encode_to_vec().into(),
        };
        let late = self.clock.sleep(deadline);
        Box::pin(async move {
            let mut sent = false;
            tokio::select! {
                biased;
                answer = call.run(&mut sent) => return answer,
                () = late => {}
            }
            if sent { Err(CallError::TimedOut) } else { Err(CallError::NotSent("no connection in time".to_owned())) }
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.stopped.store(true, Ordering::Release);
        let (net, process, tasks) = (self.net.clone(), self.process, self.tasks.clone());
        Box::pin(async move {
            let gone = {
                let mut fabric = net.fabric();
                let at = fabric.endpoint_of(process).map(|(at, _)| at.clone());
                at.and_then(|at| {
                    close(&net, &mut fabric, &at);
                    fabric.endpoints.remove(&at)
                })
            };
            drop(gone);
            tasks.shutdown().await;
        })
    }
}

/// Closes every connection of the process at `address`; its calls under way are lost.
fn close(net: &SimNet, fabric: &mut Fabric, address: &Address) {
    let Some(mut endpoint) = fabric.endpoints.remove(address) else { return };
    let accepted = std::mem::take(&mut endpoint.accepted);
    let dialed = std::mem::take(&mut endpoint.dialed);
    net.reset_all(fabric, address, accepted);
    for Dialed { connection, .. } in dialed.into_values() {
        for pending in fabric.take_waiting_on(connection) {
            pending.fail("the connection was closed here");
        }
    }
    fabric.endpoints.insert(address.clone(), endpoint);
}

/// The process at `address` sends no more on this connection.
fn forget(fabric: &mut Fabric, address: &Address, connection: u64) {
    if let Some(endpoint) = fabric.endpoints.get_mut(address) {
        endpoint.dialed.retain(|_, dialed| dialed.connection != connection);
    }
}

impl Pending {
    fn fail(self, why: &str) {
        // Who waited may have stopped waiting.
        if let Wait::Reply { tell, .. } = self.wait {
            let _ = tell.send(Err(lost(why)));
        }
    }
}

struct Call {
    net: SimNet,
    process: u64,
    to: Address,
    expect: Option<StoreId>,
    once: bool,
    bytes: Bytes,
}

impl Call {
    async fn run(self, sent: &mut bool) -> Result<Answer, CallError> {
        let Dialed { connection, hello } = self.connection().await?;
        if let Some(expect) = self.expect.filter(|expect| *expect != hello.store) {
            let text = format!("{} holds store {}, not {expect}", self.to, hello.store);
            // Perhaps it did when it was opened: the next call finds out. Over TCP a ping would.
            if let Some((_, endpoint)) = self.net.fabric().endpoint_of(self.process) {
                endpoint.dialed.remove(&self.to);
            }
            return Err(CallError::Rejected(text));
        }
        let (tell, told) = oneshot::channel();
        let waiting = self.wait_for(|_| Wait::Reply { connection, tell })?;
        let frame = Frame::Request { connection, call: waiting.id, bytes: self.bytes.clone(), once: self.once };
        self.net.post(Parcel { from: waiting.from.clone(), to: self.to.clone(), frame });
        *sent = true;
        let bytes = told.await.map_err(|_| lost("this node stopped"))??;
        let reply = Reply::decode(bytes).map_err(|damage| lost(&format!("the reply is damaged: {damage}")))?;
        Ok(Answer { from: hello, reply })
    }

    /// The open connection, or a new one.
    async fn connection(&self) -> Result<Dialed, CallError> {
        let (hello, handler) = {
            let mut fabric = self.net.fabric();
            let Some((_, endpoint)) = fabric.endpoint_of(self.process) else { return Err(not_serving()) };
            if let Some(open) = endpoint.dialed.get(&self.to) {
                return Ok(open.clone());
            }
            (endpoint.hello.clone(), endpoint.handler.clone())
        };
        let to_member = handler.lists(&self.to);
        let (tell, told) = oneshot::channel();
        let waiting = self.wait_for(|_| Wait::Connection(tell))?;
        let frame = Frame::Open { dial: waiting.id, hello: hello.clone(), to_member };
        self.net.post(Parcel { from: waiting.from.clone(), to: self.to.clone(), frame });
        let opened = told.await.map_err(|_| not_serving())??;
        let mut fabric = self.net.fabric();
        let Some((_, endpoint)) = fabric.endpoint_of(self.process) else { return Err(not_serving()) };
        if !Arc::ptr_eq(&endpoint.hello, &hello) {
            return Err(CallError::NotSent("this node changed its identity meanwhile".to_owned()));
        }
        let handler = endpoint.handler.clone();
        drop(fabric);
        admit(&*handler, &hello, &opened.hello, None).map_err(CallError::Rejected)?;
        let mut fabric = self.net.fabric();
        if let Some((_, endpoint)) = fabric.endpoint_of(self.process) {
            endpoint.dialed.insert(self.to.clone(), opened.clone());
        }
        Ok(opened)
    }

    fn wait_for(&self, wait: impl FnOnce(u64) -> Wait) -> Result<Registered, CallError> {
        let mut fabric = self.net.fabric();
        let Some(from) = fabric.endpoint_of(self.process).map(|(at, _)| at.clone()) else { return Err(not_serving()) };
        let id = fabric.next_id();
        fabric.pending.insert(id, Pending { caller: from.clone(), wait: wait(id) });
        drop(fabric);
        Ok(Registered { id, from, _forget: Waiting { net: self.net.clone(), id } })
    }
}

struct Registered {
    id: u64,
    from: Address,
    _forget: Waiting,
}

/// What the handshake and the node's own rules say of a peer, in a net where everybody knows the secret.
fn admit(handler: &dyn Handler, mine: &Hello, peer: &Hello, dialled: Option<String>) -> Result<(), String> {
    of_one_cluster(mine, peer, dialled).map_err(|refused| {
        if let HandshakeError::OtherCluster { stranger, .. } = &refused {
            handler.overhear(stranger);
        }
        refused.to_string()
    })?;
    handler.admit(peer)
}

fn not_serving() -> CallError {
    CallError::NotSent("this node does not serve (yet, or any more)".to_owned())
}

impl SimNet {
    /// Hands a frame that arrived to whom it is for.
    pub(super) fn deliver(&self, Parcel { from, to, frame }: Parcel) {
        match frame {
            Frame::Open { dial, hello, to_member } => self.opened(from, to, dial, hello, to_member),
            Frame::Opened { dial, answer } => {
                if let Some(Pending { wait: Wait::Connection(tell), .. }) = self.fabric().pending.remove(&dial) {
                    let answer = answer.map(|(connection, hello)| Dialed { connection, hello });
                    let _ = tell.send(answer.map_err(|why| match why {
                        NotOpened::NobodyListens => CallError::NotSent(format!("nobody listens at {from}")),
                        NotOpened::Rejected(why) => CallError::Rejected(why),
                    }));
                }
            }
            Frame::Request { connection, call, bytes, .. } => self.requested(from, to, connection, call, bytes),
            Frame::Reply { call, bytes } => {
                if let Some(Pending { wait: Wait::Reply { tell, .. }, .. }) = self.fabric().pending.remove(&call) {
                    let _ = tell.send(Ok(bytes));
                }
            }
            Frame::Retire { connection } => forget(&mut self.fabric(), &to, connection),
            Frame::Reset { connection } => {
                let mut fabric = self.fabric();
                forget(&mut fabric, &to, connection);
                for pending in fabric.take_waiting_on(connection) {
                    pending.fail("the connection was reset");
                }
            }
        }
    }

    fn opened(&self, from: Address, to: Address, dial: u64, hello: Arc<Hello>, to_member: bool) {
        let listener = {
            let fabric = self.fabric();
            if fabric.silent.contains(&to) {
                return;
            }
            fabric.endpoints.get(&to).map(|endpoint| (endpoint.handler.clone(), endpoint.hello.clone()))
        };
        let dialled = to_member.then(|| to.to_string());
        let answer = match listener.map(|(handler, mine)| admit(&*handler, &mine, &hello, dialled)) {
            None => Err(NotOpened::NobodyListens),
            Some(Err(why)) => Err(NotOpened::Rejected(why)),
            Some(Ok(())) => {
                let mut fabric = self.fabric();
                let connection = fabric.next_id();
                let mine = fabric.endpoints.get_mut(&to).map(|endpoint| {
                    endpoint.accepted.insert(connection, Accepted { dialer: from.clone(), hello, retired: false });
                    endpoint.hello.clone()
                });
                mine.map(|mine| (connection, mine)).ok_or(NotOpened::NobodyListens)
            }
        };
        self.post(Parcel { from: to, to: from, frame: Frame::Opened { dial, answer } });
    }

    fn requested(&self, from: Address, to: Address, connection: u64, call: u64, bytes: Bytes) {
        let found = {
            let fabric = self.fabric();
            if fabric.silent.contains(&to) {
                return;
            }
            fabric.endpoints.get(&to).and_then(|endpoint| {
                let accepted = endpoint.accepted.get(&connection)?;
                Some((endpoint.handler.clone(), accepted.hello.clone(), endpoint.tasks.clone(), accepted.retired))
            })
        };
        let Some((handler, hello, tasks, retired)) = found else {
            return self.post(Parcel { from: to, to: from, frame: Frame::Reset { connection } });
        };
        if retired {
            // The word that told so may have been lost.
            self.post(Parcel { from: to.clone(), to: from.clone(), frame: Frame::Retire { connection } });
        }
        let net = self.clone();
        tasks.spawn(async move {
            let reply = match Request::decode(bytes) {
                Ok(request) => handler.handle(hello, request).await,
                Err(damage) => Reply::refused(Refusal::Malformed, damage.to_string()),
            };
            let frame = Frame::Reply { call, bytes: reply.encode_to_vec().into() };
            net.post(Parcel { from: to, to: from, frame });
        });
    }
}

impl Drop for SimTransport {
    /// A process that nobody holds any more is gone.
    fn drop(&mut self) {
        let at = self.net.fabric().endpoint_of(self.process).map(|(at, _)| at.clone());
        if let Some(at) = at {
            self.net.crash(&at, Death::Killed);
        }
    }
}

#[cfg(test)]
mod tests;
