//! The command line: the commands, and configuration file + environment + flags -> [`node::Config`](crate::node::Config).
//!
//! One binary does it all. Data go to stdout, notes to stderr; the exit code says what happened (`output::Exit`), and an
//! error names the next command to try. What runs a node (`server`, `dev`, and through processes of its own `demo`) starts
//! it in one place, `running`.

mod args;
mod bucket;
mod bucket_args;
pub mod config;
mod demo;
mod dev;
mod hints;
mod keys;
mod layout;
mod logs;
mod members;
mod notify;
mod objects;
mod output;
mod repair;
mod ring;
mod running;
mod server;
mod status;
mod tombstones;
mod workers;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use args::{Cli, Command};
use output::{Exit, Failure};

/// How long what is left of a command may hold up the process's end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(Exit::Failed, format!("cannot start threads: {error}"), "").report(),
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Server(args) => Box::pin(server::server(*args)).await,
            Command::Dev(args) => Box::pin(dev::dev(args)).await,
            Command::Demo(args) => Box::pin(demo::demo(args)).await,
            Command::Put(args) => Box::pin(objects::put(args)).await,
            Command::Get(args) => Box::pin(objects::get(args)).await,
            Command::Delete(args) => Box::pin(objects::delete(args)).await,
            Command::Keys(args) => Box::pin(keys::keys(args)).await,
            Command::Bucket(args) => Box::pin(bucket::bucket(args)).await,
            Command::Where(args) => Box::pin(objects::whereabouts(args)).await,
            Command::Members(args) => Box::pin(members::members(args)).await,
            Command::Ring(args) => Box::pin(ring::ring(args)).await,
            Command::Hints(args) => Box::pin(hints::hints(args)).await,
            Command::Layout(args) => Box::pin(layout::layout(args)).await,
            Command::Status(args) => Box::pin(status::status(args)).await,
            Command::Repair(args) => Box::pin(repair::repair(args)).await,
            Command::Tombstones(args) => Box::pin(tombstones::tombstones(args)).await,
            Command::Workers(args) => Box::pin(workers::workers(args)).await,
        }
    });
    runtime.shutdown_timeout(LAST_WORDS);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
