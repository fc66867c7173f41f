//! The command line as clap reads it: every command with its examples.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::bucket_args::{BUCKET, BucketArgs};
use super::config;
use super::hints::{HINTS, HintsArgs};
use super::keys::{KEYS, KeysArgs};
use super::layout::LayoutArgs;
use super::repair::{REPAIR, RepairArgs};
use super::tombstones::TOMBSTONES;
use super::workers::{WORKERS, WorkersArgs};
use crate::kv::Lifetime;
use crate::quorum::Level;

const CODES: &str = "\
Exit codes: 0 fine, 1 failed, 2 usage, 3 not found, 4 quorum not met, 5 siblings, 6 outcome unknown.

Examples:
  quorate dev                                  a cluster of three to play with
  quorate put greetings world hello            write, then
  quorate get greetings world                  read
  quorate where greetings world                who holds what
  quorate server --help                        one node of a real cluster";

/// A leaderless, Dynamo-style quorum database.
#[derive(Parser, Debug)]
#[command(name = "quorate", version, about, after_help = CODES, max_term_width = 120)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Run one node.
    #[command(after_help = SERVER)]
    Server(Box<ServerArgs>),
    /// Run a whole cluster in one process, to play with.
    #[command(after_help = DEV)]
    Dev(DevArgs),
    /// A guided tour: a real three-node cluster with real data loses a node, and nothing else.
    #[command(after_help = DEMO)]
    Demo(DemoArgs),
    /// Store a value. Reads first, so that it supersedes what is there, and nothing that it did not see.
    #[command(after_help = PUT)]
    Put(PutArgs),
    /// Print a value: its bytes alone, unless -o says otherwise.
    #[command(after_help = GET)]
    Get(GetArgs),
    /// Delete a value. Reads first, as `put` does.
    #[command(after_help = DELETE)]
    Delete(DeleteArgs),
    /// List the keys of a bucket, in byte order.
    #[command(after_help = KEYS)]
    Keys(KeysArgs),
    /// How the cluster is, on one screen.
    #[command(after_help = STATUS)]
    Status(AdminArgs),
    /// Who is in the cluster, and what one node thinks of each member.
    #[command(after_help = MEMBERS)]
    Members(AdminArgs),
    /// Who owns how much of the ring.
    #[command(after_help = RING)]
    Ring(AdminArgs),
    /// What owners missed while they were away, and how far it is replayed.
    #[command(after_help = HINTS)]
    Hints(HintsArgs),
    /// Deletions that wait to be removed for good, and for whom.
    #[command(after_help = TOMBSTONES)]
    Tombstones(AdminArgs),
    /// Compare what the members hold, now, and make equal what differs.
    #[command(after_help = REPAIR)]
    Repair(RepairArgs),
    /// What runs in the background, how far it is; pause it, resume it, run it now.
    #[command(after_help = WORKERS)]
    Workers(WorkersArgs),
    /// Change who is in the cluster, and who owns what: plan, look, commit.
    #[command(after_help = LAYOUT)]
    Layout(LayoutArgs),
    /// Buckets: how many replicas, which levels and limits; create, change, empty, delete.
    #[command(after_help = BUCKET)]
    Bucket(BucketArgs),
    /// Who owns an object, and what each replica holds of it.
    #[command(after_help = WHERE)]
    Where(WhereArgs),
}

const SERVER: &str = "\
Every setting: config/quorate.toml. Order: defaults < --config < QUORATE_… environment < flags.
SIGTERM and SIGINT drain within node.shutdown_timeout; SIGHUP reads node.log.filter again.

Examples:
  quorate server --data-dir ./data             a cluster of one on 127.0.0.1:7400
  quorate server --config /etc/quorate/quorate.toml
  QUORATE_NODE__ZONE=b quorate server --set node.limits.max_value=2MiB

Three nodes on one machine. In each of three terminals:
  export QUORATE_NODE__SEEDS=127.0.0.1:7402,127.0.0.1:7412,127.0.0.1:7422
and then, one in each:
  quorate server --data-dir ./n1
  quorate server --data-dir ./n2 --client-listen 127.0.0.1:7410 \\
    --admin-listen 127.0.0.1:7411 --peer-listen 127.0.0.1:7412
  quorate server --data-dir ./n3 --client-listen 127.0.0.1:7420 \\
    --admin-listen 127.0.0.1:7421 --peer-listen 127.0.0.1:7422";

const DEV: &str = "\
Node i listens on base + 10 i for clients, one above for administrators, two above for the other nodes.
Data are temporary, and removed at the end, unless --data-dir keeps them.

Examples:
  quorate dev
  quorate dev --nodes 5 --base-port 9000
  quorate dev --data-dir ./dev-data";

