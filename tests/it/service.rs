//! The program as a service: what a process manager is told, and that the unit and the image of `packaging/` name what is there.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis::config::{Config, Limits, Store};
use portcullis::startup::StartError;

use crate::cli::portcullis;
use crate::support::shipped;
use crate::tools::Service;
use crate::wire::SOON;

const PROGRAM: &str = "/usr/local/bin/portcullis";
const FILE: &str = "/etc/portcullis/gateway.toml";
const STATE: &str = "/var/lib/portcullis";
const UNIT: &str = include_str!("../../packaging/portcullis.service");
const IMAGE: &str = include_str!("../../packaging/Dockerfile");
const CONFIGURATION: &str = include_str!("../../packaging/gateway.toml");

/// The program from a file in this folder, and what it tells its manager.
fn managed(folder: &Path, text: &str) -> (Service, UnixDatagram) {
    let (file, socket) = (folder.join("gateway.toml"), folder.join("manager"));
    fs::write(&file, text).unwrap();
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let service = Service::start(command.arg("--config").arg(&file).env("NOTIFY_SOCKET", &socket));
    (service, manager)
}

fn told(manager: &UnixDatagram) -> String {
    let mut told = [0; 4096];
    let length = manager.recv(&mut told).expect("the manager is told");
    String::from_utf8(told[..length].to_vec()).unwrap()
}

#[test]
fn a_process_manager_is_told_of_the_start_of_reloads_and_of_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (service, manager) = managed(folder.path(), &shipped("memory"));
    let ready = told(&manager);
    assert!(ready.starts_with("READY=1\nSTATUS=listening on https://localhost:"), "{ready}");
    service.says("listening on");
    service.hang_up();
    assert_eq!(told(&manager), "STATUS=configuration reloaded\n");
    fs::write(folder.path().join("gateway.toml"), "nothing").unwrap();
    service.hang_up();
    let refused = "STATUS=not reloaded, everything stays as it was: 1 problem in gateway.toml\n";
    assert_eq!(told(&manager), refused);
    service.terminate();
    assert!(told(&manager).starts_with("STOPPING=1\nSTATUS=stopping; "));
    assert_eq!(service.ends().0, Some(0));
}

/// A manager that is gone, or never was, keeps nobody from serving.
#[test]
fn a_manager_that_does_not_listen_is_nobodys_problem() {
    for socket in ["/nowhere/manager", "@abstract", "relative", ""] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        fs::write(&file, shipped("memory")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let service = Service::start(command.arg("--config").arg(&file).env("NOTIFY_SOCKET", socket));
        service.says("listening on");
        service.terminate();
        assert_eq!(service.ends().0, Some(0), "{socket}");
    }
}

#[test]
fn a_port_that_a_plain_user_may_not_have_is_told_with_what_gives_it() {
    for (port, denied, told) in [
        (443, true, " (a port below 1024 needs CAP_NET_BIND_SERVICE, as packaging/portcullis.service gives it)"),
        (443, false, ""),
        (8443, true, ""),
    ] {
        let kind = if denied { ErrorKind::PermissionDenied } else { ErrorKind::AddrInUse };
        let error = StartError::Listen { address: ([0, 0, 0, 0], port).into(), source: kind.into() };
        assert_eq!(error.to_string(), format!("server: cannot listen on 0.0.0.0:{port}{told}"));
    }
}

/// The values of a key of the unit.
fn unit(key: &str) -> Vec<&'static str> {
    let values: Vec<&str> = UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect();
    assert!(!values.is_empty(), "the unit has no {key}");
    values
}

/// The words of an instruction of the image.
fn image(instruction: &str) -> Vec<&'static str> {
    let lines: Vec<&str> = IMAGE.lines().filter_map(|line| line.strip_prefix(instruction)?.strip_prefix(' ')).collect();
    assert!(!lines.is_empty(), "the image has no {instruction}");
    lines
}

/// With `--help` an unknown command or option is still an error.
fn exists(arguments: &[&str]) {
    let (code, _, said) = portcullis(Path::new("/"), &[arguments, &["--help"]].concat(), "");
    assert_eq!(code, 0, "{arguments:?}: {said}");
}

#[test]
fn the_unit_starts_checks_and_reloads_what_there_is() {
    let lines: Vec<&str> = [unit("ExecStart"), unit("ExecReload")].concat();
    let (own, others): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| line.starts_with(PROGRAM));
    assert_eq!((own.len(), others), (2, vec!["/bin/kill -HUP $MAINPID"]));
    for line in own {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words[0] == PROGRAM && words.ends_with(&["--config", FILE]), "{line}");
        exists(&words[1..]);
    }
    // Where commands are given without `--config`.
    assert_eq!(unit("WorkingDirectory"), ["/etc/portcullis"]);
    let state = Path::new("/var/lib").join(unit("StateDirectory")[0]);
    assert_eq!((state.as_path(), unit("ProtectSystem")), (Path::new(STATE), vec!["strict"]));
    let limits = Limits::default();
    let stop: u64 = unit("TimeoutStopSec")[0].parse().unwrap();
    assert!(stop > limits.drain_timeout.as_secs(), "the drain is cut off");
    let descriptors: usize = unit("LimitNOFILE")[0].parse().unwrap();
    assert!(descriptors > 2 * limits.connections + 2000, "clients are held back");
}

