//! Certificates that a client will refuse and keys that others can read: `check` says so, and a start serves all the same.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};

use crate::admin::{ask, sample, with_admin};
use crate::cli::portcullis;
use crate::process::start_text;
use crate::support::{run_text, shipped};
use crate::tools::Service;

pub const DAY: Duration = Duration::from_secs(86_400);

/// A pair in a folder that holds from one moment to another.
pub fn pair(folder: &Path, file: &str, from: SystemTime, to: SystemTime) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (from.into(), to.into());
    let key = KeyPair::generate().unwrap();
    fs::write(folder.join(format!("{file}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
    let path = folder.join(format!("{file}.key"));
    fs::write(&path, key.serialize_pem()).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// The shipped configuration with three pairs, in the lines from 11 on: one that holds, one that ended, one that begins tomorrow.
fn three_pairs(folder: &Path) -> String {
    let now = SystemTime::now();
    pair(folder, "now", now - DAY, now + DAY);
    pair(folder, "past", SystemTime::UNIX_EPOCH + 10_000 * DAY, SystemTime::UNIX_EPOCH + 10_001 * DAY);
    pair(folder, "future", now + DAY, now + 2 * DAY);
    let named = |file: &str| format!("certificate = \"{file}.pem\"\nprivate_key = \"{file}.key\"\n");
    let also = |file: &str| format!("[[tls.also]]\n{}", named(file));
    let tls = format!("[tls]\n{}{}{}", named("now"), also("past"), also("future"));
    shipped("memory").replace("[tls]\nself_signed = true", &tls)
}

#[test]
fn check_says_of_a_certificate_that_it_ended_or_has_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let text = three_pairs(folder.path());
    fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let check = || portcullis(folder.path(), &["check"], "");
    let (code, _, said) = check();
    let lines: Vec<&str> = said.lines().collect();
    let [past, future, count] = lines[..] else { panic!("{said}") };
    let line = |file: &str| 1 + text.lines().position(|line| line.contains(file)).unwrap();
    let path = |file: &str| folder.path().canonicalize().unwrap().join(file).display().to_string();
    let expected = format!(
        "gateway.toml:{}: tls.also[0].certificate: `{}` ended on 1997-05-20T00:00:00Z; put a renewed one there",
        line("past.pem"),
        path("past.pem")
    );
    assert_eq!(past, expected);
    let expected =
        format!("gateway.toml:{}: tls.also[1].certificate: `{}` begins on 2", line("future.pem"), path("future.pem"));
    assert!(future.starts_with(&expected) && future.ends_with("Z; put one there that holds now"), "{future}");
    assert_eq!((code, count), (2, "2 problems in gateway.toml; nothing was started"));

    let now = SystemTime::now();
    for file in ["past", "future"] {
        pair(folder.path(), file, now - DAY, now + DAY);
    }
    let (code, said, warned) = check();
    assert!(code == 0 && warned.lines().count() == 1 && warned.contains("gateway.toml: fine"), "{said}{warned}");
}

#[test]
fn check_warns_of_a_key_that_others_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let text = three_pairs(folder.path());
    fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    for file in ["past", "future"] {
        pair(folder.path(), file, now - DAY, now + DAY);
    }
    for (mode, is_warned_of) in [(0o600, false), (0o640, true), (0o604, true), (0o400, false)] {
        fs::set_permissions(folder.path().join("now.key"), Permissions::from_mode(mode)).unwrap();
        let (code, _, said) = portcullis(folder.path(), &["check"], "");
        let line = 1 + text.lines().position(|line| line.contains("now.key")).unwrap();
        let warning = format!("gateway.toml:{line}: tls.private_key: warning: `");
        let says = said.starts_with(&warning) && said.contains(&format!("can be read by others (mode {mode:04o})"));
        assert_eq!((code, says), (0, is_warned_of), "{said}");
    }
}

/// The program, with one certificate that ends while it is shown.
fn with_one_that_ends() -> (tempfile::TempDir, Service) {
    let folder = tempfile::tempdir().unwrap();
    let text = three_pairs(folder.path());
    let now = SystemTime::now();
    pair(folder.path(), "past", now - DAY, now + Duration::from_secs(10));
    let file = folder.path().join("gateway.toml");
    fs::write(&file, &text).unwrap();
    let service = Service::start(Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("--config").arg(&file));
    (folder, service)
}

/// A renewal that failed weeks ago is found out by whoever is turned away, unless it is said.
#[test]
fn a_certificate_that_ends_while_it_is_shown_is_warned_of() {
    let (_folder, service) = with_one_that_ends();
    let said = service.said_until("listening on");
    assert!(said.contains("future.pem` begins on") && !said.contains("past.pem"), "it holds yet: {said}");
    let said = service.said_until("past.pem` ended on ");
    assert!(said.contains("WARN") && !said.contains("future.pem"), "what was said is not said again: {said}");
}

/// Once, however long it lasts, and whatever else is to be said meanwhile.
#[test]
fn a_renewal_that_cannot_be_used_is_told_of_once() {
    let (folder, service) = with_one_that_ends();
    service.says("listening on");
    fs::write(folder.path().join("now.pem"), "half of it").unwrap();
    service.says("not usable");
    let said = service.said_until("past.pem` ended on ");
    assert!(!said.contains("not usable"), "{said}");
    let now = SystemTime::now();
    pair(folder.path(), "now", now - DAY, now + DAY);
    service.says("certificates were read anew");
}

/// Somebody may have to sign in to renew it; and a restart must not be what takes the gateway away.
#[test]
fn a_start_with_such_files_warns_and_serves() {
    let folder = tempfile::tempdir().unwrap();
    let text = three_pairs(folder.path());
    fs::set_permissions(folder.path().join("now.key"), Permissions::from_mode(0o644)).unwrap();
    let program = start_text(folder.path(), &text);
    for warned in ["past.pem` ended on 1997-05-20T00:00:00Z", "future.pem` begins on", "now.key` can be read by others"]
    {
        let is_warned = |line: &str| line.contains("WARN") && line.contains(warned);
        assert!(program.said.lines().any(is_warned), "{warned}\n{}", program.said);
    }
    assert!(program.curl(&folder.path().join("jar"), "/public", &[]).contains(" 200"));
}

/// A pair that ends so many days after 1970 began.
fn ending(folder: &Path, file: &str, days: u32) {
    let end = SystemTime::UNIX_EPOCH + days * DAY;
    pair(folder, file, end - 2 * DAY, end);
}

/// The shipped configuration with a certificate wherever one may be shown.
fn certificates_everywhere() -> String {
    let named = |file: &str| format!("certificate = \"{file}.pem\"\nprivate_key = \"{file}.key\"\n");
    let also = |file: &str| format!("[[tls.also]]\n{}", named(file));
    let store =
        format!("[session.redis]\nca = \"own.pem\"\n{}[session]\nsecret = {{ file = \"secret\" }}\n", named("store"));
    let provider = r#"
[login.oidc.corp]
issuer = "https://id.example.com"
client_id = "portcullis"
client_auth = "tls_client_auth"
user_prefix = "corp:"
[login.oidc.corp.tls]
"#;
    let upstream = "[upstream.secure]\nservers = [\"https://127.0.0.1:1\"]\n[upstream.secure.tls]\nca = \"own.pem\"\n";
    with_admin("rediss://127.0.0.1:1")
        .replace("[server]\n", "[server]\nadmin_token = { file = \"secret\" }\n")
        .replace("[session]\n", &store)
        .replace("self_signed = true", &(named("own") + &also("other") + &also("past")))
        + &[provider, &named("provider"), upstream, &named("client")].concat()
}

/// Whoever watches renewals hears before the day, of every certificate that somebody is shown.
#[test]
fn metrics_say_when_each_certificate_ends() {
    let folder = tempfile::tempdir().unwrap();
    let shown = [
        ("own", "tls.certificate", 30_001),
        ("other", "tls.also[0].certificate", 30_002),
        ("past", "tls.also[1].certificate", 10_000),
        ("client", "upstream.secure.tls.certificate", 30_003),
        ("provider", "login.oidc.corp.tls.certificate", 30_004),
        ("store", "session.redis.certificate", 30_005),
    ];
    shown.iter().for_each(|(file, _, days)| ending(folder.path(), file, *days));
    fs::write(folder.path().join("secret"), "thirty-two bytes or more of a secret").unwrap();
    let text = certificates_everywhere();
    let running = run_text(folder, &text);
    let told = |later: u32| {
        let metrics = ask(&running, "/metrics", &[]).body;
        for (_, key, days) in shown {
            let name = format!("portcullis_certificate_not_after_timestamp_seconds{{key=\"{key}\"}}");
            assert_eq!(sample(&metrics, &name), (u64::from(days + later) * 86_400).to_string(), "{key}");
        }
        assert_eq!(metrics.matches("certificate_not_after_timestamp_seconds{").count(), shown.len(), "{metrics}");
    };
    told(0);
    shown.iter().for_each(|(file, _, days)| ending(running.folder.path(), file, days + 10));
    running.reload(&text).unwrap();
    told(10);
}
