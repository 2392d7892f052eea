//! The commands as a user types them: what they print, and the exit code.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{run_in, run_text, shipped};

/// Run it in a folder; code, standard output, standard error.
pub fn portcullis(folder: &Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever does not read it may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.toml"), shipped("memory")).unwrap();
    folder
}

#[test]
fn explain_says_what_matched_and_what_would_be_forwarded() {
    let folder = folder();
    let explain = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["explain"].iter().chain(arguments).copied().collect();
        portcullis(folder.path(), &arguments, "")
    };
    let (code, said, _) =
        explain(&["--user", "alice", "--role", "staff", "--role", "admin", "https://localhost/admin/x"]);
    let expected = "GET https://localhost/admin/x\n  \
        gateway.toml:30 route `app`: no: covers it, but another route is more specific\n  \
        gateway.toml:36 route `admin`: MATCH\n  \
        gateway.toml:42 route `public`: no: the path is not under /public\n\
        decision: forward (role_held)\n\
        forwarded to upstream `app` with\n  \
        x-forwarded-user: alice\n  \
        x-forwarded-groups: admin,staff\n";
    assert_eq!((code, said.as_str()), (0, expected), "{said}");
    for (arguments, last) in [
        (vec!["--user", "alice", "https://localhost/admin"], "decision: forbidden (role_missing)"),
        (vec!["https://localhost/admin"], "decision: unauthenticated (no_credential)"),
        (vec!["--header", "Accept: text/html", "https://localhost/"], "decision: sign_in (no_credential)"),
        (vec!["--method", "POST", "https://localhost/public"], "decision: refuse with 405 (method_not_allowed)"),
        (vec!["https://localhost/a/../b"], "refused with 400 before any route is looked for: path_dot_segment"),
        (vec!["--header", "X_Forwarded_User: root", "https://localhost/public"], "  no identity"),
    ] {
        let (code, said, _) = explain(&arguments);
        assert_eq!((code, said.lines().last().unwrap()), (0, last), "{arguments:?}\n{said}");
    }
    let (_, said, _) = explain(&["https://localhost/admin//x"]);
    let none = "no: covers it, but the path has more than one reading";
    for (route, why) in [("app", none), ("admin", none), ("public", "no: the path is not under /public")] {
        assert!(said.contains(&format!(" route `{route}`: {why}\n")), "none of them is chosen: {said}");
    }
    let (code, _, wrong) = explain(&["--user", "a", "--role", "root", "https://localhost/"]);
    assert_eq!(code, 2);
    assert!(wrong.contains("role `root` is not declared; declared: admin, staff"), "{wrong}");
}

#[test]
fn explain_says_what_a_route_adds_and_takes_away() {
    let route = r#"
[[route]]
name = "wiki"
path = "/wiki"
access = "authenticated"
upstream = "app"
strip_prefix = true
host_header = "wiki.internal"
set_headers = { X-Tenant = "blue", X-Forwarded-Prefix = "/wiki" }
remove_headers = ["X-Debug"]
signed_identity = "portcullis"
"#;
    let folder = tempfile::tempdir().unwrap();
    let signing = "[signing]\nissuer = \"https://gateway.example\"\n";
    std::fs::write(folder.path().join("gateway.toml"), format!("{}{route}{signing}", shipped("memory"))).unwrap();
    let arguments =
        ["explain", "--user", "alice", "--header", "X_Tenant: red", "--header", "X-Own: 1", "https://localhost/wiki/a"];
    let (code, said, wrong) = portcullis(folder.path(), &arguments, "");
    let expected = "forwarded to upstream `app` as /a with\n  \
        host: wiki.internal\n  \
        x-forwarded-prefix: /wiki\n  \
        x-tenant: blue\n  \
        x-forwarded-user: alice\n  \
        x-portcullis-identity: a statement of who calls, signed for `wiki`\n  \
        (any x-debug is removed)\n  \
        (the client's x_tenant is removed)\n";
    assert!(code == 0 && said.ends_with(expected), "{wrong}{said}");
}

/// What is asked of a file with a route for tokens and one that answers preflights.
const ROUTES: &str = r#"
[token]
issuer = "https://id.example.com"
audience = "gateway"
algorithms = ["ES256"]
jwks = "https://id.example.com/keys"
[[route]]
name = "api"
path = "/api"
access = { roles = ["admin"] }
accept = ["token"]
upstream = "app"
[[route]]
name = "cross"
path = "/cross"
methods = ["GET", "PUT"]
access = "authenticated"
preflight = { origins = ["https://other.example"], methods = ["PUT"] }
upstream = "app"
"#;

