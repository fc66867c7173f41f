//! Every key there is, and what it sets. One table for the file, the environment and the flags, so that they cannot
//! come to differ.

use std::path::PathBuf;
use std::time::Duration;

use super::units::{duration, host_port, reserve, size};
use super::{LogFormat, Settings};
use crate::quorum::Level;
use crate::storage::Durability;

/// A value as it was given: typed in a file, text everywhere else.
#[derive(Clone, Debug)]
pub(super) enum Given {
    /// Text: from a file, the environment or a flag.
    Text(String),
    /// A number in a file.
    Number(i64),
    /// `true` or `false` in a file.
    Switch(bool),
    /// A list of texts.
    List(Vec<String>),
    /// Something no key takes: a float, a date, a list of other things.
    Other(&'static str),
}

impl Given {
    pub(super) fn of(value: &toml::Value) -> Self {
        match value {
            toml::Value::String(text) => Self::Text(text.clone()),
            toml::Value::Integer(number) => Self::Number(*number),
            toml::Value::Boolean(on) => Self::Switch(*on),
            toml::Value::Array(items) => {
                let texts: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                texts.map_or(Self::Other("a list of other things than text"), Self::List)
            }
            other => Self::Other(other.type_str()),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Number(number) => number.to_string(),
            Self::Switch(on) => on.to_string(),
            Self::List(items) => format!("{items:?}"),
            Self::Other(kind) => (*kind).to_owned(),
        }
    }

    fn text(&self) -> Result<String, String> {
        match self {
            Self::Text(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err(format!("is a text, got {}", self.describe())),
        }
    }

    fn number<T: TryFrom<i64> + std::str::FromStr>(&self) -> Result<T, String> {
        let number = match self {
            Self::Number(number) => T::try_from(*number).ok(),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| format!("is a whole number, got {}", self.describe()))
    }

    fn switch(&self) -> Result<bool, String> {
        match self {
            Self::Switch(on) => Ok(*on),
            Self::Text(text) if text == "true" => Ok(true),
            Self::Text(text) if text == "false" => Ok(false),
            _ => Err(format!("is true or false, got {}", self.describe())),
        }
    }

    fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Self::List(items) => Ok(items.clone()),
            Self::Text(text) => {
                Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
            }
            _ => Err(format!("is a list of texts, got {}", self.describe())),
        }
    }

    fn duration(&self) -> Result<Duration, String> {
        duration(&self.text()?)
    }

    fn size(&self) -> Result<usize, String> {
        size(&self.text()?)
    }

    fn address(&self) -> Result<String, String> {
        let text = self.text()?;
        host_port(&text)?;
        Ok(text)
    }

    fn addresses(&self) -> Result<Vec<String>, String> {
        let all = self.list()?;
        all.iter().try_for_each(|address| host_port(address).map(|_| ()))?;
        Ok(all)
    }

    fn path(&self) -> Result<PathBuf, String> {
        self.text().map(PathBuf::from)
    }

    fn level(&self) -> Result<Level, String> {
        let text = match self {
            Self::Number(number) => number.to_string(),
            _ => self.text()?,
        };
        text.parse().map_err(|wrong: crate::quorum::LevelError| format!("is a consistency level: {wrong}"))
    }

    fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, String> {
        let found = match self {
            Self::Text(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("is one of {}, got {}", words.join(", "), self.describe())
        })
    }
}

fn set<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

type Setter = fn(&mut Settings, &Given) -> Result<(), String>;

/// The one key that is not for files.
pub(super) const SECRET: &str = "cluster.secret";

