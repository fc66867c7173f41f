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
    assert_eq!(settings.config.cluster.r, crate::quorum::Level::Count(1));
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

#[test]
fn a_variable_that_means_a_key_and_misses_it_is_not_ignored() {
    let error = from_env(&[("QUORATE_NODE_ZONE", "a")]).unwrap_err();
    assert!(error.starts_with("QUORATE_NODE_ZONE: ") && error.contains("did you mean QUORATE_NODE__ZONE?"), "{error}");
    let settings = from_env(&[("QUORATE_SERVICE_HOST", "10.0.0.1"), ("QUORATE_ENDPOINTS", "http://a:1")]).unwrap();
    assert!(matches!(&settings.ignored[..], [one] if one.starts_with("QUORATE_SERVICE_HOST sets nothing")));
    assert_eq!(settings, Settings { ignored: settings.ignored.clone(), ..Settings::default() });
}

#[test]
fn every_value_that_makes_no_sense_is_an_error_with_key_value_origin_and_what_would_be_right() {
    let cases = [
        ("NODE__TIMEOUT", "0ms", "node.timeout: is 1ms to 30s, got 0ns"),
        ("NODE__TIMEOUT", "31s", "node.timeout: is 1ms to 30s, got 31s"),
        ("NODE__SHUTDOWN_TIMEOUT", "2h", "node.shutdown_timeout: is 1ms to 3600s, got 7200s"),
        ("NODE__LIMITS__HEADER_TIMEOUT", "0s", "node.limits.header_timeout: is 1ms to 600s, got 0ns"),
        ("NODE__LIMITS__BODY_TIMEOUT", "11m", "node.limits.body_timeout: is 1ms to 600s, got 660s"),
        ("NODE__LIMITS__CONNECTIONS", "0", "node.limits.connections: is 1 to 1000000, got 0"),
        ("NODE__LIMITS__REQUESTS", "0", "node.limits.requests: is 1 to 1000000, got 0"),
        ("NODE__LIMITS__MAX_VALUE", "0B", "node.limits.max_value: is at least 1B, got 0B"),
        ("NODE__LIMITS__MAX_OBJECT", "1GiB", "node.limits.max_object: is at most 16777216B"),
        // The key that is at its default is the one that is wrong then; the origin is that of the one it contradicts.
        ("NODE__LIMITS__MAX_VALUE", "5MiB", "node.limits.max_object: is at least node.limits.max_value (5242880B)"),
        ("NODE__LIMITS__MAX_SIBLINGS", "0", "node.limits.max_siblings: is at least 1, got 0"),
        ("CLUSTER__W", "any", "cluster.w: got any, which a request or a bucket asks for"),
        ("CLUSTER__R", "4", "cluster.r: is 1 to cluster.n (3), or quorum or all, got 4"),
        ("CLUSTER__N", "2", ""),
        ("CLUSTER__N", "6", "cluster.n: is 1 to cluster.replicas_max (5), got 6"),
        ("CLUSTER__REPLICAS_MAX", "2", "cluster.n: is 1 to cluster.replicas_max (2), got 3"),
        ("CLUSTER__MAX_CLOCK_DRIFT", "2m", "cluster.max_clock_drift: is 2ms to 60s, got 120s"),
        ("CLUSTER__IDEMPOTENCY__WINDOW", "0s", "cluster.idempotency.window: is 1s to 86400s, got 0ns"),
        ("CLUSTER__SECRET", "short", "cluster.secret_file: each line is a secret of at least 16 bytes, got one of 5"),
        ("NODE__DISK_RESERVE", "5", "node.disk_reserve: is a share such as 5% or a size such as 10GiB, got \"5\""),
        ("NODE__DISK_RESERVE", "60%", "node.disk_reserve: is a size, or at most 50%, got 60%"),
        ("NODE__SEEDS", "a:1,a:1", "node.seeds: lists each address once, got a:1 twice"),
        ("NODE__BOOTSTRAP_EXPECT", "2", "node.bootstrap_expect: is 1 to the number of node.seeds (0), got 2"),
        ("NODE__ADMIN_LISTEN", "127.0.0.1:7400", "node.admin_listen: is another address than node.client_listen"),
        ("NODE__PEER_LISTEN", "127.0.0.1:7401", "node.peer_listen: is another address than node.admin_listen"),
    ];
    for (name, value, wanted) in cases {
        let name = format!("QUORATE_{name}");
        match resolve(&[(&name, value)]) {
            Ok(_) => assert_eq!(wanted, "", "{name}={value} was taken"),
            Err(error) => assert!(!wanted.is_empty() && error.starts_with(&format!("{name}: {wanted}")), "{error}"),
        }
    }
    let (file, mut settings) = ("[cluster]\nr = 3\n", Settings::default());
    settings.apply_file(file, "q.toml").unwrap();
    settings.set("cluster.n", &Given::Text("2".into()), "the command line").unwrap();
    let error = settings.resolve().unwrap_err().to_string();
    assert_eq!(error, "q.toml: cluster.r: is 1 to cluster.n (2), or quorum or all, got 3");
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
