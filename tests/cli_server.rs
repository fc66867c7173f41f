//! `quorate server`: configuration errors, a clean stop, and a kill after which nothing is gone.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster;

use cluster::{quorate, stderr};

#[test]
fn a_wrong_configuration_is_2_and_says_what_would_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("q.toml");
    std::fs::write(&file, "[node]\nwieght = 1\n").unwrap();
    let file = file.to_str().unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["--config", file], "did you mean node.weight?"),
        (&["--config", "/none.toml"], "cannot be read"),
        (&["--set", "node.zone"], "KEY=VALUE"),
        (&["--set", "node.limits.max_value=1"], "1MiB"),
        (&["--client-listen", "0.0.0.0:7400"], "without a cluster secret"),
        (&["--seed", "a:1", "--bootstrap-expect", "2"], "the command line: node.bootstrap_expect"),
        (&["--set", "cluster.w=any"], "cluster.w: got any, which a request or a bucket asks for"),
        (&["--set", "node.limits.connections=0"], "the command line: node.limits.connections: is 1 to 1000000, got 0"),
        (&["--set", "node.log.filter=a=b=c"], "node.log.filter"),
    ];
    for (args, wanted) in cases {
        let output = quorate(["server"].iter().chain(args)).current_dir(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?} {}", stderr(&output));
        assert!(stderr(&output).contains(wanted), "{args:?} {}", stderr(&output));
    }
    assert!(!dir.path().join("quorate-data").exists(), "nothing is made for a configuration that is wrong");
}

/// What systemd's `Type=notify` goes by.
#[test]
fn the_service_manager_is_told_when_it_listens_serves_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let base = cluster::free_base(1);
    let address = |service: u16| format!("127.0.0.1:{}", base + service);
    let mut command = quorate(["server", "--set", "node.disk_reserve=64MiB", "--data-dir"]);
    command.arg(dir.path().join("data")).env("NOTIFY_SOCKET", &path);
    for (flag, service) in [("--client-listen", 0), ("--admin-listen", 1), ("--peer-listen", 2)] {
        command.args([flag, &address(service)]);
    }
    command.stderr(std::fs::File::create(dir.path().join("log")).unwrap());
    let mut server = cluster::Process::start(command, " serves on http://");
    server.signal("TERM");
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
    let told: Vec<String> = (0..3)
        .map(|_| {
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        })
        .collect();
    let clients = address(0);
    assert_eq!(told[0], format!("READY=1\nSTATUS=listens for clients on {clients}, does not serve yet\n"));
    assert_eq!(told[1], format!("STATUS=serves clients on {clients}\n"));
    assert_eq!(told[2], "STOPPING=1\nSTATUS=finishes what is under way\n");
}

#[cfg(feature = "rocksdb")]
mod durable {
    use super::cluster::{self, Process, quorate, stderr, stdout};

    const SERVES: &str = " serves on http://";

    /// The flags of a server on three free ports.
    fn flags(base: u16, dir: &std::path::Path) -> Vec<String> {
        let mut flags = vec!["server".to_owned(), "--data-dir".to_owned(), dir.display().to_string()];
        // A share of a large disk may be more than is free where the tests run.
        flags.extend(["--set".to_owned(), "node.disk_reserve=64MiB".to_owned()]);
        for (service, flag) in ["--client-listen", "--admin-listen", "--peer-listen"].into_iter().enumerate() {
            flags.extend([flag.to_owned(), format!("127.0.0.1:{}", base + service as u16)]);
        }
        flags
    }

    /// Starts it with a new log, waits until it serves.
    fn start(base: u16, dir: &std::path::Path) -> Process {
        let mut command = quorate(flags(base, &dir.join("data")));
        command.stderr(std::fs::File::create(dir.join("log")).unwrap());
        Process::start(command, SERVES)
    }

