//! What a server is told: defaults < file < environment < flags, one key at a time, so that the rule is the same for all
//! of them and an error can say where its value came from.
//!
//! [`Settings::resolve`] then checks what only all of them together tell (secrets are there, listeners are allowed) and
//! makes the [`node::Config`](crate::node::Config).

mod check;
mod keys;
mod origins;
mod units;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::http::{AdminToken, RequestLimits, ServeLimits};
use crate::node::Config;
use crate::types::nearest;
use keys::{Given, KEYS, SECRET};
pub use origins::Origins;
use origins::{Stray, stray};
pub use units::{duration, host_port, size};
use units::{is_loopback, is_wildcard};

/// Why there is no configuration: where the value came from, its key, what is wrong, what would be right.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For programs: one object a line.
    Json,
}

/// What a node writes about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// `info`, or by room: `info,quorate::peers=debug`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Auto }
    }
}

/// Everything a server is told, as it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What the node itself is told. Names and addresses are filled in by [`Settings::resolve`].
    pub config: Config,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The node's name; none: host name and peer port.
    pub name: Option<String>,
    /// Where clients connect to.
    pub client_listen: String,
    /// Where administrators connect to.
    pub admin_listen: String,
    /// Where other nodes connect to.
    pub peer_listen: String,
    /// What other nodes use; none: `peer_listen`.
    pub advertise: Option<String>,
    /// What clients use; none: the port of `client_listen` on the host of `advertise`.
    pub advertise_client: Option<String>,
    /// The file with the cluster's secrets.
    pub secret_file: Option<PathBuf>,
    /// The file with the token of the admin listener.
    pub admin_token_file: Option<PathBuf>,
    /// Listen beyond loopback without a secret.
    pub insecure: bool,
    /// What requests may cost, and mean where they do not say.
    pub requests: RequestLimits,
    /// What connections may cost.
    pub serve: ServeLimits,
    /// How long requests in flight may go on after SIGTERM.
    pub shutdown_timeout: Duration,
    /// What it writes about itself.
    pub log: LogSettings,
    /// Where each value came from.
    pub origins: Origins,
    /// What was given and is not read, for people.
    pub ignored: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: Config::default(),
            data_dir: "./quorate-data".into(),
            name: None,
            client_listen: "127.0.0.1:7400".into(),
            admin_listen: "127.0.0.1:7401".into(),
            peer_listen: "127.0.0.1:7402".into(),
            advertise: None,
            advertise_client: None,
            secret_file: None,
            admin_token_file: None,
            insecure: false,
            requests: RequestLimits::default(),
            serve: ServeLimits::default(),
            shutdown_timeout: Duration::from_secs(30),
            log: LogSettings::default(),
            origins: Origins::default(),
            ignored: Vec::new(),
        }
    }
}

/// Settings that fit together, ready to start a node with.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What was given, with names and addresses filled in.
    pub settings: Settings,
    /// What admin requests must carry.
    pub admin_token: Option<AdminToken>,
}

