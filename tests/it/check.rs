//! What `portcullis check` says of files beyond the text, and a start that ends at one of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::cli::portcullis;
use crate::support::{add_user, shipped};
use crate::tools::Service;

/// Each file that is named and is not there stands in `no`.
const NOTHING_THERE: &str = r#"
roles = ["admin"]
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
admin_token = { file = "no/admin-token" }
[tls]
certificate = "no/gateway.pem"
private_key = "no/gateway.key"
[[tls.also]]
certificate = "no/other.pem"
private_key = "no/other.key"
[session]
store = "rediss://127.0.0.1:1"
secret = { file = "no/secret" }
[session.redis]
sentinel = "main"
sentinel_password = { file = "no/sentinel" }
password = { file = "no/password" }
ca = "no/redis.pem"
[login.local]
users = "no/users.toml"
[login.oidc.corp]
issuer = "https://id.example.com"
client_id = "portcullis"
client_secret = { file = "no/corp" }
user_prefix = "corp:"
[login.oidc.other]
issuer = "https://other.example.com"
client_id = "portcullis"
client_auth = "private_key_jwt"
client_key = "no/client.key"
user_prefix = "other:"
[login.oidc.other.tls]
ca = "no/other-ca.pem"
[[token]]
issuer = "https://a.example.com"
audience = "gateway"
algorithms = ["HS256"]
secret = { file = "no/hs256" }
[[token]]
issuer = "https://b.example.com"
audience = "gateway"
algorithms = ["ES256"]
jwks = "no/keys.json"
[[token]]
issuer = "https://c.example.com"
audience = "gateway"
algorithms = ["ES256"]
key = "no/key.pem"
[[token]]
issuer = "https://d.example.com"
audience = "gateway"
algorithms = ["ES256"]
jwks = "https://d.example.com/keys"
ca = "no/issuer.pem"
[identity_headers]
preset = "x-forwarded"
[upstream.app]
servers = ["https://127.0.0.1:9000"]
[upstream.app.tls]
ca = "no/app.pem"
certificate = "no/client.pem"
private_key = "no/client-key.pem"
[[route]]
name = "app"
path = "/"
access = "authenticated"
upstream = "app"
"#;

/// How many.
const MISSING: usize = 20;

fn write(folder: &Path, text: &str) {
    fs::write(folder.join("gateway.toml"), text).unwrap();
}

/// What is said of a text in this folder, and the exit code.
fn checked(folder: &Path, text: &str) -> (i32, String) {
    write(folder, text);
    let (code, _, said) = portcullis(folder, &["check"], "");
    (code, said)
}

/// The line of the shipped file that holds this, from 1.
fn line(text: &str, holds: &str) -> usize {
    1 + text.lines().position(|line| line.contains(holds)).unwrap()
}

#[test]
fn every_file_that_is_missing_is_told_at_once_with_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = checked(folder.path(), NOTHING_THERE);
    let (mut table, mut expected, mut issuers) = (String::new(), Vec::new(), 0);
    for (number, line) in (1..).zip(NOTHING_THERE.lines()) {
        match line {
            "[[token]]" => (table, issuers) = (format!("token[{issuers}]"), issuers + 1),
            "[[tls.also]]" => table = "tls.also[0]".to_owned(),
            _ if line.starts_with('[') => table = line.trim_matches(['[', ']']).to_owned(),
            _ if line.contains("\"no/") => {
                let (key, value) = line.split_once(" = ").unwrap();
                let file = folder.path().join(value.split('"').nth(1).unwrap());
                let why = match key {
                    "users" => "is not there; where there never was one, `portcullis user add NAME` makes it",
                    _ => "cannot be read: No such file or directory (os error 2)",
                };
                expected.push(format!("gateway.toml:{number}: {table}.{key}: `{}` {why}", file.display()));
            }
            _ => {}
        }
    }
    assert_eq!(expected.len(), MISSING);
    expected.push(format!("{MISSING} problems in gateway.toml; nothing was started"));
    assert_eq!((code, said.lines().collect::<Vec<_>>()), (2, expected.iter().map(String::as_str).collect()), "{said}");
    // A start ends at the first one, and says the others as well.
    let (code, _, said) = portcullis(folder.path(), &["run"], "");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        (code, &lines[..MISSING]),
        (1, &expected.iter().map(String::as_str).collect::<Vec<_>>()[..MISSING]),
        "{said}"
    );
    assert!(lines[MISSING..].len() == 1 && lines[MISSING].starts_with("portcullis: cannot start: "), "{said}");
}