const DEMO: &str = "\
Nodes are processes of their own, on free ports of loopback, with data in a temporary directory. Nothing is left
behind, unless --keep leaves the cluster up.

Examples:
  quorate demo
  quorate demo --keep";

const PUT: &str = "\
Where there are siblings it writes nothing and exits with 5: which of them to supersede is yours to say.

Examples:
  quorate put greetings world hello
  echo hello | quorate put greetings world -
  quorate put greetings world hello -w all --explain
  quorate put greetings world hello --blind               beside whatever is there
  quorate put greetings world hello --ttl 10m              gone ten minutes from now
  quorate put greetings world hello --context CONTEXT     in place of what CONTEXT covers";

const GET: &str = "\
Examples:
  quorate get greetings world
  quorate get greetings world -r 1 --explain
  quorate get greetings world -o json                     all siblings and the context
  quorate get greetings world --latest                    of siblings, the one written last";

const DELETE: &str = "\
Examples:
  quorate delete greetings world
  quorate delete greetings world -w all
  quorate delete greetings world --context CONTEXT        exactly what CONTEXT covers";

const STATUS: &str = "\
Examples:
  quorate status
  quorate status --admin http://127.0.0.1:7411 -o json";

const MEMBERS: &str = "\
PHI is how unlikely a member's silence would be if it lived, as a power of ten: at 8 it is down. LAYOUT is the newest
layout that the member has said it knows. All of it is one node's opinion: ask another with --admin.

Examples:
  quorate members
  quorate members -o wide                                 with ids and incarnations
  quorate members --admin http://127.0.0.1:7411 -o json";

const RING: &str = "\
Counted with the replicas of a bucket that was never configured. FIRST: partitions in which the member comes first.

Examples:
  quorate ring
  quorate ring -o wide                                    partition by partition, other live layouts beside it";

const LAYOUT: &str = "\
Examples:
  quorate layout show                                     what counts now, and who waits to join
  quorate layout plan --add n4                            what it would come to, and the command that commits it
  quorate layout commit PLAN --version 8 --wait
  quorate layout plan --help                              leave, remove, replace, weights, labels, abort";

const WHERE: &str = "\
Reads from every replica there is, and mends none: what you see is what is there.

Examples:
  quorate where greetings world
  quorate where greetings world -o wide";

/// How a command shows what it found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// The same, with more columns.
    Wide,
    /// JSON for programs.
    Json,
}

/// Where the nodes are.
#[derive(Args, Debug, Clone)]
pub(super) struct Reach {
    /// A node's client address; give several, and the next is tried where one does not answer.
    #[arg(
        long = "endpoint",
        value_name = "URL",
        env = "QUORATE_ENDPOINTS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7400"
    )]
    pub(super) endpoints: Vec<String>,
    /// How long to try.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = config::duration)]
    pub(super) timeout: Duration,
    /// How to show it.
    #[arg(short, long, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
}

/// Which object.
#[derive(Args, Debug, Clone)]
pub(super) struct Object {
    /// The bucket.
    pub(super) bucket: String,
    /// The key: slashes and all.
    pub(super) key: String,
}

#[derive(Args, Debug, Default)]
pub(super) struct ServerArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where everything is kept.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<String>,
    /// The node's name.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Where clients connect to.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) client_listen: Option<String>,
    /// Where administrators connect to.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) admin_listen: Option<String>,
    /// Where other nodes connect to.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) peer_listen: Option<String>,
    /// What other nodes use, where that differs.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) advertise: Option<String>,
    /// A peer address to found or find the cluster by: the same list on every node.
    #[arg(long = "seed", value_name = "HOST:PORT")]
    pub(super) seeds: Vec<String>,
    /// How many fresh nodes the first of the seeds waits for.
    #[arg(long, value_name = "N")]
    pub(super) bootstrap_expect: Option<u32>,
    /// The region it stands in.
    #[arg(long)]
    pub(super) region: Option<String>,
    /// The zone it stands in.
    #[arg(long)]
    pub(super) zone: Option<String>,
    /// Its share of the data, relative to the others'.
    #[arg(long)]
    pub(super) weight: Option<u32>,
    /// Listen beyond loopback without a cluster secret.
    #[arg(long)]
    pub(super) insecure: bool,
    /// Any setting of config/quorate.toml.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) settings: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("is KEY=VALUE, such as node.zone=b")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl ServerArgs {
    /// The flags as keys and texts, `--set` first.
    pub(super) fn flags(&self) -> Vec<(String, String)> {
        let texts = [
            ("node.data_dir", self.data_dir.clone()),
            ("node.name", self.name.clone()),
            ("node.client_listen", self.client_listen.clone()),
            ("node.admin_listen", self.admin_listen.clone()),
            ("node.peer_listen", self.peer_listen.clone()),
            ("node.advertise", self.advertise.clone()),
            ("node.seeds", (!self.seeds.is_empty()).then(|| self.seeds.join(","))),
            ("node.bootstrap_expect", self.bootstrap_expect.map(|n| n.to_string())),
            ("node.region", self.region.clone()),
            ("node.zone", self.zone.clone()),
            ("node.weight", self.weight.map(|n| n.to_string())),
            ("node.insecure", self.insecure.then(|| "true".to_owned())),
        ];
        let given = texts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        self.settings.iter().cloned().chain(given).collect()
    }
}

