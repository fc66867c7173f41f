//! The command line of `layout`: what changes, what is taken upon oneself, whether to wait.

use clap::{Args, Subcommand};

use crate::cli::args::AdminArgs;

/// Changes are planned, looked at, and committed.
#[derive(Args, Debug)]
pub(in crate::cli) struct LayoutArgs {
    #[command(subcommand)]
    pub(super) command: LayoutCommand,
}

#[derive(Subcommand, Debug)]
pub(super) enum LayoutCommand {
    /// What a change would come to: who gets what, how many bytes, which risks. Changes nothing.
    #[command(after_help = PLAN)]
    Plan(Box<PlanArgs>),
    /// Have a plan's layout decided.
    #[command(after_help = COMMIT)]
    Commit(CommitArgs),
    /// Give up the change under way: the owners from before are given back.
    #[command(after_help = ABORT)]
    Abort(AbortArgs),
    /// Leave out members that are dead for good, at once: also while a change is under way.
    #[command(after_help = SKIP)]
    Skip(SkipArgs),
    /// The last resort where the members that decide are lost: a layout without them that nobody decides.
    #[command(after_help = FORCE)]
    Force(ForceArgs),
    /// The layouts that count now, how far each member has come, and for whom a change waits.
    #[command(after_help = SHOW)]
    Show(AdminArgs),
    /// The layouts that a node has seen, and what each of them changed.
    #[command(after_help = HISTORY)]
    History(AdminArgs),
}

const PLAN: &str = "\
Members are called by name or id. Several changes at once are one plan, so that nothing moves twice. Nodes that can be
added are listed by `quorate layout show`. The node that makes a plan keeps it for ten minutes.

Examples:
  quorate layout plan --add n4 --add n5
  quorate layout plan --leave n2                          n2 lives: it is copied from, then left out
  quorate layout plan --remove n3                         n3 is dead for good
  quorate layout plan --replace n3=n6                     n3 is dead, n6 takes its places
  quorate layout plan --weight n1=200 --zone n2=b
  quorate layout plan --abort                             what giving up the change under way comes to
  quorate layout plan --add n4 -o json";

const COMMIT: &str = "\
Where another layout was decided meanwhile it changes nothing, and says which one. A change goes on by itself: --wait
only watches it.

Examples:
  quorate layout commit 5b2f8c1d9e0a7643 --version 8
  quorate layout commit 5b2f8c1d9e0a7643 --version 8 --wait";

const ABORT: &str = "\
A joiner that is down is left out with it; members that died meanwhile are named by --remove.

Examples:
  quorate layout abort
  quorate layout abort --remove n3 --wait";

const SKIP: &str = "\
It says that their processes have stopped, and never run again: what comes back under their names is refused, and starts
with an empty directory, as a new node. Nobody copies from a skipped member.

Examples:
  quorate layout skip n3
  quorate layout skip n3 n4 --accept-data-loss --yes      they may be a majority of some partition's owners";

const FORCE: &str = "\
Name ALL members that are gone. Run it once, on one node of those that are left, while all of them are up. If one that is
named still runs somewhere, there are two clusters from now on, and what the other one acknowledges is lost.

Examples:
  quorate layout force --gone n3 --gone n4 --gone n5 --accept-data-loss";

const SHOW: &str = "\
ACK: the layout a member uses, with nothing in flight on older ones. SYNCED: the live layouts whose share it holds.
READS: the oldest layout it serves reads in. A change is complete when all three have come to the newest layout.

Examples:
  quorate layout show
  quorate layout show -o json";

const HISTORY: &str = "\
Examples:
  quorate layout history
  quorate layout history --admin http://127.0.0.1:7411";

/// A word and what it is to be.
type Pair = (String, String);

fn pair(text: &str) -> Result<Pair, String> {
    let (name, value) = text.split_once('=').ok_or("is NAME=VALUE, such as n1=b")?;
    if name.is_empty() || value.is_empty() {
        return Err("is NAME=VALUE, neither of them empty".into());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let (name, value) = pair(text)?;
    let number = value.parse().map_err(|_| format!("a weight is a whole number, got {value:?}"))?;
    Ok((name, number))
}

#[derive(Args, Debug)]
pub(super) struct PlanArgs {
    /// A node that becomes a member.
    #[arg(long, value_name = "NAME")]
    pub(super) add: Vec<String>,
    /// A member that leaves: it lives, and is copied from.
    #[arg(long, value_name = "NAME")]
    pub(super) leave: Vec<String>,
    /// A member that is dead for good.
    #[arg(long, value_name = "NAME")]
    pub(super) remove: Vec<String>,
    /// A member that is dead for good, and the node that takes its places.
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    pub(super) replace: Vec<Pair>,
    /// A member's new share of the load.
    #[arg(long, value_name = "NAME=WEIGHT", value_parser = weight)]
    pub(super) weight: Vec<(String, u32)>,
    /// A member's new zone.
    #[arg(long, value_name = "NAME=ZONE", value_parser = pair)]
    pub(super) zone: Vec<Pair>,
    /// A member's new region.
    #[arg(long, value_name = "NAME=REGION", value_parser = pair)]
    pub(super) region: Vec<Pair>,
    /// Give up the change under way; only --remove goes with it.
    #[arg(long)]
    pub(super) abort: bool,
    /// Place everything anew, also where nobody changes.
    #[arg(long)]
    pub(super) rebalance: bool,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// What is taken upon oneself.
#[derive(Args, Debug)]
pub(super) struct Accepts {
    /// Go on although partitions are left with fewer live replicas than their quorums need.
    #[arg(long)]
    pub(super) force: bool,
    /// Go on although acknowledged writes may be lost.
    #[arg(long)]
    pub(super) accept_data_loss: bool,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
    /// Watch until it is in force.
    #[arg(long)]
    pub(super) wait: bool,
}

#[derive(Args, Debug)]
pub(super) struct CommitArgs {
    /// The plan, as `quorate layout plan` calls it.
    pub(super) plan: String,
    /// The layout it makes, so that nobody commits what he has not seen.
    #[arg(long)]
    pub(super) version: u64,
    #[command(flatten)]
    pub(super) accepts: Accepts,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

#[derive(Args, Debug)]
pub(super) struct AbortArgs {
    /// A member that has died meanwhile.
    #[arg(long, value_name = "NAME")]
    pub(super) remove: Vec<String>,
    #[command(flatten)]
    pub(super) accepts: Accepts,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

#[derive(Args, Debug)]
pub(super) struct SkipArgs {
    /// Members whose processes have stopped for good.
    #[arg(required = true, value_name = "NAME")]
    pub(super) members: Vec<String>,
    #[command(flatten)]
    pub(super) accepts: Accepts,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

#[derive(Args, Debug)]
pub(super) struct ForceArgs {
    /// A member that is gone for ever.
    #[arg(long, required = true, value_name = "NAME")]
    pub(super) gone: Vec<String>,
    /// Go on although acknowledged writes may be lost: always needed here.
    #[arg(long)]
    pub(super) accept_data_loss: bool,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
    /// Watch until it is in force.
    #[arg(long)]
    pub(super) wait: bool,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}
