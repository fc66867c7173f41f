use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn from_env(pairs: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::load(None, env(pairs), &[]).map_err(|error| error.to_string())
}

fn from_file(text: &str) -> Result<Settings, String> {
    let mut settings = Settings::default();
    settings.apply_file(text, "q.toml").map(|()| settings).map_err(|error| error.to_string())
}

const DOCUMENTED: &str = include_str!("../../../config/quorate.toml");

#[test]
fn the_documented_file_says_what_the_defaults_are() {
    assert_eq!(from_file(DOCUMENTED), Ok(Settings::default()));
}

#[test]
fn the_documented_file_has_every_key_and_no_other() {
    let (mut section, mut documented) = (String::new(), Vec::new());
    for line in DOCUMENTED.lines() {
        let line = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains([' ', '#'])) {
            documented.push(format!("{section}.{key}"));
        }
    }
    let mut known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).filter(|key| *key != SECRET).collect();
    documented.sort();
    known.sort_unstable();
    assert_eq!(documented, known);
}

#[test]
fn the_compose_files_are_understood() {
    let files = [
        ("alpha", "a", include_str!("../../../config/node1.toml")),
        ("beta", "b", include_str!("../../../config/node2.toml")),
        ("gamma", "c", include_str!("../../../config/node3.toml")),
    ];
    for (name, zone, text) in files {
        let settings = from_file(text).unwrap();
        assert_eq!((settings.name.as_deref(), settings.config.node.zone.as_str()), (Some(name), zone));
        assert_eq!(settings.config.node.seeds, ["alpha:7402", "beta:7402", "gamma:7402"]);
        assert_eq!(settings.advertise, Some(format!("{name}:7402")));
        assert_eq!(settings.log.format, LogFormat::Json);
    }
}

#[test]
fn later_sources_win() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.toml");
    std::fs::write(&path, "[node]\nzone = 'file'\nregion = 'file'\nname = 'file'\n").unwrap();
    let vars = env(&[("QUORATE_NODE__ZONE", "env"), ("QUORATE_NODE__REGION", "env"), ("QUORATE_ENDPOINTS", "x")]);
    let settings = Settings::load(Some(&path), vars, &[("node.zone".into(), "flag".into())]).unwrap();
    assert_eq!(settings.config.node.zone, "flag");
    assert_eq!(settings.config.node.region, "env");
    assert_eq!(settings.name.as_deref(), Some("file"));
    let missing = Settings::load(Some(&dir.path().join("none.toml")), [], &[]).unwrap_err().to_string();
    assert!(missing.contains("none.toml cannot be read"), "{missing}");
}

#[test]
fn the_environment_says_all_kinds_of_values() {
    let settings = from_env(&[
        ("QUORATE_NODE__LIMITS__MAX_VALUE", "2MiB"),
        ("QUORATE_NODE__SEEDS", "a:7402, b:7402"),
        ("QUORATE_CLUSTER__IDEMPOTENCY__WINDOW", "1h"),
        ("QUORATE_CLUSTER__R", "1"),
        ("QUORATE_NODE__INSECURE", "true"),
        ("QUORATE_NODE__WEIGHT", "3"),
    ])
    .unwrap();
    assert_eq!(settings.config.node.max_value, 2 << 20);
    assert_eq!(settings.config.node.seeds, ["a:7402", "b:7402"]);
    assert_eq!(settings.config.cluster.idempotency_window, Duration::from_secs(3600));
    assert_eq!(settings.requests.r, crate::quorum::Level::Count(1));
    assert!(settings.insecure);
    assert_eq!(settings.config.node.weight, 3);
}

#[test]
fn what_is_wrong_is_named_with_its_origin() {
    let cases = [
        (from_file("[node]\nwieght = 1"), "q.toml: there is no key node.wieght: did you mean node.weight?"),
        (from_file("[node.limits]\nmax_values = '1MiB'"), "did you mean node.limits.max_value?"),
        (from_file("[node]\nweight = '1.5'"), "q.toml: node.weight: is a whole number, got \"1.5\""),
        (from_file("[node]\nweight = -1"), "q.toml: node.weight: is a whole number, got -1"),
        (from_file("[node]\ntimeout = 1"), "q.toml: node.timeout: is a text, got 1"),
        (from_file("[node]\ntimeout = '1'"), "is a time such as 250ms, 2s, 10m or 3h, got \"1\""),
        (from_file("[node]\ndurability = 'fsync'"), "is one of flush, os, got \"fsync\""),
        (from_file("[node]\nseeds = ['a']"), "is host:port"),
        (from_file("[cluster]\nsecret = 'x'"), "a secret does not belong in this file"),
        (from_file("[cluster\n"), "q.toml is not TOML"),
        (from_env(&[("QUORATE_NODE__DATADIR", "x")]), "QUORATE_NODE__DATADIR: there is no key node.datadir"),
        (from_env(&[("QUORATE_CLUSTER__W", "most")]), "QUORATE_CLUSTER__W: cluster.w: is a consistency level"),
    ];
    for (result, wanted) in cases {
        let error = result.unwrap_err();
        assert!(error.contains(wanted), "{error}\nwanted: {wanted}");
    }
}

