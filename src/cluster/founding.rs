//! The shell around founding: probes seeds, flushes, tells.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tracing::{error, info};

use super::joiners::Joiners;
use super::{LayoutKeeper, Standing};
use crate::env::{BoxFuture, Env};
use crate::peers::{Peers, Service};
use crate::replica::Fault;
use crate::ring::founding::{Founding, Heard, Step, Tell as Told, Terms, founded_aside};
use crate::ring::{Chain, Layout, Member};
use crate::transport::messages::layouts::{Decided, Layouts};
use crate::transport::messages::{Ask, Probe, Probed, Refusal, Reply, Request, Tell};
use crate::transport::{Hello, Stranger};

/// How long one probe may take.
const PROBE_FOR: Duration = Duration::from_millis(500);
/// Between two rounds.
const EVERY: Duration = Duration::from_millis(250);

/// How a node gets into a cluster.
#[derive(Clone, Debug)]
pub struct FoundingOptions {
    /// This node, as a layout would name it.
    pub me: Member,
    /// How the cluster would be founded.
    pub terms: Terms,
    /// Into a cluster that is there, it is taken by a plan alone.
    pub by_plan: bool,
}

/// Founds, or waits to be founded; and answers whoever probes this node.
#[derive(Clone)]
pub struct ClusterService {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    peers: Peers,
    keeper: LayoutKeeper,
    founding: Mutex<Option<Founding>>,
    joiners: Joiners,
    options: FoundingOptions,
}

impl std::fmt::Debug for ClusterService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterService").field("me", &self.inner.options.me.name).finish_non_exhaustive()
    }
}

impl ClusterService {
    /// A service that does nothing until [`ClusterService::found`].
    #[must_use]
    pub fn new(env: &Env, peers: Peers, keeper: LayoutKeeper, options: FoundingOptions) -> Self {
        let (founding, joiners) = (Mutex::new(None), Joiners::new(env));
        Self { inner: Arc::new(Inner { env: env.clone(), peers, keeper, founding, joiners, options }) }
    }

    /// The nodes that ask to be taken in.
    #[must_use]
    pub fn joiners(&self) -> &Joiners {
        &self.inner.joiners
    }

    /// Goes on until this node is a member, and returns the newest layout; or stays out for good, and returns none.
    pub async fn found(&self) -> Option<Layout> {
        let inner = &self.inner;
        let directory = match inner.keeper.directory() {
            Ok(directory) => directory,
            Err(fault) => return self.out(format!("the data directory cannot be read: {fault}")),
        };
        let FoundingOptions { me, terms, .. } = inner.options.clone();
        let (founding, mut step) = Founding::start(me, terms, directory);
        self.with(|slot| *slot = Some(founding));
        loop {
            step = match step {
                Step::Serve(chain) => {
                    let layout = chain.newest().clone();
                    if let Err(fault) = inner.keeper.begin(chain).await {
                        return self.out(format!("the data directory cannot be read: {fault}"));
                    }
                    let cluster = layout.cluster();
                    info!(%cluster, version = layout.version(), members = layout.members().len(), "a member of the cluster");
                    inner.peers.introduce(|hello| hello.cluster = Some(cluster));
                    self.heed_strangers(layout.clone());
                    return Some(layout);
                }
                Step::Found(chain) | Step::Adopt(chain) => match inner.keeper.flush(&chain).await {
                    Ok(()) => self.decide(Founding::on_flushed),
                    Err(fault) => return self.out(format!("the layout could not be stored: {fault}")),
                },
                Step::Probe { round, seeds } => {
                    let heard = join_all(seeds.iter().map(|seed| self.probe(seed))).await;
                    let mut next = Step::Wait { why: "waits for its seeds".into() };
                    for (seed, heard) in seeds.iter().zip(heard) {
                        next = self.decide(|founding| founding.on_heard(round, seed, heard));
                        if !matches!(next, Step::Wait { .. }) {
                            break;
                        }
                    }
                    next
                }
                Step::Wait { why } => {
                    if inner.keeper.standing() != Standing::Waiting(why.clone()) {
                        info!(why, "not in a cluster yet");
                    }
                    inner.keeper.stand(Standing::Waiting(why));
                    inner.env.clock.sleep(EVERY).await;
                    self.decide(Founding::begin_round)
                }
                Step::Refuse { why } => return self.out(why),
            };
        }
    }

