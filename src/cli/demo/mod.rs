//! `demo`: a real three-node cluster with real data, and a story that checks what it tells.
//!
//! Nodes are processes of their own, so that one can be killed as a machine dies: without a word. Whatever ends the demo
//! (its end, an error, Ctrl-C, a panic) ends the nodes and removes their data, `--keep` aside.

mod cluster;
mod story;

use super::args::DemoArgs;
use super::output::{Exit, Failure, Paint, print};
use super::running::keeps_data;
use super::server::Signals;
use crate::env::Env;
use cluster::Cluster;
use story::Story;

/// Towns of the world with 15,000 people or more: data/README.md.
pub(super) const CITIES: &str = include_str!("../../../data/cities.tsv");

pub(super) async fn demo(args: DemoArgs) -> Result<(), Failure> {
    if !keeps_data() {
        let text = "the demo kills a node and expects its data back, and this build has no durable storage";
        return Err(Failure::new(Exit::Failed, text, "cargo build --release (with the rocksdb feature)"));
    }
    let env = Env::real();
    let began = env.clock.now();
    let mut signals = Signals::of_terminal()?;
    let mut cluster = Cluster::plan(env.clone())?;
    let told = tokio::select! {
        biased;
        name = signals.next() => return Err(Failure::new(Exit::Failed, format!("{name}: the demo was stopped"), "")),
        told = Story::new(&mut cluster, env.clone())?.tell() => told,
    };
    if let Err(failure) = told {
        let logs = cluster.last_words();
        return Err(Failure { text: format!("{}{logs}", failure.text), ..failure });
    }
    let paint = Paint::stdout();
    let seconds = env.clock.now().since(began).as_secs();
    let mut text = format!("\n{} All of it held, in {seconds} s.\n", paint.green("done"));
    if args.keep {
        text += &cluster.keep();
    } else {
        drop(cluster);
        text += "The nodes are stopped and their data removed.\n\nGo on:\n  quorate dev      a cluster to talk to with \
                 curl; README.md has examples\n";
    }
    print(text.as_bytes())
}