#[derive(Args, Debug)]
pub(super) struct DevArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(super) nodes: u16,
    /// The first node's client port.
    #[arg(long, default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(super) base_port: u16,
    /// Keep the data here.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Leave the cluster up, and print its addresses.
    #[arg(long)]
    pub(super) keep: bool,
}

#[derive(Args, Debug)]
pub(super) struct PutArgs {
    #[command(flatten)]
    pub(super) object: Object,
    /// The value; `-` reads it from stdin.
    #[arg(allow_hyphen_values = true)]
    pub(super) value: String,
    /// The value's media type.
    #[arg(long, value_name = "TYPE")]
    pub(super) content_type: Option<String>,
    /// How long it lives: 500ms, 60s, 10m, 3h, 7d, never. Unsaid: as its bucket says.
    #[arg(long, value_name = "TIME")]
    pub(super) ttl: Option<Lifetime>,
    #[command(flatten)]
    pub(super) write: WriteArgs,
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Args, Debug)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    pub(super) object: Object,
    #[command(flatten)]
    pub(super) write: WriteArgs,
    #[command(flatten)]
    pub(super) reach: Reach,
}

/// How to write.
#[derive(Args, Debug)]
pub(super) struct WriteArgs {
    /// How many replicas must have it: a number, one, quorum, all.
    #[arg(short, value_name = "W")]
    pub(super) w: Option<Level>,
    /// How many must say what is there, first.
    #[arg(short, value_name = "R")]
    pub(super) r: Option<Level>,
    /// Both of them.
    #[arg(long, value_name = "LEVEL", default_value = "quorum")]
    pub(super) consistency: Level,
    /// Let other nodes keep it for owners that are down: their hints count.
    #[arg(long)]
    pub(super) sloppy: bool,
    /// Supersede exactly what this context covers.
    #[arg(long, conflicts_with = "blind")]
    pub(super) context: Option<String>,
    /// Send no context: a put stays beside what is there, a delete covers what the coordinator sees.
    #[arg(long)]
    pub(super) blind: bool,
    /// Tell what each replica did, on stderr.
    #[arg(long)]
    pub(super) explain: bool,
}

#[derive(Args, Debug)]
pub(super) struct GetArgs {
    #[command(flatten)]
    pub(super) object: Object,
    /// How many replicas must answer: a number, one, quorum, all.
    #[arg(short, value_name = "R")]
    pub(super) r: Option<Level>,
    /// The same.
    #[arg(long, value_name = "LEVEL", default_value = "quorum")]
    pub(super) consistency: Level,
    /// Ask the nodes that keep hints for owners that are down as well.
    #[arg(long)]
    pub(super) sloppy: bool,
    /// Of siblings, print the one written last; if that is a delete, nothing is there.
    #[arg(long)]
    pub(super) latest: bool,
    /// Tell what each replica did, on stderr.
    #[arg(long)]
    pub(super) explain: bool,
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Args, Debug)]
pub(super) struct WhereArgs {
    #[command(flatten)]
    pub(super) object: Object,
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Args, Debug, Clone)]
pub(super) struct AdminArgs {
    /// A node's admin address. Default: one port above each endpoint.
    #[arg(long = "admin", value_name = "URL", env = "QUORATE_ADMIN_ENDPOINTS", value_delimiter = ',')]
    pub(super) admin: Vec<String>,
    /// The file with the admin token.
    #[arg(long, value_name = "FILE", env = "QUORATE_ADMIN_TOKEN_FILE")]
    pub(super) admin_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("  quorate {}", sub.get_name())), "{}", sub.get_name());
            for below in sub.get_subcommands().filter(|below| below.get_name() != "help") {
                let help = below.get_after_help().map(ToString::to_string).unwrap_or_default();
                let line = format!("  quorate {} {}", sub.get_name(), below.get_name());
                assert!(help.contains(&line), "{line}");
            }
        }
    }

    #[test]
    fn flags_become_keys() {
        let args = ServerArgs {
            seeds: vec!["a:1".into(), "b:2".into()],
            weight: Some(7),
            settings: vec![("node.zone".into(), "z".into())],
            ..ServerArgs::default()
        };
        let flags = [("node.zone", "z"), ("node.seeds", "a:1,b:2"), ("node.weight", "7")];
        assert_eq!(args.flags(), flags.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
