//! `bucket` as clap reads it.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::Reach;
use super::config;

pub(super) const BUCKET: &str = "\
A bucket that nobody configured has the cluster's defaults, and needs no command: write to it. Any node changes any
bucket; a change is answered once it is decided and the members that are up go by it.

Examples:
  quorate bucket list
  quorate bucket show orders
  quorate bucket set orders n=5 w=quorum              created, or changed
  quorate bucket set sessions mode=lww max_value=64KiB
  quorate bucket purge orders --yes                   empty it for good
  quorate bucket delete orders --yes";

const LIST: &str = "\
Examples:
  quorate bucket list
  quorate bucket list -o json";

const SHOW: &str = "\
Examples:
  quorate bucket show orders
  quorate bucket show orders -o json                  as HTTP answers it";

const SET: &str = "\
Settings: n, regions.REGION (replicas); mode (siblings, lww; fixed once it is created); r, w (levels of requests that
say none); blind_writes (sibling, reject, overwrite); max_value, max_object (sizes such as 64KiB); max_siblings.
`default` takes a setting back. What is not named stays as it is.

A change of n is a change of the layout: copies are made or given up in the background, under load.
What is there is read first, and nothing is changed if somebody else did so meanwhile.

Examples:
  quorate bucket set orders n=5
  quorate bucket set orders w=all blind_writes=reject
  quorate bucket set sessions mode=lww
  quorate bucket set orders w=default                 follow the cluster again";

const PURGE: &str = "\
What was in it before is gone for good, on every node; what is written from then on stays. Its settings stay, too.

Examples:
  quorate bucket purge orders
  quorate bucket purge orders --yes                   without asking";

const DELETE: &str = "\
The bucket goes with all that is in it. What is written to its name later has the cluster's defaults, and nothing of
what was there is ever seen again.

Examples:
  quorate bucket delete orders
  quorate bucket delete orders --yes                  without asking";

#[derive(Args, Debug)]
pub(super) struct BucketArgs {
    #[command(subcommand)]
    pub(super) command: BucketCommand,
}

#[derive(Subcommand, Debug)]
pub(super) enum BucketCommand {
    /// All buckets that are configured.
    #[command(after_help = LIST)]
    List(ListArgs),
    /// One bucket: how it is configured, or that it has the cluster's defaults.
    #[command(after_help = SHOW)]
    Show(ShowArgs),
    /// Create a bucket, or change one.
    #[command(after_help = SET)]
    Set(SetArgs),
    /// Empty a bucket for good.
    #[command(after_help = PURGE)]
    Purge(EndArgs),
    /// Take a bucket away with all that is in it.
    #[command(after_help = DELETE)]
    Delete(EndArgs),
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The bucket.
    pub(super) bucket: String,
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Args, Debug)]
pub(super) struct SetArgs {
    /// The bucket.
    pub(super) bucket: String,
    /// What to set.
    #[arg(value_name = "NAME=VALUE", required = true)]
    pub(super) settings: Vec<String>,
    /// How long the change may take: one that is under way may have to end first.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::duration)]
    pub(super) wait: Duration,
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Args, Debug)]
pub(super) struct EndArgs {
    /// The bucket.
    pub(super) bucket: String,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
    /// How long it may take: a change that is under way may have to end first.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::duration)]
    pub(super) wait: Duration,
    #[command(flatten)]
    pub(super) reach: Reach,
}