/// Who mends a slip of the pen and is told of a missing file next has looked twice. Nothing is told that is not so: what stands in a
/// part that cannot be read is not looked for, and what compares two parts waits.
#[test]
fn mistakes_of_the_text_and_of_files_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (_, said) = checked(folder.path(), NOTHING_THERE);
    let files: Vec<&str> = said.lines().take(MISSING).collect();
    for (right, wrong, of_files) in [
        ("access = \"authenticated\"", "access = \"all\"", MISSING),
        ("name = \"app\"", "nam = \"app\"", MISSING),
        ("[server]\n", "[server]\nunknown = 1\n", MISSING),
        ("roles = [\"admin\"]", "roles = [\"ad min\"]", MISSING),
        ("servers = [\"https://127.0.0.1:9000\"]", "servers = [\"https://\"]", MISSING - 3),
        ("algorithms = [\"HS256\"]", "algorithms = [\"none\"]", MISSING - 4),
        ("client_id = \"portcullis\"", "client = \"portcullis\"", MISSING - 3),
        ("store = \"rediss://127.0.0.1:1\"", "store = \"nowhere\"", 0),
    ] {
        assert!(NOTHING_THERE.contains(right), "{right}");
        let (code, said) = checked(folder.path(), &NOTHING_THERE.replacen(right, wrong, 1));
        // One line more shifts those below.
        let place = |line: &str| line.split_once(": ").map(|(_, told)| told.to_owned());
        let is_of_file = |line: &&str| files.iter().any(|file| place(file) == place(line));
        assert_eq!((code, said.lines().filter(is_of_file).count()), (2, of_files), "{wrong}\n{said}");
        let others: Vec<&str> = said.lines().filter(|line| !is_of_file(line)).collect();
        assert!(others.len() > 1 && !others.iter().any(|line| line.contains("/no/")), "{wrong}\n{said}");
        let count = said.lines().count() - 1;
        assert!(others.last().unwrap().starts_with(&format!("{count} problems in ")), "{wrong}\n{said}");
        let numbers: Vec<usize> =
            said.lines().take(count).map(|line| line.split(':').nth(1).unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{said}");
    }
}

/// A folder that cannot be looked into is no folder without a certificate.
#[test]
fn a_development_pair_is_made_only_where_none_is() {
    let folder = tempfile::tempdir().unwrap();
    let within = "self_signed = true\ncertificate = \"gateway.toml/it.pem\"\nprivate_key = \"gateway.toml/it.key\"";
    let (code, said) = checked(folder.path(), &shipped("memory").replace("self_signed = true", within));
    assert!(
        code == 2 && said.contains(": tls.certificate: `") && said.contains("cannot be read: Not a directory"),
        "{said}"
    );
}

