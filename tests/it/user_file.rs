//! The user file as those who share it find it after a change: whose it is, who may read it, and what is said of it where it is
//! broken. Who is root here takes it from somebody else; who is not still sees that nothing is opened to others.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cli::portcullis;
use crate::support::{add_user, shipped};
use crate::tools::Service;

const PASSWORD: &str = "correct horse battery\n";
/// Neither of them anybody's who runs tests.
const GATEWAY: u32 = 65534;
const GROUP: u32 = 65533;

fn standing(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid(), found.mode() & 0o777)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// An operator, perhaps root, changes the file of a gateway that is somebody else.
#[test]
fn a_changed_user_file_stays_whose_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    add_user(path, &shipped("memory"), "alice", PASSWORD, &["admin"]);
    let file = path.join("users.toml");
    assert_eq!(standing(&file).2, 0o600, "a new one is its owner's alone");
    fs::remove_file(path.join("users.lock")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let is_root = standing(&file).0 == 0;
    if is_root {
        chown(&file, Some(GATEWAY), Some(GROUP)).unwrap();
    }
    let before = standing(&file);
    // What a change left that broke off, open to everybody.
    fs::write(path.join("users.new"), "half").unwrap();
    for arguments in [
        &["user", "add", "bob", "--password-stdin"][..],
        &["user", "passwd", "bob", "--password-stdin"],
        &["user", "remove", "bob"],
    ] {
        let (code, _, said) = portcullis(path, arguments, PASSWORD);
        assert_eq!((code, standing(&file)), (0, before), "{arguments:?}: {said}");
    }
    assert_eq!(standing(&path.join("users.lock")), (before.0, before.1, 0o600));
    assert_eq!(names(path), ["gateway.toml", "users.lock", "users.toml"]);
    if !is_root {
        return;
    }
    // And where nobody is there yet, it is for whom the folder is.
    fs::remove_file(&file).unwrap();
    fs::remove_file(path.join("users.lock")).unwrap();
    chown(path, Some(GATEWAY), Some(GROUP)).unwrap();
    let (code, _, said) = portcullis(path, &["user", "add", "bob", "--password-stdin"], PASSWORD);
    assert_eq!(code, 0, "{said}");
    for name in ["users.toml", "users.lock"] {
        assert_eq!(standing(&path.join(name)), (GATEWAY, GROUP, 0o600), "{name}");
    }
    // Who is not root cannot give it to its owner.
    fs::remove_file(path.join("users.lock")).unwrap();
    chown(&file, Some(0), Some(0)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (text, there) = (fs::read(&file).unwrap(), names(path));
    let program = tempfile::tempdir().unwrap();
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // By another process: a child that another test starts while this one writes would hold it open, and it could not be run.
    let mut copy = Command::new("cp");
    assert!(copy.arg(env!("CARGO_BIN_EXE_portcullis")).arg(program.path()).status().unwrap().success());
    for locked in [false, true] {
        if locked {
            fs::write(path.join("users.lock"), "").unwrap();
            chown(path.join("users.lock"), Some(GATEWAY), Some(GROUP)).unwrap();
        }
        let mut command = Command::new(program.path().join("portcullis"));
        command.args(["user", "remove", "bob"]).current_dir(path).uid(GATEWAY).gid(GROUP).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("belongs to user 0 and group 0"), "{said}");
        assert!(fs::read(&file).unwrap() == text && standing(&file) == (0, 0, 0o644), "it is as it was");
    }
    fs::remove_file(path.join("users.lock")).unwrap();
    assert_eq!(names(path), there);
}

/// A file that is there keeps the demonstration user from being made, and one that is written loses its comments.
#[test]
fn what_changes_nothing_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path(), folder.path().join("users.toml"));
    fs::write(path.join("gateway.toml"), shipped("memory")).unwrap();
    let refused = |arguments: &[&str], because: &str| {
        let (code, _, said) = portcullis(path, arguments, PASSWORD);
        assert!(code == 1 && said.contains(because), "{arguments:?}: {said}");
    };
    let of_nobody = || {
        refused(&["user", "remove", "bob"], "there is no user `bob`");
        refused(&["user", "passwd", "bob", "--password-stdin"], "there is no user `bob`");
    };
    of_nobody();
    assert!(!file.exists());
    add_user(path, &shipped("memory"), "alice", PASSWORD, &["admin"]);
    let text = fs::read_to_string(&file).unwrap() + "# Alice is the only one.\n";
    fs::write(&file, &text).unwrap();
    of_nobody();
    refused(&["user", "add", "alice", "--password-stdin"], "there is a user `alice` already");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

/// What is said of a broken file stands in logs, and a hash is guessed at leisure by whoever reads them.
#[test]
fn a_broken_user_file_is_told_by_its_place_and_without_its_hashes() {
    const SECRET: &str = "bm90IGEgcGFzc3dvcmQ";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = shipped("memory") + "[log]\nformat = \"json\"\n";
    add_user(path, &text, "alice", PASSWORD, &["admin"]);
    let file = path.join("users.toml");
    let good = fs::read_to_string(&file).unwrap();
    let hash = good.lines().find_map(|line| line.strip_prefix("password = \"")?.strip_suffix('"')).unwrap();
    let broken = [
        ("[user.alice]\npassword = \"HASH\nroles = []\n", "users.toml:2:"),
        ("[user.alice]\npassword = HASH\n", "users.toml:2:23: "),
        ("[user.alice]\npassword \"HASH\"\n", "users.toml:2:"),
        ("[user.alice]\npassword = [\"HASH\"]\n", "users.toml:2:12: "),
        ("[user.alice]\nroles = \"HASH, expected HASH\"\n", "users.toml:2:9: "),
        ("[user]\nalice = \"HASH\"\n", "users.toml:2:9: is not a user file: expected struct User"),
    ];
    for (broken, place) in broken {
        fs::write(&file, broken.replace("HASH", &format!("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ${SECRET}"))).unwrap();
        for command in [&["check"][..], &["run"], &["user", "list"], &["user", "remove", "alice"]] {
            let (code, said, wrong) = portcullis(path, command, "");
            let all = said + &wrong;
            assert!(code != 0 && all.contains(place), "{command:?}: {all}");
            assert!(!all.contains(SECRET) && !all.contains("argon2id"), "{command:?}: {all}");
        }
    }
    // A line of the log is whole: what would follow stands in it.
    fs::write(&file, &good).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let gateway = Service::start(command.arg("run").current_dir(path));
    gateway.says("listening on");
    fs::write(&file, good.replace(&format!("{hash}\""), hash)).unwrap();
    let said = gateway.says("the user file is kept as it was last read");
    assert!(said.contains("users.toml:4:") && !said.contains(&hash[hash.len() - 20..]), "{said}");
}
