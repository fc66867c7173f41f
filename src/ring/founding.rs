//! Founding: who makes layout 1, and how everybody else learns it.
//!
//! Two clusters where there should be one lose data as soon as they meet, so the rules are narrow. No seeds: a cluster
//! of one, at once. With seeds: only the node whose advertised address is the first of the list founds, of itself and
//! the first `bootstrap_expect - 1` others, and only while *every* seed answers, is fresh and has the same list. All
//! others wait; once a cluster exists, one answer is enough to learn it. Founding and adopting are flushed before
//! anybody is told. A node with data never founds.
//!
//! Answers count in the round that asked for them, and a node that tells the founder "fresh" begins a new one: what it
//! asked for before may come from a founder since wiped, whose layout nobody holds any more (the model in
//! `tests/founding_model.rs` finds two clusters without this).
//!
//! Pure: [`Founding`] is told what was heard and says what to do; who calls it probes, flushes and waits between
//! rounds.

use std::collections::{BTreeMap, BTreeSet};

use super::{BucketSettings, Chain, Grid, Layout, Member, planner};
use crate::types::ClusterId;

/// What a data directory holds when its node starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Directory {
    /// Nothing.
    Fresh,
    /// Data, but no layout.
    DataOnly,
    /// A chain of layouts.
    Ring(Chain),
}

/// How the cluster would be founded; the same on all nodes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Terms {
    /// The cluster's name, for people.
    pub cluster_name: String,
    /// The partitions.
    pub grid: Grid,
    /// The longest owner list.
    pub replicas_max: u8,
    /// What holds for buckets that are never configured.
    pub default_bucket: BucketSettings,
    /// Advertised peer addresses, in the order that all nodes give them; may contain this node's own.
    pub seeds: Vec<String>,
    /// How many nodes found, the founder included. None: as many as there are seeds.
    pub bootstrap_expect: Option<usize>,
}

/// What a probed seed answered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Heard {
    /// It is fresh.
    Fresh {
        /// Who it is.
        member: Member,
        /// Its seeds.
        seeds: Vec<String>,
    },
    /// It knows a cluster's layouts.
    Ring(Chain),
    /// Neither, now: it is about to flush a layout, or holds data without one.
    Busy,
    /// No answer; why.
    Silent(String),
}

/// What to tell a node that probes this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tell {
    /// Fresh, with these seeds.
    Fresh(Vec<String>),
    /// These layouts.
    Ring(Chain),
    /// Neither, now.
    Busy,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask these seeds; pass each answer, or that there was none, to [`Founding::on_heard`] with this round.
    Probe {
        /// The round that the answers belong to.
        round: u64,
        /// Whom.
        seeds: Vec<String>,
    },
    /// Flush this layout 1, which this node makes, then call [`Founding::on_flushed`].
    Found(Chain),
    /// Flush these layouts, the newest of which lists this node, then call [`Founding::on_flushed`].
    Adopt(Chain),
    /// Serve as a member of the newest of these layouts.
    Serve(Chain),
    /// Begin another round in a while ([`Founding::begin_round`]); tell people why.
    Wait {
        /// What is waited for.
        why: String,
    },
    /// Stay out, without a vote, whatever is heard; tell people why.
    Refuse {
        /// What is wrong, and the way out.
        why: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum State {
    Fresh,
    Flushing,
    Member,
    Out,
}

/// One node's way into a cluster, from start to membership.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Founding {
    me: Member,
    terms: Terms,
    state: State,
    /// The layouts being flushed, or served.
    chain: Option<Chain>,
    round: u64,
    heard: BTreeMap<String, Heard>,
}

impl Founding {
    /// Begins, with what the node found in its directory, and says what to do first.
    #[must_use]
    pub fn start(me: Member, terms: Terms, directory: Directory) -> (Self, Step) {
        let state = State::Fresh;
        let mut this = Self { me, terms, state, chain: None, round: 0, heard: BTreeMap::new() };
        let step = match directory {
            Directory::DataOnly => this.refuse(
                "the data directory holds data but no layout: its cluster cannot be told from another. Move the \
                 directory away and start with an empty one; the node then comes back as its own replacement",
            ),
            Directory::Ring(chain) if chain.newest().lists(this.me.node, this.me.store) => {
                this.state = State::Member;
                this.chain = Some(chain.clone());
                Step::Serve(chain)
            }
            Directory::Ring(chain) => {
                let why = this.why_not_listed(&chain);
                this.refuse(why)
            }
            Directory::Fresh => match this.terms_unsound() {
                Some(why) => this.refuse(why),
                None if this.terms.seeds.is_empty() => {
                    let me = this.me.clone();
                    this.found(vec![me])
                }
                None => this.begin_round(),
            },
        };
        (this, step)
    }