#[test]
fn explain_says_what_the_gateway_would_do_itself() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.toml"), shipped("memory") + ROUTES).unwrap();
    let explain = |arguments: &str| {
        let arguments: Vec<&str> = ["explain"].into_iter().chain(arguments.split('|')).collect();
        portcullis(folder.path(), &arguments, "")
    };
    let own = "a page of the gateway itself: nothing under /.portcullis is forwarded, whatever the routes say";
    let unread = |what| format!("a {what} is not read there: `accept` of the route has ");
    let (session, token) = (unread("session"), unread("token"));
    let preflight = "--method|OPTIONS|--header|Access-Control-Request-Method: PUT|--header|Origin: ";
    for (arguments, said, decision) in [
        ("--user|alice|--role|admin|https://localhost/.portcullis/login", "", own),
        ("--user|alice|--role|admin|https://localhost/.Portcullis/login", "", own),
        ("--user|alice|--role|admin|https://localhost/.portcullis", "", own),
        ("--user|alice|--role|admin|https://localhost/.portcullisx", "", "decision: forward (signed_in)"),
        ("--user|alice|--role|admin|https://localhost/api", &session, "decision: unauthenticated (no_credential)"),
        ("--user|alice|--role|admin|--by|token|https://localhost/api", "", "decision: forward (role_held)"),
        ("--user|alice|--by|token|https://localhost/api", "", "decision: forbidden (role_missing)"),
        ("--user|alice|--by|token|https://localhost/", &token, "decision: unauthenticated (no_credential)"),
        ("--user|alice|--by|token|https://localhost/public", "", "decision: forward (public)"),
        ("--user|alice|--by|session|https://localhost/", "", "decision: forward (signed_in)"),
        ("--method|TRACE|https://localhost/", "", "refused with 405 before any route is looked for: method_refused"),
        (
            &format!("{preflight}https://other.example|https://localhost/cross"),
            "MATCH",
            "decision: answered here with 204 (preflight), whoever asks",
        ),
        (
            &format!("{preflight}https://third.example|https://localhost/cross"),
            "MATCH",
            "decision: refuse with 403 (preflight of an origin that the route does not name)",
        ),
        (
            &format!("{preflight}https://other.example|https://localhost/api"),
            "",
            "decision: unauthenticated (no_credential)",
        ),
        (
            &format!("{}https://other.example|https://localhost/cross", preflight.replace("PUT", "DELETE")),
            "",
            "decision: refuse with 405 (method_not_allowed)",
        ),
    ] {
        let (code, text, _) = explain(arguments);
        let last = text.lines().rfind(|line| !line.starts_with("  ") && !line.starts_with("forwarded to "));
        assert_eq!((code, last), (0, Some(decision)), "{arguments}\n{text}");
        assert!(text.contains(said) && (!said.is_empty() || !text.contains("is not read")), "{arguments}\n{text}");
    }
    let (code, _, wrong) = explain("--user|alice|--by|token|--login|local|https://localhost/");
    assert!(code == 2 && wrong.contains("a token tells of no place to sign in"), "{wrong}");
    assert_eq!(explain("--by|token|https://localhost/").0, 2, "nobody brings it");
}