/// Every key and its setter.
pub(super) const KEYS: &[(&str, Setter)] = &[
    ("cluster.name", |s, v| set(&mut s.config.cluster.name, v.text())),
    ("cluster.partitions", |s, v| set(&mut s.config.cluster.partitions, v.number())),
    ("cluster.replicas_max", |s, v| set(&mut s.config.cluster.replicas_max, v.number())),
    ("cluster.n", |s, v| set(&mut s.config.cluster.n, v.number())),
    ("cluster.r", |s, v| set(&mut s.config.cluster.r, v.level())),
    ("cluster.w", |s, v| set(&mut s.config.cluster.w, v.level())),
    ("cluster.max_clock_drift", |s, v| set(&mut s.config.cluster.max_clock_drift, v.duration())),
    ("cluster.secret_file", |s, v| set(&mut s.secret_file, v.path().map(Some))),
    (SECRET, |s, v| set(&mut s.config.cluster.secrets, v.text().map(|secret| vec![secret.into_bytes()]))),
    ("cluster.idempotency.window", |s, v| set(&mut s.config.cluster.idempotency_window, v.duration())),
    ("node.data_dir", |s, v| set(&mut s.data_dir, v.path())),
    ("node.name", |s, v| set(&mut s.name, v.text().map(Some))),
    ("node.client_listen", |s, v| set(&mut s.client_listen, v.address())),
    ("node.admin_listen", |s, v| set(&mut s.admin_listen, v.address())),
    ("node.peer_listen", |s, v| set(&mut s.peer_listen, v.address())),
    ("node.advertise", |s, v| set(&mut s.advertise, v.address().map(Some))),
    ("node.advertise_client", |s, v| set(&mut s.advertise_client, v.address().map(Some))),
    ("node.region", |s, v| set(&mut s.config.node.region, v.text())),
    ("node.zone", |s, v| set(&mut s.config.node.zone, v.text())),
    ("node.weight", |s, v| set(&mut s.config.node.weight, v.number())),
    ("node.seeds", |s, v| set(&mut s.config.node.seeds, v.addresses())),
    ("node.bootstrap_expect", |s, v| set(&mut s.config.node.bootstrap_expect, v.number().map(Some))),
    ("node.durability", |s, v| {
        set(&mut s.config.node.durability, v.word(&[("flush", Durability::Flush), ("os", Durability::Os)]))
    }),
    ("node.disk_reserve", |s, v| set(&mut s.config.node.disk_reserve, v.text().and_then(|text| reserve(&text)))),
    ("node.timeout", |s, v| set(&mut s.requests.timeout, v.duration())),
    ("node.shutdown_timeout", |s, v| set(&mut s.shutdown_timeout, v.duration())),
    ("node.admin_token_file", |s, v| set(&mut s.admin_token_file, v.path().map(Some))),
    ("node.insecure", |s, v| set(&mut s.insecure, v.switch())),
    ("node.cache.records", |s, v| set(&mut s.config.node.record_cache, v.size())),
    ("node.cache.blocks", |s, v| set(&mut s.config.node.block_cache, v.size())),
    ("node.limits.max_value", |s, v| set(&mut s.config.node.max_value, v.size())),
    ("node.limits.max_siblings", |s, v| set(&mut s.config.node.max_siblings, v.number())),
    ("node.limits.max_object", |s, v| set(&mut s.config.node.max_object, v.size())),
    ("node.limits.connections", |s, v| set(&mut s.serve.max_connections, v.number())),
    ("node.limits.requests", |s, v| set(&mut s.config.node.max_operations, v.number())),
    ("node.limits.transfer_rate", |s, v| set(&mut s.config.node.transfer_rate, v.size())),
    ("node.limits.header_timeout", |s, v| set(&mut s.serve.head_time, v.duration())),
    ("node.limits.body_timeout", |s, v| set(&mut s.requests.body_time, v.duration())),
    ("node.hints.max_bytes", |s, v| set(&mut s.config.node.max_hint_bytes, v.size())),
    ("node.hints.window", |s, v| set(&mut s.config.node.hint_window, v.duration())),
    ("node.hints.rate", |s, v| set(&mut s.config.node.hint_rate, v.size())),
    ("node.repair.interval", |s, v| set(&mut s.config.node.repair_interval, v.duration())),
    ("node.repair.rate", |s, v| set(&mut s.config.node.repair_rate, v.size())),
    ("node.scrub.interval", |s, v| set(&mut s.config.node.scrub_interval, v.duration())),
    ("node.scrub.rate", |s, v| set(&mut s.config.node.scrub_rate, v.size())),
    ("node.collect.linger", |s, v| set(&mut s.config.node.collect_linger, v.duration())),
    ("node.membership.auto_join", |s, v| set(&mut s.config.node.auto_join, v.switch())),
    ("node.log.filter", |s, v| set(&mut s.log.filter, v.text())),
    ("node.log.format", |s, v| {
        let words = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
        set(&mut s.log.format, v.word(&words))
    }),
];