    fn terms_unsound(&self) -> Option<String> {
        let (seeds, expect) = (&self.terms.seeds, self.terms.bootstrap_expect);
        if seeds.iter().collect::<BTreeSet<_>>().len() < seeds.len() {
            return Some("seeds: an address is listed twice".into());
        }
        match expect {
            Some(0) => Some("bootstrap_expect is at least 1: the founder counts".into()),
            Some(n) if n > seeds.len().max(1) => Some(format!(
                "bootstrap_expect is {n}, but there are {} seeds: a cluster is founded of seeds only",
                seeds.len()
            )),
            _ => None,
        }
    }

    fn refuse(&mut self, why: impl Into<String>) -> Step {
        self.state = State::Out;
        Step::Refuse { why: why.into() }
    }

    /// Forgets what was heard and asks every seed anew; what answers to earlier rounds no longer counts.
    pub fn begin_round(&mut self) -> Step {
        if self.state != State::Fresh {
            return self.standing();
        }
        self.round += 1;
        self.heard.clear();
        let others = self.terms.seeds.iter().filter(|seed| **seed != self.me.peer_address).cloned().collect::<Vec<_>>();
        if others.is_empty() { self.decide() } else { Step::Probe { round: self.round, seeds: others } }
    }

    fn standing(&self) -> Step {
        match (&self.state, &self.chain) {
            (State::Member, Some(chain)) => Step::Serve(chain.clone()),
            (State::Flushing, _) => Step::Wait { why: "flushes the layout".into() },
            _ => Step::Wait { why: "stays out".into() },
        }
    }

    /// Takes what `seed` answered in `round`.
    pub fn on_heard(&mut self, round: u64, seed: &str, heard: Heard) -> Step {
        if self.state != State::Fresh {
            return self.standing();
        }
        if round != self.round || !self.terms.seeds.iter().any(|known| known == seed) {
            return Step::Wait { why: format!("an answer of {seed} came too late to count") };
        }
        if let Heard::Ring(chain) = &heard
            && chain.ended().contains(&self.me.store)
        {
            // It was taken in, and given up before it had learnt of it.
            let why = self.why_not_listed(chain);
            return self.refuse(why);
        }
        if let Heard::Ring(chain) = &heard
            && chain.newest().lists(self.me.node, self.me.store)
        {
            let chain = chain.clone();
            return self.flush(chain.clone(), Step::Adopt(chain));
        }
        self.heard.insert(seed.to_owned(), heard);
        self.decide()
    }

    /// The layout of [`Step::Found`] or [`Step::Adopt`] is on disk: from here on it is told.
    pub fn on_flushed(&mut self) -> Step {
        if self.state == State::Flushing {
            self.state = State::Member;
        }
        self.standing()
    }

    /// A node whose advertised address is `asker` probes this one: what to tell it.
    pub fn on_asked(&mut self, asker: &str) -> Tell {
        match (&self.state, &self.chain) {
            (State::Member, Some(chain)) => Tell::Ring(chain.clone()),
            (State::Fresh, _) => {
                if self.terms.seeds.first().is_some_and(|first| first == asker) {
                    // The asker may found on this word. Answers under way must not make it untrue.
                    self.round += 1;
                    self.heard.clear();
                }
                Tell::Fresh(self.terms.seeds.clone())
            }
            _ => Tell::Busy,
        }
    }

    fn flush(&mut self, chain: Chain, step: Step) -> Step {
        self.state = State::Flushing;
        self.chain = Some(chain);
        self.heard.clear();
        step
    }