/// Whatever is wrong with what is in it. What everybody may know is no secret.
#[test]
fn each_secret_that_others_can_read_is_warned_of_with_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("no")).unwrap();
    let secrets = [
        "admin-token",
        "secret",
        "sentinel",
        "password",
        "users.toml",
        "corp",
        "client.key",
        "hs256",
        "client-key.pem",
    ];
    let (mut table, mut expected, mut issuers) = (String::new(), Vec::new(), 0);
    for (number, line) in (1..).zip(NOTHING_THERE.lines()) {
        match line {
            "[[token]]" => (table, issuers) = (format!("token[{issuers}]"), issuers + 1),
            _ if line.starts_with('[') => table = line.trim_matches(['[', ']']).to_owned(),
            _ if line.contains("\"no/") => {
                let (key, value) = line.split_once(" = ").unwrap();
                let name = value.split('"').nth(1).unwrap();
                let file = folder.path().join(name);
                fs::write(&file, "nothing that is thirty-two bytes or longer").unwrap();
                fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
                if secrets.contains(&name.strip_prefix("no/").unwrap()) {
                    let told = "can be read by others (mode 0640); leave it to its owner (0600)";
                    expected
                        .push(format!("gateway.toml:{number}: {table}.{key}: warning: `{}` {told}", file.display()));
                }
            }
            _ => {}
        }
    }
    assert_eq!(expected.len(), secrets.len());
    let (_, said) = checked(folder.path(), NOTHING_THERE);
    let warned: Vec<&str> = said.lines().filter(|line| line.contains(": warning: ")).collect();
    assert_eq!(warned, expected, "{said}");
}

/// One table of tokens has no number in its path.
#[test]
fn a_file_that_holds_something_else_is_told_at_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["gateway.pem", "gateway.key", "secret", "users.toml", "keys.json", "ca.pem"] {
        fs::write(path(name), "nothing").unwrap();
        fs::set_permissions(path(name), Permissions::from_mode(0o600)).unwrap();
    }
    let text = shipped("memory")
        .replace("self_signed = true", "certificate = \"gateway.pem\"\nprivate_key = \"gateway.key\"")
        .replace("[session]", "[session]\nsecret = { file = \"secret\" }")
        .replace("demo_user", "# demo_user")
        .replace("[\"builtin:whoami\"]", "[\"https://127.0.0.1:9\"]\ntls = { ca = \"ca.pem\" }")
        + "\n[token]\nissuer = \"https://a.example\"\naudience = \"a\"\nalgorithms = [\"ES256\"]\njwks = \"keys.json\"\n";
    let (code, said) = checked(folder.path(), &text);
    let begin = [
        ("\ncertificate = \"gateway.pem\"", "tls.certificate"),
        ("secret = { file", "session.secret"),
        ("users     = ", "login.local.users"),
        ("tls = { ca", "upstream.app.tls"),
        ("jwks = ", "token.jwks"),
    ]
    .map(|(holds, key)| format!("gateway.toml:{}: {key}: ", line(&text, holds.trim_start())));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((code, lines.len()), (2, begin.len() + 1), "{said}");
    assert!(begin.iter().zip(lines).all(|(begin, line)| line.starts_with(begin)), "{begin:?}\n{said}");
    assert!(said.contains("5 problems in gateway.toml"), "{said}");
}

#[test]
fn what_a_start_would_refuse_of_what_an_earlier_one_made_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("embedded:data").replace("[server]", "[server]\nadmin = \"127.0.0.1:0\"");
    assert_eq!(checked(folder.path(), &text).0, 0);
    assert!(!folder.path().join("data").exists(), "a check makes nothing");
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/keys"), "no key").unwrap();
    fs::set_permissions(folder.path().join("data/keys"), Permissions::from_mode(0o600)).unwrap();
    let token = folder.path().join("data/admin-token");
    fs::write(&token, "0123456789abcdefghijklmnopqrstuv\n").unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    let (code, said) = checked(folder.path(), &text);
    let lines: Vec<&str> = said.lines().collect();
    let [operator, keys, count] = lines[..] else { panic!("{said}") };
    let (admin, store) = (line(&text, "admin = \"127"), line(&text, "store        ="));
    assert!(
        operator.starts_with(&format!("gateway.toml:{admin}: server.admin: {}: others can read it", token.display()))
    );
    assert!(keys.starts_with(&format!("gateway.toml:{store}: session.store: ")), "{keys}");
    assert_eq!((code, count), (2, "2 problems in gateway.toml; nothing was started"));
    fs::remove_file(folder.path().join("data/keys")).unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(checked(folder.path(), &text).0, 0);
}

