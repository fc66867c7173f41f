//! What a process writes about itself, to stderr: text on a terminal, JSON elsewhere, and a filter that can be changed
//! while it runs.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::config::{LogFormat, LogSettings};
use super::output::{Exit, Failure};

/// Changes the filter of what is written.
pub(super) struct Logs(Handle<EnvFilter, Registry>);

impl Logs {
    /// Starts to write. Once a process.
    pub(super) fn start(settings: &LogSettings) -> Result<Self, Failure> {
        let (filter, handle) = reload::Layer::new(parse(&settings.filter)?);
        let terminal = std::io::stderr().is_terminal();
        let json = match settings.format {
            LogFormat::Auto => !terminal,
            LogFormat::Text => false,
            LogFormat::Json => true,
        };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = if json { lines.json().boxed() } else { lines.with_ansi(colour).boxed() };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot write logs: {error}"), ""))?;
        Ok(Self(handle))
    }

    /// From now on by this filter.
    pub(super) fn refilter(&self, filter: &str) -> Result<(), Failure> {
        let changed = self.0.reload(parse(filter)?);
        changed.map_err(|error| Failure::new(Exit::Failed, format!("the log filter stays: {error}"), ""))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::builder().parse(filter).map_err(|error| {
        let text = format!("node.log.filter: is a level or levels by room, got {filter:?}: {error}");
        Failure::new(Exit::Usage, text, "--set node.log.filter=info,quorate::peers=debug")
    })
}
