//! Where a value came from, so that an error can say it; and which key a misspelt variable of the environment meant.

use std::collections::BTreeMap;

use super::keys::KEYS;
use crate::types::nearest;

/// Variables that are the other commands', not a server's.
const OTHERS: [&str; 4] =
    ["QUORATE_ENDPOINTS", "QUORATE_ADMIN_ENDPOINTS", "QUORATE_ADMIN_TOKEN_FILE", "QUORATE_TARGET_DIR"];

/// Where each value that was given came from: a file's path, a variable's name, the command line.
#[derive(Clone, Default, Debug)]
pub struct Origins(BTreeMap<&'static str, String>);

/// Where a value came from is no part of what it is.
impl PartialEq for Origins {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origins {}

impl Origins {
    pub(super) fn note(&mut self, key: &'static str, origin: &str) {
        self.0.insert(key, origin.to_owned());
    }

    /// Where the first of these keys that was given at all came from.
    pub(super) fn of<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> &str {
        keys.into_iter().find_map(|key| self.0.get(key)).map_or("default", String::as_str)
    }
}

/// What a variable `QUORATE_...` without two underscores may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stray {
    /// Another command's.
    NotOurs,
    /// A key, spelt wrong: the variable that was meant.
    Meant(String),
    /// Nothing that is read; the variable it is nearest to. Orchestrators set such ones for services of our name.
    Unknown(String),
}

/// Judges a variable that names no section.
pub(super) fn stray(name: &str) -> Stray {
    if OTHERS.contains(&name) {
        return Stray::NotOurs;
    }
    let bare = |text: &str| text.to_lowercase().replace(['_', '.'], "");
    let given = bare(name.strip_prefix("QUORATE_").unwrap_or(name));
    let same = |key: &str| bare(key) == given || key.split_once('.').is_some_and(|(_, rest)| bare(rest) == given);
    match KEYS.iter().find(|(key, _)| same(key)) {
        Some((key, _)) => Stray::Meant(variable(key)),
        None => {
            let near = nearest(&name.to_lowercase(), KEYS.iter().map(|(key, _)| *key));
            Stray::Unknown(variable(near.unwrap_or_default()))
        }
    }
}

/// The variable that sets a key.
fn variable(key: &str) -> String {
    format!("QUORATE_{}", key.replace('.', "__").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_means_a_key_is_told_from_one_that_means_nothing() {
        let meant = [
            ("QUORATE_NODE_DATA_DIR", "QUORATE_NODE__DATA_DIR"),
            ("QUORATE_DATA_DIR", "QUORATE_NODE__DATA_DIR"),
            ("QUORATE_NODE_LIMITS_MAX_VALUE", "QUORATE_NODE__LIMITS__MAX_VALUE"),
            ("QUORATE_LIMITS_MAX_VALUE", "QUORATE_NODE__LIMITS__MAX_VALUE"),
            ("QUORATE_CLUSTER_SECRET", "QUORATE_CLUSTER__SECRET"),
            ("QUORATE_SEEDS", "QUORATE_NODE__SEEDS"),
        ];
        for (given, variable) in meant {
            assert_eq!(stray(given), Stray::Meant(variable.into()), "{given}");
        }
        for other in OTHERS {
            assert_eq!(stray(other), Stray::NotOurs);
        }
        // What Kubernetes sets for a service called quorate.
        for given in ["QUORATE_SERVICE_HOST", "QUORATE_PORT", "QUORATE_PORT_7400_TCP_ADDR"] {
            assert!(matches!(stray(given), Stray::Unknown(_)), "{given}");
        }
    }

    #[test]
    fn the_first_key_that_was_given_tells_the_origin() {
        let mut origins = Origins::default();
        assert_eq!(origins.of(["node.zone"]), "default");
        origins.note("node.region", "q.toml");
        assert_eq!(origins.of(["node.zone", "node.region"]), "q.toml");
    }
}