#[test]
fn a_first_user_that_nobody_can_be_called_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory").replace("\"demo\"", "\"De mo\"");
    let (code, said) = checked(folder.path(), &text);
    let begin = format!("gateway.toml:{}: login.local.demo_user: `De mo` is not a user name", line(&text, "De mo"));
    assert!(code == 2 && said.starts_with(&begin), "{said}");
    assert_eq!(portcullis(folder.path(), &["run"], "").0, 1, "nor does a start make one");
}

/// It is no mistake of the gateway's file, and nobody but the operator would notice.
#[test]
fn a_role_of_a_user_that_is_not_declared_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory").replace("demo_user", "# demo_user");
    add_user(folder.path(), &text, "alice", "correct horse battery", &["admin"]);
    assert_eq!(portcullis(folder.path(), &["check"], "").2.lines().count(), 1);
    let users = folder.path().join("users.toml");
    fs::write(&users, fs::read_to_string(&users).unwrap().replace("\"admin\"", "\"amdin\"")).unwrap();
    let (code, said) = checked(folder.path(), &text);
    let expected = format!(
        "gateway.toml:{}: login.local.users: warning: user.alice has the role `amdin`, which `roles` does not declare, so it \
         counts for nothing; did you mean `admin`?",
        line(&text, "users     =")
    );
    assert!(code == 0 && said.lines().next() == Some(&expected), "{said}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let service = Service::start(command.arg("--config").arg(folder.path().join("gateway.toml")));
    assert!(service.says("a role of a local user is not declared").contains("amdin"));
    service.says("listening on");
    service.hang_up();
    assert!(service.says("a role of a local user is not declared").contains("amdin"));
}

/// Names of two places at one application are warned of where they are told alike and need not be one person's.
#[test]
fn names_of_several_places_at_one_application_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "x".repeat(32)).unwrap();
    let issuer = |name: &str, more: &str| {
        format!(
            "[[token]]\nissuer = \"https://{name}.example\"\naudience = \"g\"\nalgorithms = [\"HS256\"]\n\
             secret = {{ file = \"secret\" }}\n{more}\n"
        )
    };
    let two = |accept: &str, upstream: &str| {
        format!(
            "[upstream.api]\nservers = [\"http://127.0.0.1:1\"]\n[[route]]\nname = \"api\"\npath = \"/api\"\n\
             access = \"authenticated\"\naccept = {accept}\nupstream = \"{upstream}\"\n"
        )
    };
    let (one, prefixed) = (issuer("one", ""), issuer("one", "user_prefix = \"one:\""));
    let other = issuer("other", "");
    for (more, warned) in [
        (
            format!("{one}{}", two("[\"token\"]", "app")),
            Some("`app` is reached by names of `local` as well as of `https://one"),
        ),
        (format!("{one}{}", two("[\"session\", \"token\"]", "api")), Some("`api` is reached by names of `local`")),
        (format!("{one}{}", two("[\"token\"]", "api")), None),
        (format!("{prefixed}{}", two("[\"token\"]", "app")), None),
        (
            format!("{one}{other}{}", two("[\"token\"]", "api")),
            Some("`api` is reached by names of `https://one.example` as well as of `https://other.example`"),
        ),
        (format!("{prefixed}{other}{}", two("[\"token\"]", "api")), None),
    ] {
        let (code, said) = checked(folder.path(), &format!("{}\n{more}", shipped("memory")));
        let warnings: Vec<&str> = said.lines().filter(|line| line.contains(".user_prefix: warning: ")).collect();
        assert_eq!((code, warnings.len()), (0, usize::from(warned.is_some())), "{more}{said}");
        assert!(warned.is_none_or(|warned| warnings[0].contains(warned)), "{said}");
    }
}