    /// Stops serving once a member of another cluster takes this node, which founded alone, for one of its own.
    fn heed_strangers(&self, founded: Layout) {
        let (this, mut strangers) = (self.clone(), self.inner.peers.strangers());
        self.inner.env.tasks.spawn(async move {
            let address = &this.inner.options.me.peer_address;
            loop {
                let stranger = strangers.borrow_and_update().clone();
                let layout = this.inner.keeper.newest().unwrap_or_else(|| founded.clone());
                if let Some(Stranger { cluster, name, address: its_address, dialled }) = stranger
                    && founded_aside(&layout, address, cluster, dialled.as_deref())
                {
                    this.out(format!(
                        "it founded a cluster of its own ({}), and {name} at {its_address} takes it for the member at \
                         {address} of cluster {cluster}: it was probably started without seeds. To go back, stop it, \
                         move its directory away and start it with an empty one and that cluster's node.seeds. What \
                         was written here meanwhile is in no other cluster: to read it, start the old directory with \
                         another node.advertise",
                        layout.cluster()
                    ));
                    return;
                }
                if strangers.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn out(&self, why: String) -> Option<Layout> {
        error!(why, "this node does not serve");
        self.inner.keeper.stand(Standing::Refused(why));
        None
    }

    fn with<T>(&self, change: impl FnOnce(&mut Option<Founding>) -> T) -> T {
        change(&mut self.inner.founding.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn decide(&self, event: impl FnOnce(&mut Founding) -> Step) -> Step {
        self.with(|founding| match founding {
            Some(founding) => event(founding),
            None => Step::Wait { why: "starting".into() },
        })
    }

    async fn probe(&self, seed: &str) -> Heard {
        let FoundingOptions { me: Member { weight, .. }, by_plan, .. } = self.inner.options;
        match self.inner.peers.ask(seed, Ask::Probe(Probe { weight, by_plan }), PROBE_FOR).await {
            Ok(answer) => match answer.reply.tell {
                Some(Tell::Probed(probed)) => self.heard(&answer.from, probed),
                _ => Heard::Busy,
            },
            Err(failed) => Heard::Silent(failed.to_string()),
        }
    }

    fn heard(&self, from: &Hello, probed: Probed) -> Heard {
        match probed.chain.map(|chain| Chain::decode(&chain)) {
            Some(Ok(chain)) => Heard::Ring(chain),
            Some(Err(bad)) => Heard::Silent(format!("its layouts cannot be decoded: {bad}")),
            None if probed.fresh => {
                if let Some((here, there)) = self.inner.peers.hello().other_defaults(from) {
                    // What layout 1 is made of is fixed with it: all have to want the same.
                    return Heard::Silent(format!("its configuration of the cluster is another: {there}; here {here}"));
                }
                let member = Member {
                    node: from.node,
                    store: from.store,
                    name: from.name.clone(),
                    region: from.region.clone(),
                    zone: from.zone.clone(),
                    weight: probed.weight,
                    peer_address: from.peer_address.clone(),
                    client_address: from.client_address.clone(),
                };
                Heard::Fresh { member, seeds: probed.seeds }
            }
            None => Heard::Busy,
        }
    }
}

impl ClusterService {
    fn probed(&self, from: &Hello, probe: Probe) -> Reply {
        let weight = self.inner.options.me.weight;
        let told = self.with(|founding| founding.as_mut().map(|founding| founding.on_asked(&from.peer_address)));
        let nothing = Probed { fresh: false, chain: None, seeds: Vec::new(), weight };
        Reply::new(Tell::Probed(match told {
            Some(Told::Ring(chain)) => {
                // The newest there is: it may have grown since this node began to serve.
                let known = self.inner.keeper.known();
                let chain = known.map_or_else(|| chain.encode(), |known| known.chain.encode());
                self.inner.joiners.hear(from, &probe);
                Probed { chain: Some(chain), ..nothing }
            }
            Some(Told::Fresh(seeds)) => Probed { fresh: true, seeds, ..nothing },
            Some(Told::Busy) | None => nothing,
        }))
    }

    async fn layouts(&self, from: &Hello, asked: Layouts) -> Reply {
        if self.inner.peers.hello().cluster != from.cluster {
            return Reply::refused(Refusal::NotOwner, "layouts are told within one cluster");
        }
        Reply::new(Tell::Layouts(self.inner.keeper.tell(asked.since)))
    }
}

impl Service for ClusterService {
    fn serve(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        let this = self.clone();
        Box::pin(async move {
            match request.ask {
                Some(Ask::Probe(probe)) => this.probed(&from, probe),
                Some(Ask::Layouts(asked)) => this.layouts(&from, asked).await,
                Some(Ask::Decide(decide)) => {
                    // Who is behind cannot decide: it asks first.
                    this.inner.keeper.level_with(&from, request.head).await;
                    decided(this.inner.keeper.serve_decide(&decide).await)
                }
                Some(Ask::Renounce(renounce)) => {
                    this.inner.keeper.level_with(&from, request.head).await;
                    decided(this.inner.keeper.serve_renounce(&renounce))
                }
                _ => Reply::refused(Refusal::Unknown, "this node does not know that request"),
            }
        })
    }
}

fn decided(decided: Result<Decided, Fault>) -> Reply {
    match decided {
        Ok(decided) => Reply::new(Tell::Decided(decided)),
        Err(fault) => Reply::refused(fault.refusal(), fault.to_string()),
    }
}