impl Settings {
    /// Defaults, then this file, then the environment, then flags, later ones winning. `flags` are keys with texts.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[(String, String)],
    ) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        if let Some(path) = file {
            let shown = path.display();
            let text = std::fs::read_to_string(path)
                .map_err(|error| SettingsError(format!("the configuration file {shown} cannot be read: {error}")))?;
            settings.apply_file(&text, &shown.to_string())?;
        }
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            let Some(key) = name.strip_prefix("QUORATE_") else { continue };
            if !key.contains("__") {
                match stray(name) {
                    Stray::NotOurs => {}
                    Stray::Meant(meant) => {
                        let problem = "a section and its key are joined by two underscores: did you mean";
                        return Err(SettingsError(format!("{name}: {problem} {meant}?")));
                    }
                    Stray::Unknown(near) => {
                        settings.ignored.push(format!("{name} sets nothing (the nearest that does is {near})"));
                    }
                }
                continue;
            }
            let value = value.into_string().map_err(|_| SettingsError(format!("{name}: is not UTF-8")))?;
            settings.set(&key.replace("__", ".").to_lowercase(), &Given::Text(value), name)?;
        }
        for (key, value) in flags {
            settings.set(key, &Given::Text(value.clone()), "the command line")?;
        }
        Ok(settings)
    }

    /// Applies a file's text. `origin` is what errors call it.
    pub fn apply_file(&mut self, text: &str, origin: &str) -> Result<(), SettingsError> {
        let table: toml::Table =
            toml::from_str(text).map_err(|error| SettingsError(format!("{origin} is not TOML: {error}")))?;
        let mut found = Vec::new();
        flatten(&table, "", &mut found);
        for (key, given) in found {
            if key == SECRET {
                let text = "a secret does not belong in this file: name its own file in cluster.secret_file";
                return Err(SettingsError(format!("{origin}: {key}: {text}")));
            }
            self.set(&key, &given, origin)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, given: &Given, origin: &str) -> Result<(), SettingsError> {
        let Some((key, setter)) = KEYS.iter().find(|(known, _)| *known == key) else {
            let nearest = nearest(key, KEYS.iter().map(|(known, _)| *known)).unwrap_or_default();
            return Err(SettingsError(format!("{origin}: there is no key {key}: did you mean {nearest}?")));
        };
        setter(self, given).map_err(|problem| SettingsError(format!("{origin}: {key}: {problem}")))?;
        self.origins.note(key, origin);
        Ok(())
    }

    /// An error that says where the value came from.
    fn wrong(&self, key: &str, against: Option<&str>, problem: impl std::fmt::Display) -> SettingsError {
        let secret = (key == "cluster.secret_file").then_some(SECRET);
        let origin = self.origins.of([Some(key), against, secret].into_iter().flatten());
        SettingsError(format!("{origin}: {key}: {problem}"))
    }

    /// Checks what only the whole tells, and fills in what follows from it.
    pub fn resolve(mut self) -> Result<Resolved, SettingsError> {
        if let Some(path) = &self.secret_file {
            let text = read_secret(path, "cluster.secret_file")?;
            self.config.cluster.secrets =
                text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.into()).collect();
            if self.config.cluster.secrets.is_empty() {
                return Err(self.wrong("cluster.secret_file", None, format!("{} holds no secret", path.display())));
            }
        }
        let admin_token = match &self.admin_token_file {
            None => None,
            Some(path) => match read_secret(path, "node.admin_token_file")?.trim() {
                "" => {
                    let problem = format!("{} holds no token", path.display());
                    return Err(self.wrong("node.admin_token_file", None, problem));
                }
                token => Some(AdminToken::new(token)),
            },
        };
        let part = |key: &str, address: &str| match host_port(address) {
            Ok((host, port)) => Ok((host.to_owned(), port)),
            Err(problem) => Err(self.wrong(key, None, problem)),
        };
        let outside = !self.insecure;
        for (key, address) in [
            ("node.client_listen", &self.client_listen),
            ("node.peer_listen", &self.peer_listen),
            ("node.admin_listen", &self.admin_listen),
        ] {
            let (host, _) = part(key, address)?;
            if !outside || is_loopback(&host) {
                continue;
            }
            if self.config.cluster.secrets.is_empty() {
                let problem = format!(
                    "{address} is reached from outside this machine, and without a cluster secret anybody who reaches \
                     it owns the data: set cluster.secret_file, or --insecure for an experiment"
                );
                return Err(self.wrong(key, None, problem));
            }
            if key == "node.admin_listen" && admin_token.is_none() {
                let problem = format!(
                    "{address} is reached from outside this machine: set node.admin_token_file, or --insecure for an \
                     experiment"
                );
                return Err(self.wrong(key, None, problem));
            }
        }
        let advertise = self.advertise.clone().unwrap_or_else(|| self.peer_listen.clone());
        let (host, peer_port) = part("node.advertise", &advertise)?;
        if is_wildcard(&host) {
            let problem = format!(
                "must be given, as {advertise} is every address of this machine and so none that other nodes could use"
            );
            return Err(self.wrong("node.advertise", Some("node.peer_listen"), problem));
        }
        let (client_host, client_port) = part("node.client_listen", &self.client_listen)?;
        let bracketed = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let client_host = if self.advertise.is_some() || is_wildcard(&client_host) { host } else { client_host };
        let node = &mut self.config.node;
        node.client_address =
            self.advertise_client.clone().unwrap_or_else(|| format!("{}:{client_port}", bracketed(&client_host)));
        node.peer_address = advertise;
        node.name = match &self.name {
            Some(name) => name.clone(),
            None => format!("{}-{peer_port}", host_name()),
        };
        node.machine_boot = machine_boot();
        self.requests.max_value = node.max_value;
        (self.requests.r, self.requests.w) = (self.config.cluster.r, self.config.cluster.w);
        self.serve.drain = self.shutdown_timeout;
        let checked = check::check(&self).and_then(|()| self.config.check());
        checked.map_err(|wrong| self.wrong(wrong.entry, wrong.against, &wrong.problem))?;
        Ok(Resolved { settings: self, admin_token })
    }
}

fn flatten(table: &toml::Table, prefix: &str, found: &mut Vec<(String, Given)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(inner, &key, found),
            other => found.push((key, Given::of(other))),
        }
    }
}

fn read_secret(path: &Path, key: &str) -> Result<String, SettingsError> {
    let read = std::fs::read_to_string(path);
    read.map_err(|error| SettingsError(format!("{key}: {} cannot be read: {error}", path.display())))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "node".into() } else { name.trim().to_owned() }
}

/// Names the kernel's life; empty where the system does not tell.
fn machine_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests;
