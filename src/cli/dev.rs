//! `dev`: a whole cluster in one process, to play with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;

use super::args::DevArgs;
use super::config::{LogFormat, LogSettings, Resolved, Settings};
use super::logs::Logs;
use super::output::{Exit, Failure, Paint, note, print};
use super::running::{Running, keeps_data};
use super::server::Signals;
use crate::cluster::Standing;
use crate::env::Env;
use crate::replica::Reserve;

/// How long a cluster on one machine may take to found itself.
const FOUNDING: Duration = Duration::from_secs(30);

/// A directory that goes when this does.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Result<Self, Failure> {
        let unique = Env::real().entropy.u64();
        let path = std::env::temp_dir().join(format!("{name}-{}-{unique:016x}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| {
            let text = format!("cannot make the temporary directory {}: {error}", path.display());
            Failure::new(Exit::Failed, text, "TMPDIR chooses where")
        })?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves it in place.
    pub(super) fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            note(&format!("note: {} could not be removed: {error}", self.0.display()));
        }
    }
}

pub(super) async fn dev(args: DevArgs) -> Result<(), Failure> {
    Logs::start(&LogSettings { filter: "warn".into(), format: LogFormat::Text })?;
    let mut signals = Signals::of_terminal()?;
    let last = u32::from(args.base_port) + 10 * u32::from(args.nodes - 1) + 2;
    if last > u32::from(u16::MAX) {
        let text = format!("{} nodes from port {} on need ports up to {last}", args.nodes, args.base_port);
        return Err(Failure::new(Exit::Usage, text, "--base-port 7400"));
    }
    let scratch = match &args.data_dir {
        None => Some(Scratch::new("quorate-dev")?),
        Some(_) => None,
    };
    let place = match (&args.data_dir, &scratch) {
        (Some(path), _) => path.clone(),
        (None, Some(scratch)) => scratch.path().to_owned(),
        (None, None) => PathBuf::new(),
    };
    let mut nodes = Vec::new();
    let started = start(&args, &place, &mut nodes);
    let ended = tokio::select! {
        biased;
        name = signals.next() => Err(Failure::new(Exit::Failed, format!("{name} before the cluster was up"), "")),
        started = started => started,
    };
    if ended.is_ok() {
        print(welcome(&args).as_bytes())?;
        let how = match (&args.data_dir, keeps_data()) {
            (_, false) => "in memory (this build has no durable storage)".to_owned(),
            (None, _) => "temporary".to_owned(),
            (Some(path), _) => format!("in {}", path.display()),
        };
        note(&format!("data: {how}. Ctrl-C stops it."));
        signals.next().await;
    }
    for stopped in join_all(nodes.into_iter().map(Running::stop)).await {
        stopped?;
    }
    ended
}

/// Starts all nodes, and waits until all of them serve.
async fn start(args: &DevArgs, place: &Path, nodes: &mut Vec<Running>) -> Result<(), Failure> {
    let port = |node: u16, service: u16| args.base_port + 10 * node + service;
    let seeds: Vec<String> = (0..args.nodes).map(|node| format!("127.0.0.1:{}", port(node, 2))).collect();
    for node in 0..args.nodes {
        let resolved = one(node, args, place, &seeds, |service| format!("127.0.0.1:{}", port(node, service)))?;
        nodes.push(Running::start(resolved).await?);
    }
    let env = Env::real();
    let serving = join_all(nodes.iter().map(|running| running.node.wait_until_serving()));
    let standings = env.timeout(FOUNDING, serving).await.map_err(|_| {
        let text = format!("the cluster was not up within {} s", FOUNDING.as_secs());
        Failure::new(Exit::Failed, text, "with --data-dir: was it made with as many nodes, on the same ports?")
    })?;
    for standing in standings {
        if let Standing::Refused(why) = standing {
            return Err(Failure::new(Exit::Failed, format!("a node stays out: {why}"), ""));
        }
    }
    Ok(())
}

fn one(
    node: u16,
    args: &DevArgs,
    place: &Path,
    seeds: &[String],
    address: impl Fn(u16) -> String,
) -> Result<Resolved, Failure> {
    let mut settings = Settings {
        data_dir: place.join(format!("n{}", node + 1)),
        name: Some(format!("n{}", node + 1)),
        client_listen: address(0),
        admin_listen: address(1),
        peer_listen: address(2),
        shutdown_timeout: Duration::from_secs(5),
        ..Settings::default()
    };
    settings.config.cluster.name = "dev".into();
    // For trying things out on a disk that may be nearly full: a share of it would be much.
    settings.config.node.disk_reserve = Reserve::Bytes(64 << 20);
    settings.config.node.zone = char::from(b'a' + u8::try_from(node).unwrap_or_default()).to_string();
    settings.config.node.seeds = if args.nodes > 1 { seeds.to_vec() } else { Vec::new() };
    settings.resolve().map_err(|error| Failure::new(Exit::Usage, error.to_string(), ""))
}

fn welcome(args: &DevArgs) -> String {
    let paint = Paint::stdout();
    let mut text = String::new();
    for node in 0..args.nodes {
        let port = args.base_port + 10 * node;
        let name = paint.bold(&format!("n{}", node + 1));
        text += &format!("{name}  http://127.0.0.1:{port}  (admin http://127.0.0.1:{})\n", port + 1);
    }
    let first = args.base_port;
    let other = first + if args.nodes > 1 { 10 } else { 0 };
    let endpoint = if first == 7400 { String::new() } else { format!(" --endpoint http://127.0.0.1:{first}") };
    text + &format!(
        "\nTry:\n  curl -i -X PUT --data hello http://127.0.0.1:{first}/v1/kv/greetings/world\n  \
         curl -i http://127.0.0.1:{other}/v1/kv/greetings/world\n  quorate where greetings world{endpoint}\n"
    )
}