fn resolve(pairs: &[(&str, &str)]) -> Result<Resolved, String> {
    from_env(pairs)?.resolve().map_err(|error| error.to_string())
}

const SECRET_IS: (&str, &str) = ("QUORATE_CLUSTER__SECRET", "sixteen bytes at least");

#[test]
fn beyond_loopback_a_secret_is_needed() {
    assert!(resolve(&[]).is_ok());
    assert!(resolve(&[("QUORATE_NODE__CLIENT_LISTEN", "[::1]:7400")]).is_ok());
    for key in ["QUORATE_NODE__CLIENT_LISTEN", "QUORATE_NODE__PEER_LISTEN", "QUORATE_NODE__ADMIN_LISTEN"] {
        let outside = (key, "10.0.0.1:7402");
        let error = resolve(&[outside]).unwrap_err();
        assert!(error.contains("without a cluster secret") && error.contains("--insecure"), "{error}");
        assert!(resolve(&[outside, ("QUORATE_NODE__INSECURE", "true")]).is_ok());
        let secret = resolve(&[outside, SECRET_IS]);
        match key {
            "QUORATE_NODE__ADMIN_LISTEN" => assert!(secret.unwrap_err().contains("node.admin_token_file")),
            _ => assert!(secret.is_ok()),
        }
    }
    let short = resolve(&[("QUORATE_CLUSTER__SECRET", "short")]).unwrap_err();
    assert!(short.contains("at least 16 bytes"), "{short}");
}

#[test]
fn secrets_and_tokens_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, token) = (dir.path().join("secret"), dir.path().join("token"));
    let secret_file = ("QUORATE_CLUSTER__SECRET_FILE", secret.to_str().unwrap());
    let token_file = ("QUORATE_NODE__ADMIN_TOKEN_FILE", token.to_str().unwrap());
    assert!(resolve(&[secret_file]).unwrap_err().contains("cannot be read"));
    std::fs::write(&secret, "\n").unwrap();
    assert!(resolve(&[secret_file]).unwrap_err().contains("holds no secret"));
    std::fs::write(&secret, "the first of two secrets\nthe second of two secrets\n\n").unwrap();
    std::fs::write(&token, "token\n").unwrap();
    let both = [secret_file, token_file, ("QUORATE_NODE__ADMIN_LISTEN", "10.0.0.1:7401")];
    let resolved = resolve(&both).unwrap();
    assert_eq!(resolved.settings.config.cluster.secrets.len(), 2);
    assert!(resolved.admin_token.is_some());
}

#[test]
fn what_others_are_told_follows_from_the_listeners() {
    let addresses = |resolved: Resolved| {
        let node = resolved.settings.config.node;
        (node.peer_address, node.client_address)
    };
    let told = addresses(resolve(&[]).unwrap());
    assert_eq!(told, ("127.0.0.1:7402".into(), "127.0.0.1:7400".into()));
    let wildcard = [SECRET_IS, ("QUORATE_NODE__PEER_LISTEN", "0.0.0.0:7402")];
    assert!(resolve(&wildcard).unwrap_err().contains("node.advertise: must be given"));
    let mut advertised = wildcard.to_vec();
    advertised.push(("QUORATE_NODE__ADVERTISE", "alpha.example.net:7402"));
    advertised.push(("QUORATE_NODE__CLIENT_LISTEN", "0.0.0.0:7400"));
    let told = addresses(resolve(&advertised).unwrap());
    assert_eq!(told, ("alpha.example.net:7402".into(), "alpha.example.net:7400".into()));
    assert!(resolve(&[]).unwrap().settings.config.node.name.ends_with("-7402"));
}
