//! Images, manifests, units and packages agree with the server: its ports, its paths, its settings, its times.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::{files, port, ports, read, root, seconds, settings, told, tool, variable, yaml};

/// Seconds that a node may take to stop, by default.
fn shutdown() -> u64 {
    let config: toml::Table = toml::from_str(&read("config/quorate.toml")).unwrap();
    seconds(config["node"]["shutdown_timeout"].as_str().unwrap())
}

/// That the admin listener has this path, and wants no token for it.
fn is_health(path: &str) {
    let open = "let health = matches!(path, \"/livez\" | \"/readyz\");";
    assert!(read("src/http/admin.rs").contains(open), "which paths are open has changed");
    assert!(["/livez", "/readyz"].contains(&path), "{path} is not answered without a token");
}

/// Every variable of ours in a text is one that sets a key.
fn hold_variables(text: &str, place: &str) {
    let known: BTreeSet<String> = settings(&read("config/quorate.toml")).iter().map(|key| variable(key)).collect();
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    for word in words.filter(|word| word.starts_with("QUORATE_") && word.contains("__")) {
        assert!(known.contains(word) || word == "QUORATE_CLUSTER__SECRET", "{place}: {word} sets nothing");
    }
}

fn hold_settings(file: &str) {
    let documented = settings(&read("config/quorate.toml"));
    let text = read(file);
    toml::from_str::<toml::Table>(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    for key in settings(&text) {
        assert!(documented.contains(&key), "{file}: there is no setting {key}");
    }
}

#[test]
fn every_manifest_is_read_by_everybody_alike() {
    let mut read_in = 0;
    for dir in ["config", "packaging"] {
        for file in [files(dir, ".yaml"), files(dir, ".yml")].concat() {
            assert!(yaml::documents(&read(&file)).iter().all(Value::is_object), "{file}");
            read_in += 1;
        }
    }
    assert!(read_in >= 10, "{read_in}");
}

// -- Containers --------------------------------------------------------------------------------------------------------

#[test]
fn the_image_asks_and_opens_the_ports_that_the_server_has() {
    let (dockerfile, ports) = (read("Dockerfile"), ports());
    let exposed = dockerfile.lines().find_map(|line| line.strip_prefix("EXPOSE ")).unwrap();
    assert_eq!(exposed, ports.map(|port| port.to_string()).join(" "));
    let check = dockerfile.split_once("HEALTHCHECK").unwrap().1;
    let asked = check.split_once("http://127.0.0.1:").unwrap().1;
    let (port, path) = asked.split('"').next().unwrap().split_once('/').unwrap();
    assert_eq!(port, ports[1].to_string());
    is_health(&format!("/{path}"));
    hold_variables(&dockerfile, "Dockerfile");
    let user = dockerfile.lines().position(|line| line.starts_with("USER ")).unwrap();
    let entry = dockerfile.lines().position(|line| line.starts_with("ENTRYPOINT ")).unwrap();
    assert!(user < entry, "it runs as root");
}

#[test]
fn three_containers_make_a_cluster() {
    let compose = yaml::document(&read("config/compose.yaml"));
    let services = compose["services"].as_object().unwrap();
    let nodes: Vec<_> = services.iter().filter(|(_, service)| service["image"] == "quorate:local").collect();
    assert_eq!(nodes.len(), 3);
    let [client, admin, peer] = ports();
    let mut given = BTreeSet::new();
    let mut zones = BTreeSet::new();
    for (name, node) in &nodes {
        assert_eq!(node["hostname"], name.as_str());
        for published in node["ports"].as_array().unwrap() {
            let published = published.as_str().unwrap();
            assert!(published.starts_with("127.0.0.1:"), "{name}: {published} is open to everybody");
            assert!([client, admin].contains(&port(published)), "{name}: {published}");
            assert!(given.insert(published.to_owned()), "{name}: {published} twice");
        }
        let volumes: Vec<&str> = node["volumes"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let data = volumes.iter().find_map(|volume| volume.strip_suffix(":/var/lib/quorate")).unwrap();
        assert!(compose["volumes"].as_object().unwrap().contains_key(data), "{data} is not declared");
        let file = volumes.iter().find_map(|volume| volume.strip_suffix(":/etc/quorate/quorate.toml:ro")).unwrap();
        let config: toml::Table = toml::from_str(&read(&format!("config/{file}"))).unwrap();
        let told = &config["node"];
        assert_eq!(told["advertise"].as_str(), Some(format!("{name}:{peer}").as_str()));
        let seeds: Vec<_> = told["seeds"].as_array().unwrap().iter().map(|seed| seed.as_str().unwrap()).collect();
        let all: Vec<String> = nodes.iter().map(|(name, _)| format!("{name}:{peer}")).collect();
        assert_eq!(seeds, all, "{name} has other seeds");
        assert!(zones.insert(told["zone"].as_str().unwrap().to_owned()), "{name}: a zone twice");
        for secret in [&config["cluster"]["secret_file"], &told["admin_token_file"]] {
            let secret = secret.as_str().unwrap().strip_prefix("/run/secrets/").unwrap();
            assert!(node["secrets"].as_array().unwrap().contains(&secret.into()), "{name} is not given {secret}");
            assert!(compose["secrets"].as_object().unwrap().contains_key(secret), "{secret} is not declared");
        }
        let asked = node["healthcheck"]["test"].as_array().unwrap().last().unwrap().as_str().unwrap();
        is_health(asked.strip_prefix(&format!("http://127.0.0.1:{admin}")).unwrap());
        assert!(seconds(node["stop_grace_period"].as_str().unwrap()) > shutdown());
    }
    let scraped = yaml::document(&read("config/prometheus/prometheus.yml"));
    let job = &scraped["scrape_configs"][0];
    let targets: Vec<String> = nodes.iter().map(|(name, _)| format!("{name}:{admin}")).collect();
    assert_eq!(job["static_configs"][0]["targets"], serde_json::json!(targets));
    assert_eq!(job["job_name"], "quorate");
    for rules in scraped["rule_files"].as_array().unwrap() {
        assert!(root().join("config/prometheus").join(rules.as_str().unwrap()).is_file(), "{rules}");
    }
}

#[test]
fn what_is_mounted_is_there_and_what_watches_is_a_profile() {
    let compose = yaml::document(&read("config/compose.yaml"));
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().unwrap() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            let declared = compose["volumes"].as_object().unwrap().contains_key(from);
            assert!(declared || root().join("config").join(from).exists(), "{name}: {from} is not there");
        }
        let image = service["image"].as_str().unwrap();
        assert!(!image.ends_with(":latest") && image.contains(':'), "{name}: {image} is another one tomorrow");
        let watches = !image.starts_with("quorate");
        assert_eq!(watches, service["profiles"] == serde_json::json!(["metrics"]), "{name}");
    }
}

