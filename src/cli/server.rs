//! `server`: one node, until it is told to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::args::ServerArgs;
use super::config::{Settings, SettingsError};
use super::logs::Logs;
use super::notify::Manager;
use super::output::{Exit, Failure, print};
use super::running::{Running, keeps_data};
use crate::cluster::Standing;

pub(super) async fn server(args: ServerArgs) -> Result<(), Failure> {
    let settings = load(&args)?;
    let logs = Logs::start(&settings.log)?;
    let resolved = settings.resolve().map_err(usage)?;
    let mut signals = Signals::of_server()?;
    let mut hangup = listen_for(SignalKind::hangup())?;
    let settings = resolved.settings.clone();
    for ignored in &settings.ignored {
        warn!(ignored, "a variable of the environment is not read");
    }
    if settings.insecure && settings.config.cluster.secrets.is_empty() {
        warn!("no cluster secret, and --insecure: anybody who reaches this node's ports owns its data");
    }
    if !keeps_data() {
        warn!("this build has no durable storage: data are in memory, and gone when the process is");
    }
    let running = Running::start(resolved).await?;
    let node = running.node.clone();
    info!(
        clients = settings.client_listen,
        admin = settings.admin_listen,
        peers = settings.peer_listen,
        data_dir = %settings.data_dir.display(),
        "listening"
    );
    let manager = Manager::of_environment();
    manager.ready(&format!("listens for clients on {}, does not serve yet", settings.client_listen));
    let mut told = false;
    let stopped_by = loop {
        tokio::select! {
            biased;
            name = signals.next() => break name,
            _ = hangup.recv() => refilter(&args, &logs),
            standing = node.wait_until_serving(), if !told => {
                told = true;
                match standing {
                    Standing::Refused(why) => {
                        manager.status(&format!("stays out: {why}"));
                        warn!(why, "this node stays out; it answers on its admin listener, and stops when told to");
                    }
                    _ => {
                        let (name, clients) = (&settings.config.node.name, &settings.client_listen);
                        manager.status(&format!("serves clients on {clients}"));
                        let admin = &settings.admin_listen;
                        print(format!("{name} serves on http://{clients} (admin http://{admin})\n").as_bytes())?;
                    }
                }
            }
        }
    };
    info!(signal = stopped_by, "stopping: no new work, what is under way is finished");
    manager.stopping("finishes what is under way");
    tokio::select! {
        biased;
        ended = running.stop() => {
            ended?;
            info!("stopped cleanly");
            Ok(())
        }
        name = signals.next() => {
            let next = "nothing acknowledged is lost; the next start merges with the other replicas";
            Err(Failure::new(Exit::Failed, format!("a second {name}: stopped at once"), next))
        }
    }
}

fn load(args: &ServerArgs) -> Result<Settings, Failure> {
    Settings::load(args.config.as_deref(), std::env::vars_os(), &args.flags()).map_err(usage)
}

fn usage(error: SettingsError) -> Failure {
    let next = "config/quorate.toml has every setting, its default and why; `quorate server --help` the flags";
    Failure::new(Exit::Usage, error.to_string(), next)
}

/// Reads the log filter again; a configuration that is wrong by now changes nothing.
fn refilter(args: &ServerArgs, logs: &Logs) {
    let changed = load(args).and_then(|settings| logs.refilter(&settings.log.filter).map(|()| settings.log.filter));
    match changed {
        Ok(filter) => info!(filter, "SIGHUP: the log filter was read again"),
        Err(failure) => warn!(problem = failure.text, "SIGHUP: nothing was changed"),
    }
}

/// What ends a process: SIGTERM, SIGINT; SIGHUP, where the process is one for a terminal.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// For a server, which outlives its terminal.
    pub(super) fn of_server() -> Result<Self, Failure> {
        let (terminate, interrupt) = (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: None })
    }

    /// For what a terminal shows, and which leaves nothing behind when that goes.
    pub(super) fn of_terminal() -> Result<Self, Failure> {
        Ok(Self { hangup: Some(listen_for(SignalKind::hangup())?), ..Self::of_server()? })
    }

    /// Waits for one of them.
    pub(super) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("cannot wait for signals: {error}"), ""))
}