#[test]
fn a_preflight_for_a_method_that_the_route_refuses_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let with = |methods: &str| {
        let preflight = format!("\npreflight = {{ origins = [\"https://a.example\"], methods = {methods} }}");
        shipped("memory")
            .replace("methods  = [\"GET\", \"HEAD\"]", &format!("methods  = [\"GET\", \"HEAD\"]{preflight}"))
    };
    let text = with("[\"GET\", \"PUT\"]");
    let (code, said) = checked(folder.path(), &text);
    let begin =
        format!("gateway.toml:{}: route[2].preflight.methods: warning: `PUT` is not in ", line(&text, "preflight = "));
    assert!(code == 0 && said.lines().count() == 2 && said.starts_with(&begin), "{said}");
    let (code, said) = checked(folder.path(), &with("[\"GET\"]"));
    assert!(code == 0 && said.lines().count() == 1, "{said}");
}

/// attacks: a rule that holds for less than was meant, and what it was written for falls under a wider one
#[test]
fn a_path_that_is_a_pattern_elsewhere_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let with = |path: &str| shipped("memory").replace("path     = \"/admin\"", &format!("path     = \"{path}\""));
    for (path, segment) in
        [("/admin/*", "*"), ("/admin*", "admin*"), ("/admin/.*", ".*"), ("/a/:id/x", ":id"), ("/a/{id}/x", "{id}")]
    {
        let text = with(path);
        let (code, said) = checked(folder.path(), &text);
        let begin = format!("gateway.toml:{}: route[1].path: warning: `{segment}` stands for ", line(&text, path));
        assert!(code == 0 && said.lines().count() == 2 && said.starts_with(&begin), "{said}");
    }
    for path in ["/admin", "/admin.x", "/projects:batch", "/~admin", "/$metadata"] {
        let (code, said) = checked(folder.path(), &with(path));
        assert!(code == 0 && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn an_address_that_nobody_can_have_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "x").unwrap();
    fs::set_permissions(folder.path().join("secret"), Permissions::from_mode(0o600)).unwrap();
    let with = |list: &str| {
        format!(
            "{}\n[login.oidc.corp]\nissuer = \"https://id.example\"\nclient_id = \"g\"\nuser_prefix = \"corp:\"\n\
             client_secret = {{ file = \"secret\" }}\n{list}\n",
            shipped("memory")
        )
    };
    for (key, nobody, somebody) in [
        ("allow_domains", "@example.com", "example.com"),
        ("allow_domains", "*.example.com", "Example.com"),
        ("allow_domains", "bob@example.com", "bücher.example"),
        ("allow_emails", "@example.com", "bob@example.com"),
        ("allow_emails", "*@example.com", "Bob.O'Hara+x@example.com"),
        ("allow_emails", "example.com", "\\\"a b@c\\\"@example.com"),
    ] {
        let text = with(&format!("{key} = [\"{somebody}\", \"{nobody}\"]"));
        let (code, said) = checked(folder.path(), &text);
        let begin = format!("gateway.toml:{}: login.oidc.corp.{key}: warning: `{nobody}` is ", line(&text, key));
        assert!(code == 0 && said.lines().count() == 2 && said.starts_with(&begin), "{said}");
    }
}

#[test]
fn what_stands_twice_is_called_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for (more, told) in [
        ("[server]\nlisten = \"127.0.0.1:1\"", "`server` stands twice"),
        ("path = \"/x\"", "`path` stands twice"),
        ("[route]\nname = \"x\"", "`route` stands twice; write [[route]] for each"),
    ] {
        let text = format!("{}{more}\n", shipped("memory"));
        let expected = format!("gateway.toml:{}: {told}", 1 + shipped("memory").lines().count());
        let (code, said) = checked(folder.path(), &text);
        assert_eq!((code, said.lines().next()), (2, Some(expected.as_str())), "{said}");
    }
}