// -- Kubernetes --------------------------------------------------------------------------------------------------------

/// Every object of the base, by kind and name.
fn objects() -> BTreeMap<String, Value> {
    let base = "packaging/kubernetes";
    let kustomization = yaml::document(&read(&format!("{base}/kustomization.yaml")));
    let listed: Vec<&str> =
        kustomization["resources"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let there = files(base, ".yaml");
    assert_eq!(listed.len() + 1, there.len(), "a file that is not in the kustomization, or the other way round");
    let mut found = BTreeMap::new();
    for file in listed {
        for object in yaml::documents(&read(&format!("{base}/{file}"))) {
            let name = format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            assert!(found.insert(name.clone(), object).is_none(), "{name} twice");
        }
    }
    found
}

#[test]
fn pods_found_a_cluster_and_find_each_other_before_they_serve() {
    let objects = objects();
    let (set, [client, admin, peer]) = (&objects["StatefulSet/quorate"]["spec"], ports());
    let service = set["serviceName"].as_str().unwrap();
    let peers = &objects[&format!("Service/{service}")]["spec"];
    assert_eq!(peers["clusterIP"], "None");
    assert_eq!(peers["publishNotReadyAddresses"], true);
    assert_eq!(set["podManagementPolicy"], "Parallel", "the first pod founds once the others answer");
    let pod = &set["template"]["spec"];
    let node = &pod["containers"][0];
    let named: BTreeMap<&str, u64> = node["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap()))
        .collect();
    assert_eq!(named, BTreeMap::from([("client", client.into()), ("admin", admin.into()), ("peer", peer.into())]));
    for (name, object) in objects.iter().filter(|(name, _)| name.starts_with("Service/")) {
        for port in object["spec"]["ports"].as_array().unwrap() {
            let target = port["targetPort"].as_str().unwrap();
            assert_eq!(port["port"].as_u64(), named.get(target).copied(), "{name}: {target}");
        }
    }
    let environment: BTreeMap<&str, &str> = node["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["name"].as_str().unwrap(), entry["value"].as_str().unwrap_or_default()))
        .collect();
    hold_variables(&environment.keys().copied().collect::<Vec<_>>().join(" "), "statefulset.yaml");
    let replicas = set["replicas"].as_u64().unwrap();
    let address = |pod: &str| format!("{pod}.{service}:{peer}");
    assert_eq!(environment["QUORATE_NODE__ADVERTISE"], address("$(POD_NAME)"));
    let seeds: Vec<String> = (0..replicas).map(|pod| address(&format!("quorate-{pod}"))).collect();
    assert_eq!(environment["QUORATE_NODE__SEEDS"], seeds.join(","), "spelt as nodes advertise themselves");
    assert_eq!(environment["QUORATE_NODE__BOOTSTRAP_EXPECT"], replicas.to_string());
    // $(POD_NAME) is filled in only behind its own entry.
    let order: Vec<&str> =
        node["env"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(order[0], "POD_NAME");
    assert_eq!(pod["enableServiceLinks"], false, "a service called quorate would set QUORATE_PORT");
}

#[test]
fn pods_are_asked_what_the_server_answers_and_stopped_in_its_time() {
    let objects = objects();
    let pod = &objects["StatefulSet/quorate"]["spec"]["template"]["spec"];
    let node = &pod["containers"][0];
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let asked = &node[probe]["httpGet"];
        assert_eq!((&asked["path"], &asked["port"]), (&path.into(), &"admin".into()), "{probe}");
        is_health(path);
    }
    let file = "packaging/kubernetes/quorate.toml";
    hold_settings(file);
    let config: toml::Table = toml::from_str(&read(file)).unwrap();
    let stop = seconds(config["node"]["shutdown_timeout"].as_str().unwrap());
    let command = node["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
    let pause: u64 = command[1].as_str().unwrap().parse().unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > pause + stop);
    assert_eq!(objects["PodDisruptionBudget/quorate"]["spec"]["maxUnavailable"], 1);
    let listens =
        ["client_listen", "admin_listen", "peer_listen"].map(|key| port(config["node"][key].as_str().unwrap()));
    assert_eq!(listens, ports());

    let mounts: BTreeMap<&str, &str> = node["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| (mount["name"].as_str().unwrap(), mount["mountPath"].as_str().unwrap()))
        .collect();
    assert_eq!(config["node"]["data_dir"].as_str(), Some(mounts["data"]));
    for secret in [&config["cluster"]["secret_file"], &config["node"]["admin_token_file"]] {
        let key = secret.as_str().unwrap().strip_prefix(mounts["secrets"]).unwrap().trim_start_matches('/');
        assert!(read("packaging/kubernetes/kustomization.yaml").contains(&format!("--from-literal={key}=")), "{key}");
    }
    assert!(node["args"].as_array().unwrap().contains(&format!("{}/quorate.toml", mounts["config"]).into()));
    assert!(!objects.keys().any(|name| name.starts_with("Secret/")), "a secret that everybody knows");
}

#[test]
fn pods_have_no_rights_and_run_as_the_images_user() {
    let objects = objects();
    let pod = &objects["StatefulSet/quorate"]["spec"]["template"]["spec"];
    let (all, own) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
    assert_eq!((&all["runAsNonRoot"], &own["allowPrivilegeEscalation"]), (&true.into(), &false.into()));
    assert_eq!((&own["readOnlyRootFilesystem"], &own["capabilities"]["drop"][0]), (&true.into(), &"ALL".into()));
    let user = format!("--uid {}", all["runAsUser"]);
    assert!(read("Dockerfile").contains(&user), "the image has no user {user}");
    let apart = &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(apart["topologyKey"], "kubernetes.io/hostname");
    // Selectors find what the kustomization labels.
    let labels = yaml::document(&read("packaging/kubernetes/kustomization.yaml"))["labels"][0]["pairs"].clone();
    assert_eq!(apart["labelSelector"]["matchLabels"], labels);
    if let Some(output) = tool("kubectl", &["kustomize", "packaging/kubernetes"], &root()) {
        assert!(output.status.success(), "{}", told(&output));
    }
}

// -- systemd and Debian --------------------------------------------------------------------------------------------------

const UNIT: &str = "packaging/systemd/quorate.service";

/// `section.key` -> values of a unit.
fn unit() -> BTreeMap<String, Vec<String>> {
    let (mut section, mut found) = (String::new(), BTreeMap::<String, Vec<String>>::new());
    for line in read(UNIT).lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
            found.entry(format!("{section}.{key}")).or_default().push(value.to_owned());
        }
    }
    found
}

#[test]
fn the_unit_waits_for_the_server_and_keeps_it_in_its_place() {
    let unit = unit();
    let one = |key: &str| unit.get(key).unwrap_or_else(|| panic!("no {key}"))[0].as_str();
    assert_eq!(one("Service.Type"), "notify", "src/cli/notify.rs tells");
    assert!(seconds(one("Service.TimeoutStopSec")) > shutdown());
    assert_eq!(one("Service.RestartPreventExitStatus"), "2", "a wrong configuration is exit code 2");
    assert!(one("Service.ExecReload").contains("-HUP"));
    let state = format!("/var/lib/{}", one("Service.StateDirectory"));
    assert!(!unit.contains_key("Service.Environment"), "it would beat the file");
    hold_variables(&read(UNIT), UNIT);
    for key in ["NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictNamespaces", "MemoryDenyWriteExecute"] {
        assert_eq!(one(&format!("Service.{key}")), "yes", "{key}");
    }
    assert_eq!((one("Service.ProtectSystem"), one("Service.CapabilityBoundingSet")), ("strict", ""));
    // The boot id is read from /proc/sys: what hides it makes a crash of the machine look like one of the process.
    assert_ne!(unit.get("Service.ProcSubset").map(|values| values[0].as_str()), Some("pid"));
    assert!(read("src/cli/config/mod.rs").contains("/proc/sys/kernel/random/boot_id"));
    let config: toml::Table = toml::from_str(&read("packaging/debian/quorate.toml")).unwrap();
    assert_eq!(config["node"]["data_dir"].as_str(), Some(state.as_str()));
}

#[test]
fn systemd_takes_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    // It asks whether the program is there.
    let text = read(UNIT).replace("/usr/bin/quorate", env!("CARGO_BIN_EXE_quorate"));
    std::fs::write(dir.path().join("quorate.service"), text).unwrap();
    if let Some(output) = tool("systemd-analyze", &["verify", "./quorate.service"], dir.path()) {
        assert!(output.status.success(), "{}", told(&output));
    }
}

#[test]
fn the_debian_package_holds_what_the_unit_starts() {
    hold_settings("packaging/debian/quorate.toml");
    for script in ["postinst", "prerm", "postrm"] {
        let path = format!("packaging/debian/{script}");
        assert!(read(&path).starts_with("#!/bin/sh\n# "), "{path}");
        let checked = tool("sh", &["-n", &path], &root()).unwrap();
        assert!(checked.status.success(), "{path}: {}", told(&checked));
    }
    // Any small program does: what is asked here is where things go.
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().to_str().unwrap();
    if tool("dpkg-deb", &["--version"], Path::new("/")).is_none() {
        return;
    }
    let made = tool("bash", &["scripts/deb", "--binary", "/usr/bin/env", "--output", output], &root()).unwrap();
    assert!(made.status.success(), "{}", told(&made));
    let package = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert!(package.contains(&format!("quorate_{}_", env!("CARGO_PKG_VERSION"))), "{package}");
    let held = told(&tool("dpkg-deb", &["--contents", &package], &root()).unwrap());
    let unit = unit();
    let mut started = unit["Service.ExecStart"][0].split_whitespace();
    let program = started.next().unwrap();
    for path in [program, started.next_back().unwrap(), "/usr/lib/systemd/system/quorate.service"] {
        assert!(held.contains(&format!(" .{path}\n")), "{path} is not in\n{held}");
    }
    assert!(held.lines().all(|line| line.contains(" root/root ")), "{held}");
    let control = told(&tool("dpkg-deb", &["--field", &package], &root()).unwrap());
    assert!(control.contains("Depends: adduser, libc6 (>= 2."), "{control}");
    let kept = told(&tool("dpkg-deb", &["--ctrl-tarfile", &package], &root()).unwrap());
    assert!(kept.contains("/etc/quorate/quorate.toml"), "a configuration that an upgrade would overwrite");
}
