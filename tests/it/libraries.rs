//! Tokens made and read by the libraries that programs use: PyJWT and jose of npm. What they make is accepted, and what this gateway
//! signs they verify, by its published keys alone.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bearer::API;
use crate::support::{Running, run_text, shipped};
use crate::tools;

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/pyjwt.py");

/// The command of one of the two libraries.
fn library(name: &str) -> Command {
    if name == "pyjwt" {
        let mut command = tools::python("python");
        command.arg(PYTHON);
        return command;
    }
    let mut command = tools::python("node");
    // A module is looked for beside where it is named, so the script is named there.
    command.current_dir(tools::tools().join("node")).args(["--input-type=module", "-e"]);
    command.args([include_str!("../programs/jose.mjs"), "--"]);
    command
}

fn run(name: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = library(name);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

fn made(name: &str, folder: &Path) -> Vec<(String, String)> {
    let said = run(name, &["make", folder.to_str().unwrap()], "").unwrap();
    said.lines().map(|line| line.split_once(' ').unwrap()).map(|(alg, token)| (alg.into(), token.into())).collect()
}

const ROUTES: &str = r#"
[[route]]
name = "reports"
path = "/reports"
access = "authenticated"
accept = ["session", "token"]
signed_identity = "portcullis"
upstream = "app"
[[route]]
name = "older"
path = "/older"
access = "authenticated"
signed_identity = "X-Who-Calls"
signed_audience = "older-app"
upstream = "app"
[[route]]
name = "bare"
path = "/public/bare"
access = "public"
signed_identity = "pomerium"
upstream = "app"
"#;

#[test]
fn what_the_libraries_make_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let (python, node) = (made("pyjwt", folder.path()), made("jose", folder.path()));
    let mut text = format!("{}{API}{ROUTES}[signing]\nissuer = \"https://gateway.example\"\n", shipped("memory"));
    for (alg, _) in &python {
        let keys = match alg.as_str() {
            "HS256" => "secret = { file = \"HS256.secret\" }".to_owned(),
            _ => format!("key = \"{alg}.pem\""),
        };
        let issuer = format!("[[token]]\nissuer = \"https://{alg}.example\"\naudience = \"gateway\"");
        text.push_str(&format!("{issuer}\nalgorithms = [\"{alg}\"]\n{keys}\n"));
    }
    text.push_str(
        "[[token]]\nissuer = \"https://jose.example\"\naudience = \"gateway\"\njwks = \"jose.json\"\n\
         algorithms = [\"ES256\", \"ES384\", \"EdDSA\", \"RS256\", \"PS256\"]\nroles_claim = \"realm.roles\"\n\
         role_map = { \"eng-admins\" = \"admin\" }\n",
    );
    let running = run_text(folder, &text);
    assert_eq!((python.len(), node.len()), (8, 5));
    for (prefix, all) in [("py", &python), ("js", &node)] {
        for (alg, token) in all {
            let said = running.curl("/api", &["-H", &format!("Authorization: Bearer {token}")]);
            assert_eq!(said.status, 200, "{prefix} {alg}: {:?}", running.lines.0.lock().unwrap().last());
            assert!(said.body.contains(&format!("x-forwarded-user: {prefix}-{alg}")), "{}", said.body);
            assert_eq!(said.body.contains("x-forwarded-groups: admin"), prefix == "js");
        }
    }
    // The token of one issuer under the name of another: its keys are not the other's.
    let (_, token) = &python[0];
    let parts: Vec<&str> = token.split('.').collect();
    let said = running.curl("/api", &["-H", &format!("Authorization: Bearer {}.{}.{}", parts[0], parts[1], "AAAA")]);
    assert_eq!(said.status, 401);
}

/// The statement that an application received.
fn statement(running: &Running, path: &str, header: &str) -> Option<String> {
    let said =
        running.curl(path, &["-H", &format!("{header}: forged"), "-H", &format!("{}: x", header.replace('-', "_"))]);
    assert_eq!(said.status, 200, "{}", said.body);
    let found: Vec<&str> =
        said.body.lines().filter(|line| line.to_lowercase().replace('_', "-").starts_with(header)).collect();
    assert!(found.len() <= 1 && !said.body.contains("forged"), "no client says who calls: {}", said.body);
    found.first().map(|line| line.split_once(": ").unwrap().1.to_owned())
}

#[test]
fn what_the_gateway_signs_the_libraries_verify() {
    for algorithm in ["ES256", "EdDSA"] {
        let signing = format!("[signing]\nissuer = \"https://gateway.example\"\nalgorithm = \"{algorithm}\"\n");
        let routes = ROUTES.replace("\"session\", \"token\"", "\"session\"").replace("[\"token\"]", "[\"session\"]");
        let running = run_text(tempfile::tempdir().unwrap(), &format!("{}{routes}{signing}", shipped("memory")));
        running.sign_in("/", &running.password);
        let token = statement(&running, "/reports", "x-portcullis-identity").unwrap();
        assert_eq!(statement(&running, "/reports", "x-portcullis-identity").unwrap(), token, "signed once");
        let other = statement(&running, "/older", "x-who-calls").unwrap();
        assert_eq!(statement(&running, "/public/bare", "x-pomerium-jwt-assertion"), None, "nobody calls there");
        assert_eq!(statement(&running, "/", "x-who-calls"), None, "owned on every route");

        let keys = running.curl("/.portcullis/jwks.json", &[]);
        assert_eq!(keys.header("content-type").as_deref(), Some("application/jwk-set+json"));
        let tag = keys.header("etag").unwrap();
        let known = running.curl("/.portcullis/jwks.json", &["-H", &format!("If-None-Match: {tag}")]);
        assert_eq!((known.status, known.body.as_str()), (304, ""));
        let path = running.folder.path().join("published.json");
        std::fs::write(&path, &keys.body).unwrap();
        assert!(!keys.body.contains("\"d\""), "no private part");
        let path = path.to_str().unwrap();
        for library in ["pyjwt", "jose"] {
            let verify = |issuer, audience, token: &str| run(library, &["verify", path, issuer, audience], token);
            let said = verify("https://gateway.example", "reports", &token).unwrap();
            let claims: Value = serde_json::from_str(&said).unwrap();
            assert_eq!((&claims["sub"], &claims["proof"]), (&"demo".into(), &"session".into()), "{library}");
            assert_eq!(claims["roles"], serde_json::json!(["admin", "staff"]));
            assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
            assert!(verify("https://gateway.example", "older-app", &other).is_ok());
            assert!(verify("https://gateway.example", "reports", &other).is_err(), "for one application alone");
            assert!(verify("https://other.example", "reports", &token).is_err());
            let cut = token.len() - 8;
            assert!(verify("https://gateway.example", "reports", &format!("{}AAAAAAAA", &token[..cut])).is_err());
        }
    }
}