#[test]
fn explain_names_people_as_applications_know_them() {
    let issuer = |name: &str, prefix: &str| {
        format!(
            "[[token]]\nissuer = \"https://{name}.example\"\naudience = \"g\"\nalgorithms = [\"ES256\"]\nkey = \"none.pem\"\n\
             user_prefix = \"{prefix}\"\n"
        )
    };
    let corp = "[login.oidc.corp]\nissuer = \"https://id.example\"\nclient_id = \"a\"\nclient_secret = { file = \"none\" }\n\
        user_prefix = \"corp:\"\n";
    let folder = tempfile::tempdir().unwrap();
    let routes = &ROUTES[ROUTES.find("[[route]]").unwrap()..];
    let text = format!("{}{routes}{corp}{}{}", shipped("memory"), issuer("one", "one:"), issuer("two", ""));
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let explain = |arguments: &str| {
        let arguments: Vec<&str> = ["explain"].into_iter().chain(arguments.split('|')).collect();
        portcullis(folder.path(), &arguments, "")
    };
    for (arguments, told) in [
        ("alice|https://localhost/", "alice"),
        ("alice|--login|corp|https://localhost/", "corp:alice"),
        ("corp:alice|--login|corp|https://localhost/", "corp:alice"),
        ("alice|--role|admin|--by|token|https://localhost/api", "one:alice"),
        ("alice|--role|admin|--by|token|--issuer|https://two.example|https://localhost/api", "alice"),
    ] {
        let (code, said, wrong) = explain(&format!("--user|{arguments}"));
        assert_eq!(code, 0, "{arguments}: {wrong}");
        assert!(said.contains(&format!("\n  x-forwarded-user: {told}\n")), "{arguments}\n{said}");
    }
    for (arguments, wrong) in [
        (
            "corp:alice|--by|token|--issuer|https://two.example|https://localhost/api",
            "nobody is called `corp:alice` there",
        ),
        (
            "alice|--by|token|--issuer|https://x.example|https://localhost/api",
            "known: https://one.example, https://two.example",
        ),
        ("alice|--issuer|https://one.example|https://localhost/", "a session tells of no issuer of tokens"),
    ] {
        let (code, _, said) = explain(&format!("--user|{arguments}"));
        assert!(code == 2 && said.contains(wrong), "{arguments}: {said}");
    }
}

#[test]
fn the_file_is_named_before_between_and_after_the_words_of_a_command() {
    let folder = folder();
    for arguments in [
        "--config none.toml",
        "--config none.toml check",
        "run --config none.toml",
        "check --config none.toml",
        "explain --config none.toml https://localhost/",
        "--config none.toml user list",
        "user --config none.toml list",
        "user list --config none.toml",
        "user add alice --config none.toml --password-stdin",
        "token keys --config none.toml",
        "sessions list --user alice --config none.toml",
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let (code, _, said) = portcullis(folder.path(), &words, "");
        assert!(code == 2 && said.contains("none.toml: No such file"), "{arguments}: {said}");
    }
}

#[test]
fn a_store_that_is_not_there_is_not_made_by_writing_it_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.toml"), shipped("embedded:data")).unwrap();
    let (code, written, said) = portcullis(folder.path(), &["sessions", "export"], "");
    assert_eq!((code, written.as_str()), (1, ""), "{said}");
    assert!(said.contains("data/sessions.redb: there is no store to write out"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is made");
    std::fs::create_dir(folder.path().join("data")).unwrap();
    assert_eq!(portcullis(folder.path(), &["sessions", "export"], "").0, 1);
    assert_eq!(std::fs::read_dir(folder.path().join("data")).unwrap().count(), 0, "nor in a folder that is there");
}

#[test]
fn a_user_is_added_listed_given_another_password_and_removed() {
    let folder = folder();
    let user = |arguments: &[&str], input: &str| {
        let arguments: Vec<&str> = ["user"].iter().chain(arguments).copied().collect();
        portcullis(folder.path(), &arguments, input)
    };
    let add = ["add", "Alice", "--role", "admin", "--email", "a@example.com", "--password-stdin"];
    assert_eq!(user(&add, "short\n").0, 1, "a password of five letters");
    assert_eq!(user(&["add", "a b", "--password-stdin"], "correct horse battery\n").0, 1, "a name with a blank");
    assert_eq!(user(&["add", "bob", "--role", "root", "--password-stdin"], "correct horse battery\n").0, 1);
    for (what, value) in [("--email", "a@b\nX: y"), ("--display-name", "Bob\u{85}"), ("--email", "")] {
        let (code, _, said) = user(&["add", "bob", what, value, "--password-stdin"], "correct horse battery\n");
        assert!(code == 1 && said.contains("control characters"), "{what} {value:?}: {said}");
    }
    // In a session of its own, which has no terminal.
    let alone = ["--wait", env!("CARGO_BIN_EXE_portcullis"), "user", "add", "bob"];
    let asked = Command::new("setsid").args(alone).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(asked.stderr).unwrap();
    assert!(asked.status.code() == Some(1) && said.contains("`--password-stdin` reads it from a pipe"), "{said}");
    let (code, _, said) = user(&add, "correct horse battery\n");
    assert_eq!((code, said.trim()), (0, "added `alice`"));
    assert_eq!(user(&add, "correct horse battery\n").0, 1, "there already");
    assert_eq!(user(&["list"], "").1, "alice\tadmin\n");
    let file = std::fs::read_to_string(folder.path().join("users.toml")).unwrap();
    assert!(file.contains("$argon2id$") && !file.contains("correct horse"), "{file}");
    assert_eq!(user(&["passwd", "alice", "--password-stdin"], "another horse battery\n").0, 0);
    assert_eq!(user(&["passwd", "bob", "--password-stdin"], "another horse battery\n").0, 1, "nobody of that name");

    let running = run_in(folder, "memory");
    let sign_in = |password: &str| {
        let page = running.curl("/.portcullis/login", &[]);
        let state = format!("state={}", crate::support::between(&page.body, "name=\"state\" value=\"", "\""));
        let password = format!("password={password}");
        running
            .curl(
                "/.portcullis/login",
                &["-d", "user=ALICE", "--data-urlencode", &state, "--data-urlencode", &password],
            )
            .status
    };
    assert_eq!(sign_in("correct horse battery"), 401, "the old password");
    assert_eq!(sign_in("another horse battery"), 303);
    let (code, _, _) = portcullis(running.folder.path(), &["user", "remove", "alice"], "");
    assert_eq!(code, 0);
    assert_eq!(portcullis(running.folder.path(), &["user", "list"], "").1, "");
}

#[test]
fn check_and_run_say_what_is_wrong_and_start_nothing() {
    let folder = folder();
    let path = folder.path();
    let (code, said, _) = portcullis(path, &["check"], "");
    assert_eq!(code, 0, "{said}");
    assert!(!path.join("certs").exists() && !path.join("users.toml").exists(), "a check makes nothing");
    std::fs::write(path.join("gateway.toml"), shipped("memory").replace("listen", "lisen")).unwrap();
    for command in ["check", "run"] {
        let (code, _, said) = portcullis(path, &[command], "");
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("unknown key `lisen`; did you mean `listen`?"), "{said}");
    }
    let (code, _, said) = portcullis(path, &["check", "--config", "none.toml"], "");
    assert!(code == 2 && said.contains("none.toml"), "{said}");
    assert_eq!(portcullis(path, &["frobnicate"], "").0, 2);
    let (code, said, _) = portcullis(path, &["completions", "bash"], "");
    assert!(code == 0 && said.contains("portcullis"), "{said}");
}