/// Where it is installed, systemd reads it, too.
#[test]
fn systemd_understands_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portcullis.service");
    fs::write(&file, UNIT.replace(PROGRAM, env!("CARGO_BIN_EXE_portcullis"))).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output() {
        Err(_) => println!("systemd is not there"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && !said.contains("portcullis.service"), "{said}");
        }
    }
}

#[test]
fn the_image_holds_what_there_is_and_runs_as_nobody() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for words in image("COPY").iter().map(|line| line.split(' ').collect::<Vec<_>>()) {
        match words[..] {
            ["--from=build", source, PROGRAM] => {
                let built = source.strip_prefix("/source/").unwrap();
                let build = fs::read_to_string(root.join("packaging/build")).unwrap();
                assert!(build.contains(&format!("at {built}:")), "{built}");
            }
            [source, FILE] => assert_eq!(fs::read_to_string(root.join(source)).unwrap(), CONFIGURATION),
            ["--from=build", owner, "--chmod=0700", _, STATE] => {
                assert_eq!(owner, format!("--chown={}", image("USER")[0]));
            }
            [".", "."] => {}
            _ => panic!("{words:?}"),
        }
    }
    let kept = fs::read_to_string(root.join("packaging/Dockerfile.dockerignore")).unwrap();
    let kept: Vec<&str> = kept.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(kept[0], "*", "what somebody keeps beside the sources is not sent along");
    assert!(kept[1..].iter().all(|path| path.strip_prefix('!').is_some_and(|path| root.join(path).exists())));
    assert_eq!((image("VOLUME"), image("WORKDIR").last()), (vec![STATE], Some(&"/etc/portcullis")));
    assert_eq!(image("ENTRYPOINT"), [format!("[\"{PROGRAM}\"]")]);
    let command = image("CMD")[0].trim_matches(['[', ']', '"']);
    exists(&[command]);
}

#[test]
fn what_a_service_writes_stands_where_it_may() {
    let config = Config::parse(CONFIGURATION, "gateway.toml", Path::new("/etc/portcullis")).unwrap();
    let Store::Embedded(store) = config.session.store else { panic!("the store is a folder") };
    let written: [PathBuf; 4] = [store, config.local.unwrap().users, config.tls.certificate, config.tls.private_key];
    assert!(config.tls.self_signed && written.iter().all(|path| path.starts_with(STATE)), "{written:?}");
}

#[test]
fn a_service_starts_from_its_file_once_somebody_was_added() {
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = CONFIGURATION.replace(STATE, state.path().to_str().unwrap());
    let text = [":443\"", ":80\"", ":9090\""].iter().fold(text, |text, port| {
        assert!(text.contains(port));
        text.replace(port, ":0\"")
    });
    let text = text.replace("0.0.0.0", "127.0.0.1");
    fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let add = ["user", "add", "alice", "--role", "admin", "--password-stdin"];
    let (code, _, said) = portcullis(folder.path(), &add, "correct horse battery\n");
    assert_eq!(code, 0, "{said}");
    let (service, manager) = managed(folder.path(), &text);
    assert!(told(&manager).starts_with("READY=1\n"));
    let said = service.said_until("listening on");
    assert!(!said.contains("WARN"), "{said}");
    let (code, _, said) = portcullis(folder.path(), &["check"], "");
    assert!(code == 0 && said.lines().count() == 1, "{said}");
    let names = |folder: &Path| {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(folder.path()), ["gateway.toml", "manager"]);
    assert_eq!(names(state.path()), ["certs", "data", "users.lock", "users.toml"]);
}

/// What is left of it would keep every start after it from making what it needs, until somebody finds out which file to remove.
#[test]
fn a_first_start_on_a_full_disk_leaves_nothing_that_hinders_the_next() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gateway.toml"), shipped("embedded:data")).unwrap();
    // Bytes that a file may have: nothing, a key, not its certificate.
    for blocks in ["0", "1"] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec '{}'", env!("CARGO_BIN_EXE_portcullis"));
        let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("cannot be written: File too large"), "{said}");
        assert_eq!(fs::read_dir(folder.path().join("certs")).unwrap().count(), 0, "{blocks}");
    }
    let service = Service::start(Command::new(env!("CARGO_BIN_EXE_portcullis")).current_dir(folder.path()));
    service.says("listening on");
}

/// Of what was kept, by a power cut or a copy that broke off.
#[test]
fn a_broken_file_of_the_store_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("embedded:data").replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n");
    let (service, _manager) = managed(folder.path(), &text);
    service.says("listening on");
    drop(service);
    let data = |name: &str| folder.path().join("data").join(name);
    let store = "the store is broken; put a copy of it back, or move it away, and everybody signs in anew: ";
    for (name, bytes, told) in [
        ("sessions.redb", &b"no store"[..], store),
        ("sessions.redb", &[7; 70_000], store),
        (
            "keys",
            b"",
            "is not a key file of this program; put a copy of it back, or remove it, and everybody signs in anew",
        ),
        ("admin-token", b"", "holds no operator's token; remove it, and the next start makes another one"),
    ] {
        let whole = fs::read(data(name)).unwrap();
        fs::write(data(name), bytes).unwrap();
        let (code, _, said) = portcullis(folder.path(), &["run"], "");
        let path = data(name).canonicalize().unwrap();
        assert!(code == 1 && said.contains(&format!("{}: {told}", path.display())), "{said}");
        fs::write(data(name), whole).unwrap();
    }
    let service = Service::start(Command::new(env!("CARGO_BIN_EXE_portcullis")).current_dir(folder.path()));
    service.says("listening on");
}