    fn found(&mut self, members: Vec<Member>) -> Step {
        let Terms { cluster_name, grid, replicas_max, default_bucket, .. } = &self.terms;
        match planner::found(cluster_name, *grid, *replicas_max, default_bucket.clone(), members) {
            Ok(layout) => {
                let chain = Chain::founded(layout);
                self.flush(chain.clone(), Step::Found(chain))
            }
            Err(error) => Step::Wait { why: format!("these nodes cannot be one cluster: {error}") },
        }
    }

    /// Founds if all conditions hold, else says which one does not.
    fn decide(&mut self) -> Step {
        let wait = |why: String| Step::Wait { why };
        let chain =
            self.heard.values().find_map(|heard| if let Heard::Ring(chain) = heard { Some(chain) } else { None });
        if let Some(chain) = chain {
            return wait(self.why_not_listed(chain));
        }
        let seeds = &self.terms.seeds;
        for (seed, heard) in &self.heard {
            match heard {
                Heard::Fresh { seeds: theirs, .. } if theirs != seeds => {
                    return wait(format!(
                        "seed lists differ: {seed} has [{}], this node [{}]; before founding they are the same \
                         everywhere",
                        theirs.join(", "),
                        seeds.join(", ")
                    ));
                }
                Heard::Silent(why) => return wait(format!("waits for seed {seed}: {why}")),
                Heard::Busy => return wait(format!("waits for seed {seed}: it is neither fresh nor a member")),
                Heard::Fresh { .. } | Heard::Ring(_) => {}
            }
        }
        let me = &self.me.peer_address;
        match seeds.first() {
            Some(first) if first == me => {}
            Some(first) => return wait(format!("waits for {first}, the first of the seeds, to found the cluster")),
            None => return wait("has no seeds".into()),
        }
        let mut members = vec![self.me.clone()];
        for seed in seeds.iter().filter(|seed| *seed != me) {
            match self.heard.get(seed) {
                Some(Heard::Fresh { member, .. }) => members.push(member.clone()),
                _ => return wait(format!("waits for seed {seed}")),
            }
        }
        members.truncate(self.terms.bootstrap_expect.unwrap_or(seeds.len()));
        self.found(members)
    }

    fn why_not_listed(&self, chain: &Chain) -> String {
        let layout = chain.newest();
        let name = &layout.spec().cluster_name;
        let known = layout.members().iter().find(|member| {
            member.node == self.me.node || member.name == self.me.name || member.peer_address == self.me.peer_address
        });
        if chain.ended().contains(&self.me.store) {
            return format!(
                "this directory's store {} was removed from cluster {name} ({}) for good: what it holds is of the past. \
                 Empty the directory and start again; the node then enters as a new one",
                self.me.store,
                layout.cluster()
            );
        }
        match known {
            Some(known) => format!(
                "cluster {name} ({}) knows {} at {} with store {}, this directory is store {}: it was wiped, restored \
                 or replaced. It has no vote, and comes back by a layout change that replaces the store, made by itself once the old \
                 one is down and membership.auto_join is on",
                layout.cluster(),
                known.name,
                known.peer_address,
                known.store,
                self.me.store
            ),
            None => format!(
                "not a member of cluster {name} ({}) yet: it is taken in by a layout change, made by itself where \
                 membership.auto_join is on (there and here), else by `quorate layout plan --add {}`",
                layout.cluster(),
                self.me.name
            ),
        }
    }
}

/// Whether a node that founded alone must stop serving: a member of the cluster `theirs` called, and its layout lists a
/// member at `dialled`, this node's address. Somebody forgot its seeds, and what is written to it is written to the
/// wrong cluster.
///
/// That other cluster is the older one without a look at any clock: who is listed was fresh when it was founded, so
/// this node founded afterwards.
#[must_use]
pub fn founded_aside(mine: &Layout, my_address: &str, theirs: ClusterId, dialled: Option<&str>) -> bool {
    mine.members().len() == 1 && mine.cluster() != theirs && dialled == Some(my_address)
}

/// What `status` warns of in the layout a node serves: it founded alone, and will not find others by itself.
#[must_use]
pub fn lonely(layout: &Layout, seeds: &[String]) -> Option<&'static str> {
    (seeds.is_empty() && layout.version() == 1 && layout.members().len() == 1)
        .then_some("founded a cluster of one: it was started without seeds; give seeds to nodes that belong together")
}