/// The command finds the gateway and its token by the configuration alone, and says what is certain.
#[test]
fn sessions_are_listed_and_revoked_by_the_command() {
    let text = shipped("embedded:data").replacen("[server]", "[server]\nadmin = \"127.0.0.1:0\"", 1);
    let folder = tempfile::tempdir().unwrap();
    let running = run_text(folder, &text);
    let path = running.folder.path();
    let admin = running.gateway.admin_address().unwrap();
    std::fs::write(path.join("gateway.toml"), text.replace("admin = \"127.0.0.1:0\"", &format!("admin = \"{admin}\"")))
        .unwrap();
    let sessions = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["sessions"].iter().chain(arguments).copied().collect();
        portcullis(path, &arguments, "")
    };
    let signed_in = || running.curl("/", &[]).status == 200;
    let handle = || {
        let (code, said, _) = sessions(&["list", "--user", "demo"]);
        assert_eq!(code, 0, "{said}");
        let list: serde_json::Value = serde_json::from_str(&said).unwrap();
        list[0]["session"].as_str().map(str::to_owned)
    };
    assert_eq!(handle(), None);
    for what in ["--session", "--user", "--all"] {
        std::fs::write(path.join("jar"), "").unwrap();
        assert_eq!(running.sign_in("/", &running.password).status, 303);
        assert!(signed_in());
        let handle = handle().unwrap();
        let (code, said, _) = sessions(&["revoke", "--others-of", &handle]);
        assert!(code == 0 && said.contains("\"ended\":0") && signed_in(), "the only one is spared: {said}");
        let (code, said, _) = match what {
            "--session" => sessions(&["revoke", what, &handle]),
            "--user" => sessions(&["revoke", what, "DEMO"]),
            _ => sessions(&["revoke", what]),
        };
        assert_eq!(code, 0, "{said}");
        let told: serde_json::Value = serde_json::from_str(&said).unwrap();
        for (key, expected) in [
            ("committed", serde_json::json!(true)),
            ("replicated", serde_json::json!(true)),
            ("everywhere", serde_json::json!(true)),
            ("confirmed", serde_json::json!(1)),
            ("nodes", serde_json::json!(1)),
            ("bound_ms", serde_json::json!(0)),
            ("ended", serde_json::json!(1)),
        ] {
            assert_eq!(told[key], expected, "{what}: {said}");
        }
        assert!(told["waited_ms"].is_u64() && !signed_in(), "{said}");
        let (code, _, said) = sessions(&["revoke", "--others-of", &handle]);
        assert!(code == 1 && said.contains("no such session"), "{said}");
    }
    for (what, expected) in [(&["--user", "nobody"][..], 3), (&["--session", &"0".repeat(32)], 3), (&["--all"], 0)] {
        let (code, told, said) = sessions(&[&["revoke"], what].concat());
        assert_eq!(code, expected, "{what:?}: whoever misspells a name has ended nothing: {told}{said}");
        assert!(told.contains("\"ended\":0") && said.contains("no session was found"), "{told}{said}");
    }
    for arguments in [["list", "--user"], ["revoke", "--user"]] {
        let (code, _, said) = sessions(&[&arguments[..], &["demo", "--provider", "crop"]].concat());
        assert!(code == 1 && said.contains("nobody signs in at `crop`; there are: local"), "{arguments:?}: {said}");
    }
    for (arguments, expected) in [
        (vec!["revoke"], 2),
        (vec!["revoke", "--all", "--user", "demo"], 2),
        (vec!["revoke", "--session", "xyz"], 1),
        (vec!["list"], 2),
    ] {
        assert_eq!(sessions(&arguments).0, expected, "{arguments:?}");
    }
    std::fs::remove_file(path.join("data/admin-token")).unwrap();
    let (code, _, said) = sessions(&["list", "--user", "demo"]);
    assert!(code == 1 && said.contains("admin-token"), "{said}");
}