    /// Why it mints in a new life, as its log says.
    fn why_anew(dir: &std::path::Path) -> String {
        let log = std::fs::read_to_string(dir.join("log")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut whys = lines.filter_map(|line| Some(line["fields"]["why"].as_str()?.to_owned()));
        whys.next_back().unwrap()
    }

    fn run(base: u16, args: &[&str]) -> String {
        let endpoint = format!("http://127.0.0.1:{base}");
        let output = quorate(args.iter().chain(&["--endpoint", &endpoint])).output().unwrap();
        assert!(output.status.success(), "{args:?} {}", stderr(&output));
        stdout(&output)
    }

    #[test]
    fn what_was_acknowledged_outlives_a_kill_and_a_clean_stop_is_told_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = cluster::free_base(1);
        let mut server = start(base, dir.path());
        run(base, &["put", "b", "k", "kept", "-w", "1"]);
        assert_eq!(why_anew(dir.path()), "New");

        // A second process must not touch the same directory.
        let other = quorate(flags(cluster::free_base(1), &dir.path().join("data"))).output().unwrap();
        assert_eq!(other.status.code(), Some(1), "{}", stderr(&other));
        assert!(stderr(&other).contains("in use by another process"), "{}", stderr(&other));

        server.signal("TERM");
        let status = server.0.wait().unwrap();
        assert_eq!(status.code(), Some(0), "a drain is a success");
        let mut server = start(base, dir.path());
        assert_eq!(run(base, &["get", "b", "k", "-r", "1"]), "kept");
        // The clean mark was there; a cluster of one has no peer who could vouch for it.
        assert_eq!(why_anew(dir.path()), "Unvouched");
        run(base, &["put", "b", "k", "kept, too", "-w", "1"]);

        server.signal("KILL");
        assert_eq!(server.0.wait().unwrap().code(), None);
        let _server = start(base, dir.path());
        assert_eq!(run(base, &["get", "b", "k", "-r", "1"]), "kept, too");
        assert_eq!(why_anew(dir.path()), "Unclean", "a kill leaves no clean mark");
    }

    #[test]
    fn an_admin_listener_that_wants_a_token_is_told_by_the_command_that_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let (base, token) = (cluster::free_base(1), dir.path().join("token"));
        std::fs::write(&token, "the admin's token\n").unwrap();
        let mut flags = flags(base, &dir.path().join("data"));
        flags.extend(["--set".into(), format!("node.admin_token_file={}", token.display())]);
        let mut command = quorate(flags);
        command.stderr(std::fs::File::create(dir.path().join("log")).unwrap());
        let _server = Process::start(command, SERVES);
        let endpoint = format!("http://127.0.0.1:{base}");
        let status = |more: &[&str]| quorate(["status", "--endpoint", &endpoint].iter().chain(more)).output().unwrap();
        let without = status(&[]);
        assert_eq!(without.status.code(), Some(1), "{}", stderr(&without));
        let said = stderr(&without);
        assert!(said.contains("unauthorized") && said.contains("quorate status --admin-token-file FILE"), "{said}");
        let with = status(&["--admin-token-file", token.to_str().unwrap()]);
        assert!(with.status.success() && stdout(&with).contains("layout 1"), "{}", stderr(&with));
    }

    #[test]
    fn the_demo_shows_what_it_says_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let output = quorate(["demo"]).env("TMPDIR", dir.path()).output().unwrap();
        assert!(output.status.success(), "{}\n{}", stdout(&output), stderr(&output));
        let shown = stdout(&output);
        assert!(shown.lines().filter(|line| line.starts_with("  ok ")).count() >= 20, "{shown}");
        assert!(shown.lines().filter(|line| line.starts_with("  $ curl")).count() >= 14, "{shown}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_cluster_that_is_kept_is_reached_the_way_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let output = quorate(["demo", "--keep"]).env("TMPDIR", dir.path()).output().unwrap();
        let shown = stdout(&output);
        assert!(output.status.success(), "{shown}\n{}", stderr(&output));
        let endpoints = shown.lines().find_map(|line| line.trim().strip_prefix("export QUORATE_ENDPOINTS=")).unwrap();
        let status = quorate(["status"]).env("QUORATE_ENDPOINTS", endpoints).output().unwrap();
        let end = shown.lines().find(|line| line.trim().starts_with("kill ")).unwrap();
        assert!(std::process::Command::new("bash").args(["-c", end]).status().unwrap().success());
        assert!(stdout(&status).contains("Nothing needs attention."), "{}{}", stdout(&status), stderr(&status));
    }

    #[test]
    fn a_demo_that_is_stopped_takes_its_nodes_and_data_along() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = quorate(["demo"]);
        command.env("TMPDIR", dir.path());
        let mut demo = Process::start(command, "gamma  http://127.0.0.1:");
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", demo.0.id())).unwrap_or_default();
        demo.signal("INT");
        assert_eq!(demo.0.wait().unwrap().code(), Some(1));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for child in children.split_whitespace() {
            assert!(!std::path::Path::new(&format!("/proc/{child}/cmdline")).exists(), "process {child} is left");
        }
    }
}