/// Whether these seeds lead to nobody but the node itself: with an empty directory it would found a cluster of its own
/// instead of coming back to the one it was in.
#[must_use]
pub fn seedless(seeds: &[String], my_address: &str) -> bool {
    seeds.iter().all(|seed| seed == my_address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NodeId, StoreId};

    fn member(number: u128) -> Member {
        Member {
            node: NodeId::from_bits(number),
            store: StoreId::from_bits(number + 100),
            name: format!("n{number}"),
            region: "home".into(),
            zone: String::new(),
            weight: 1,
            peer_address: format!("n{number}:1"),
            client_address: format!("n{number}:2"),
        }
    }

    fn terms(seeds: &[&str]) -> Terms {
        Terms {
            cluster_name: "test".into(),
            grid: Grid::new(8).unwrap(),
            replicas_max: 5,
            default_bucket: BucketSettings::default(),
            seeds: seeds.iter().map(|seed| (*seed).to_owned()).collect(),
            bootstrap_expect: None,
        }
    }

    fn fresh(number: u128, seeds: &[&str]) -> Heard {
        Heard::Fresh { member: member(number), seeds: terms(seeds).seeds }
    }

    #[track_caller]
    fn says(step: &Step, part: &str) {
        let (Step::Wait { why } | Step::Refuse { why }) = step else { panic!("{step:?}") };
        assert!(why.contains(part), "{why:?} does not say {part:?}");
    }

    const ALL: &[&str] = &["n1:1", "n2:1", "n3:1"];

    #[test]
    fn without_seeds_a_cluster_of_one_at_once_served_once_flushed() {
        let (mut node, step) = Founding::start(member(1), terms(&[]), Directory::Fresh);
        let Step::Found(chain) = step else { panic!("{step:?}") };
        let layout = chain.newest().clone();
        assert_eq!(layout.members(), [member(1)]);
        assert_eq!(node.on_asked("n2:1"), Tell::Busy, "not told before it is flushed");
        assert_eq!(node.on_flushed(), Step::Serve(Chain::founded(layout.clone())));
        assert_eq!(node.on_asked("n2:1"), Tell::Ring(Chain::founded(layout.clone())));
        assert!(lonely(&layout, &[]).is_some() && lonely(&layout, &["n1:1".into()]).is_none());
    }

    #[test]
    fn the_first_founds_when_every_seed_is_fresh() {
        let (mut node, step) = Founding::start(member(1), terms(ALL), Directory::Fresh);
        assert_eq!(step, Step::Probe { round: 1, seeds: vec!["n2:1".into(), "n3:1".into()] });
        says(&node.on_heard(1, "n2:1", fresh(2, ALL)), "waits for seed n3:1");
        let Step::Found(chain) = node.on_heard(1, "n3:1", fresh(3, ALL)) else { panic!() };
        assert_eq!(chain.newest().members(), [member(1), member(2), member(3)]);
    }

    #[test]
    fn bootstrap_expect_takes_the_first_ones_but_all_must_answer() {
        let terms = Terms { bootstrap_expect: Some(2), ..terms(ALL) };
        let (mut node, _) = Founding::start(member(1), terms, Directory::Fresh);
        says(&node.on_heard(1, "n2:1", fresh(2, ALL)), "waits for seed n3:1");
        says(&node.on_heard(1, "n3:1", Heard::Silent("refused".into())), "waits for seed n3:1: refused");
        let Step::Found(chain) = node.on_heard(1, "n3:1", fresh(3, ALL)) else { panic!() };
        assert_eq!(chain.newest().members(), [member(1), member(2)]);
    }

    #[test]
    fn answers_of_an_earlier_round_do_not_count() {
        let (mut node, _) = Founding::start(member(1), terms(ALL), Directory::Fresh);
        node.on_heard(1, "n2:1", fresh(2, ALL));
        node.begin_round();
        says(&node.on_heard(2, "n3:1", fresh(3, ALL)), "waits for seed n2:1");
        says(&node.on_heard(1, "n2:1", fresh(2, ALL)), "too late");
    }

    #[test]
    fn nobody_founds_against_the_rules_and_the_reason_is_said() {
        let (mut second, _) = Founding::start(member(2), terms(ALL), Directory::Fresh);
        second.on_heard(1, "n1:1", fresh(1, ALL));
        says(&second.on_heard(1, "n3:1", fresh(3, ALL)), "waits for n1:1, the first");

        let (mut first, _) = Founding::start(member(1), terms(ALL), Directory::Fresh);
        says(&first.on_heard(1, "n2:1", fresh(2, &["n2:1"])), "seed lists differ: n2:1 has [n2:1]");

        let (mut data, step) = Founding::start(member(1), terms(&[]), Directory::DataOnly);
        says(&step, "start with an empty one");
        says(&data.begin_round(), "stays out");
        assert_eq!(data.on_asked("n2:1"), Tell::Busy);

        let over = Terms { bootstrap_expect: Some(4), ..terms(ALL) };
        says(&Founding::start(member(1), over, Directory::Fresh).1, "bootstrap_expect is 4, but there are 3 seeds");
        says(&Founding::start(member(1), terms(&["a:1", "a:1"]), Directory::Fresh).1, "listed twice");
    }

    #[test]
    fn a_copied_directory_is_not_founded_with() {
        let (mut node, _) = Founding::start(member(1), terms(ALL), Directory::Fresh);
        let copy = Member { node: NodeId::from_bits(3), name: "n3".into(), peer_address: "n3:1".into(), ..member(2) };
        node.on_heard(1, "n2:1", fresh(2, ALL));
        let heard = Heard::Fresh { member: copy, seeds: terms(ALL).seeds };
        says(&node.on_heard(1, "n3:1", heard), "another has its store id");
    }

    #[test]
    fn one_member_is_enough_to_learn_the_cluster_and_a_wiped_node_stays_out() {
        let layout =
            planner::found("test", Grid::default(), 5, BucketSettings::default(), (1..4).map(member).collect())
                .unwrap();
        let (mut node, _) = Founding::start(member(3), terms(ALL), Directory::Fresh);
        assert_eq!(
            node.on_heard(1, "n2:1", Heard::Ring(Chain::founded(layout.clone()))),
            Step::Adopt(Chain::founded(layout.clone()))
        );
        assert_eq!(node.on_flushed(), Step::Serve(Chain::founded(layout.clone())));

        // The founder, wiped: first of the list, all others answer.
        let wiped = Member { node: NodeId::from_bits(77), store: StoreId::from_bits(78), ..member(1) };
        let (mut node, _) = Founding::start(wiped.clone(), terms(ALL), Directory::Fresh);
        says(&node.on_heard(1, "n2:1", Heard::Ring(Chain::founded(layout.clone()))), "It has no vote");
        says(&node.on_heard(1, "n3:1", fresh(3, ALL)), "It has no vote");
        says(&Founding::start(wiped, terms(ALL), Directory::Ring(Chain::founded(layout.clone()))).1, "It has no vote");

        let (mut stranger, _) = Founding::start(member(9), terms(ALL), Directory::Fresh);
        says(&stranger.on_heard(1, "n2:1", Heard::Ring(Chain::founded(layout))), "it is taken in by a layout change");
    }

    #[test]
    fn who_founded_aside_is_told() {
        let found = |members| planner::found("test", Grid::default(), 5, BucketSettings::default(), members).unwrap();
        let (alone, all) = (found(vec![member(3)]), found((1..4).map(member).collect()));
        assert!(founded_aside(&alone, "n3:1", all.cluster(), Some("n3:1")));
        assert!(!founded_aside(&all, "n3:1", alone.cluster(), Some("n3:1")), "the many do not stop for the one");
        assert!(!founded_aside(&alone, "n3:1", alone.cluster(), Some("n3:1")));
        assert!(!founded_aside(&alone, "n3:1", all.cluster(), Some("n4:1")));
        assert!(!founded_aside(&alone, "n3:1", all.cluster(), None), "who is not listed belongs to nobody");
    }

    #[test]
    fn seeds_that_name_nobody_else_are_none() {
        assert!(seedless(&[], "n1:1") && seedless(&["n1:1".into()], "n1:1"));
        assert!(!seedless(&["n1:1".into(), "n2:1".into()], "n1:1"));
    }
}