/// An editor of another age, or a shell that writes UTF-16.
#[test]
fn a_file_in_another_encoding_is_told_with_its_place() {
    let folder = folder();
    let path = folder.path();
    let utf16: Vec<u8> = "roles = []".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, told) in [
        (
            &b"roles = [\"admin\"]\n# f\xfcr alle\n"[..],
            "2: column 4 (byte 0xFC) is not UTF-8; save the file in that encoding",
        ),
        (
            "# für\n".as_bytes().iter().copied().chain(*b"# \xff").collect::<Vec<_>>().as_slice(),
            "2: column 3 (byte 0xFF) is not",
        ),
        ([&b"\xff\xfe"[..], &utf16].concat().as_slice(), "1: column 1 (byte 0xFF) is not"),
        (b"# f\xc3", "1: column 4 (byte 0xC3) is not"),
    ] {
        std::fs::write(path.join("gateway.toml"), bytes).unwrap();
        for command in ["check", "run", "schema"] {
            let (code, _, said) = portcullis(path, &[command], "");
            let is_told =
                said.starts_with(&format!("gateway.toml:{told}")) && said.contains("1 problem in gateway.toml");
            assert_eq!((code == 2, is_told), (command != "schema", command != "schema"), "{command}: {said}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_told_with_what_names_another() {
    let folder = tempfile::tempdir().unwrap();
    for command in [&[][..], &["check"], &["user", "list"]] {
        let (code, _, said) = portcullis(folder.path(), command, "");
        let expected =
            "portcullis: gateway.toml: No such file or directory (os error 2); `--config FILE` names another one\n";
        assert_eq!((code, said.as_str()), (2, expected));
    }
}

#[test]
fn what_cannot_be_written_out_is_an_error_and_no_panic() {
    for command in [&["completions", "bash"][..], &["completions", "zsh"], &["schema"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(command).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(
            said.starts_with("portcullis: standard output cannot be written: ") && said.lines().count() == 1,
            "{said}"
        );
    }
}

/// Whoever may not look into the folder is not told that there is nobody.
#[test]
fn users_that_cannot_be_looked_at_are_not_none() {
    let folder = folder();
    let list = || portcullis(folder.path(), &["user", "list"], "");
    assert_eq!(list(), (0, String::new(), String::new()), "there is no file yet");
    let text = shipped("memory").replace("\"users.toml\"", "\"gateway.toml/users.toml\"");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let (code, out, said) = list();
    assert!(code == 1 && out.is_empty() && said.contains("gateway.toml/users.toml: Not a directory"), "{said}");
}
