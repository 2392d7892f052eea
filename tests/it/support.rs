//! The harness: the real gateway in process, over TLS on port 0, from configuration text, asked with the real curl. What a
//! test starts ends with it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use portcullis::clock::{Clock, SystemClock};
use portcullis::config::Config;
use portcullis::proxy::Records;
use portcullis::session::SessionStore;
use portcullis::startup::{Gateway, ReloadError, Setup, start};

use crate::unasked;

#[derive(Default)]
pub struct Lines(pub Mutex<Vec<String>>);

impl Records for Lines {
    fn line(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// A running gateway and what it wrote down.
pub struct Running {
    pub gateway: Gateway,
    pub folder: tempfile::TempDir,
    pub lines: Arc<Lines>,
    pub password: String,
}

/// What curl said.
pub struct Said {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// The shipped configuration on port 0, over this store.
pub fn run(store: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder, store)
}

/// The same in a folder that may hold an earlier run's files.
pub fn run_in(folder: tempfile::TempDir, store: &str) -> Running {
    run_text(folder, &shipped(store))
}

/// The shipped configuration over this store.
pub fn shipped(store: &str) -> String {
    include_str!("../../gateway.toml").replace("127.0.0.1:8443", "127.0.0.1:0").replace("embedded:data", store)
}

/// From this text.
pub fn run_text(folder: tempfile::TempDir, text: &str) -> Running {
    run_with(folder, text, Arc::new(SystemClock), None)
}

/// From this text, with a clock and a store of the test's own.
pub fn run_with(
    folder: tempfile::TempDir,
    text: &str,
    clock: Arc<dyn Clock>,
    store: Option<Arc<dyn SessionStore>>,
) -> Running {
    let config = Config::parse(text, "gateway.toml", folder.path()).unwrap_or_else(|errors| panic!("{errors}"));
    let lines = Arc::new(Lines::default());
    let setup = Setup { config: config.into(), clock, records: lines.clone(), store };
    let gateway = start(setup).unwrap();
    let password = gateway.demo().map(|demo| demo.password.clone()).unwrap_or_default();
    Running { gateway, folder, lines, password }
}

impl Running {
    /// Read this text in the place of the file that it runs from.
    pub fn reload(&self, text: &str) -> Result<(), ReloadError> {
        let config =
            Config::parse(text, "gateway.toml", self.folder.path()).unwrap_or_else(|errors| panic!("{errors}"));
        self.gateway.reload(config.into())
    }

    /// Its TLS port.
    pub fn port(&self) -> u16 {
        self.gateway.address().port()
    }

    /// The cookies of this test's browser, as curl keeps them.
    pub fn jar(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("jar")).unwrap()
    }

    /// The session's `Cookie` line.
    pub fn cookie(&self) -> String {
        let jar = self.jar();
        let value = jar.lines().find_map(|line| line.split_once("\t__Host-portcullis\t")).expect("signed in").1;
        format!("__Host-portcullis={value}")
    }

    /// Ask with curl, with the cookies of this test's browser.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Said {
        self.visit(&format!("https://localhost:{}{path}", self.gateway.address().port()), arguments)
    }

    /// The same at any address.
    pub fn visit(&self, address: &str, arguments: &[&str]) -> Said {
        let jar = self.folder.path().join("jar");
        let jar = jar.to_str().unwrap();
        let output = Command::new("curl")
            .args(["-sk", "-i", "--path-as-is", "--max-time", "20", "-b", jar, "-c", jar])
            .args(arguments)
            .arg(address)
            .output()
            .unwrap();
        let said = Said::read(output);
        forget(jar, &said);
        // What another server shows of this browser's cookies is no matter of this gateway.
        let is_own = address.starts_with(&format!("https://localhost:{}/", self.port()));
        if is_own { self.checked(said, arguments) } else { said }
    }

    /// What holds of every answer and of every line that was written so far. What a test sends in another place than a cookie's
    /// an application may show.
    fn checked(&self, said: Said, sent: &[&str]) -> Said {
        let mut secrets = vec![self.password.clone()];
        let jar = std::fs::read_to_string(self.folder.path().join("jar")).unwrap_or_default();
        let own = |line: &str| Some(line.split_once("\t__Host-portcullis\t")?.1.to_owned());
        secrets.extend(jar.lines().filter_map(own));
        let unsent: Vec<String> =
            secrets.iter().filter(|secret| !sent.iter().any(|argument| argument.contains(*secret))).cloned().collect();
        unasked::text(&said.body, &unsent);
        self.lines.0.lock().unwrap().iter().for_each(|line| unasked::line(line, &secrets));
        said
    }

    /// The same without them.
    pub fn alone(&self, path: &str, arguments: &[&str]) -> Said {
        let address = format!("https://localhost:{}{path}", self.gateway.address().port());
        let mut asked = Command::new("curl");
        asked.args(["-sk", "-i", "--path-as-is", "--max-time", "20"]).args(arguments).arg(address);
        self.checked(Said::read(asked.output().unwrap()), arguments)
    }

    /// Sign in as `demo` from the page that was asked for.
    pub fn sign_in(&self, start: &str, password: &str) -> Said {
        let page = self.curl(start, &["-H", "accept: text/html"]);
        let page = match page.header("location") {
            Some(location) => self.curl(&location, &[]),
            None => self.curl("/.portcullis/login", &[]),
        };
        self.fill_in(&page, "demo", password)
    }

    /// Sign in as somebody else, with a new browser.
    pub fn sign_in_as(&self, user: &str, password: &str) -> Said {
        std::fs::write(self.folder.path().join("jar"), "").unwrap();
        self.fill_in(&self.curl("/.portcullis/login", &[]), user, password)
    }

    /// Send the sign-in form of this page.
    pub fn fill_in(&self, page: &Said, user: &str, password: &str) -> Said {
        let state = format!("state={}", between(&page.body, "name=\"state\" value=\"", "\""));
        let (user, password) = (format!("user={user}"), format!("password={password}"));
        let fields = ["--data-urlencode", &user, "--data-urlencode", &state, "--data-urlencode", &password];
        self.curl("/.portcullis/login", &fields)
    }
}

/// Add a user, before the gateway of this configuration starts there, with the program's own command.
pub fn add_user(folder: &std::path::Path, text: &str, name: &str, password: &str, roles: &[&str]) {
    let file = folder.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["user", "--config"]).arg(file).args(["add", name, "--password-stdin"]);
    for role in roles {
        command.args(["--role", role]);
    }
    let mut adding = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    adding.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    assert!(adding.wait().unwrap().success(), "{name} is not added");
}

/// Which entry of a name the user file in this folder has.
pub fn entry_of(folder: &std::path::Path, name: &str) -> u64 {
    portcullis::login::users::Users::read(&folder.join("users.toml")).unwrap().user[name].entry()
}

/// curl 7.88 does not drop every cookie that an answer clears.
fn forget(jar: &str, said: &Said) {
    let gone: Vec<&str> = said.head.lines().filter(|line| line.contains("Max-Age=0")).collect();
    if !gone.is_empty() {
        let cleared = |line: &&str| {
            let name = line.split('\t').nth(5);
            name.is_some_and(|name| gone.iter().any(|gone| gone.contains(&format!(": {name}="))))
        };
        let kept = std::fs::read_to_string(jar).unwrap();
        let lines: Vec<&str> = kept.lines().filter(|line| !cleared(line)).collect();
        std::fs::write(jar, lines.join("\n") + "\n").unwrap();
    }
}

impl Said {
    pub fn read(output: std::process::Output) -> Said {
        // A close frame is no text; whether one arrives before the connection ends is not what a test reads heads for.
        let text = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        let (head, body) = text.split_once("\n\n").unwrap_or_else(|| panic!("no head: {text}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let fields: http::HeaderMap = fields
            .filter_map(|(name, value)| Some((name.parse::<http::HeaderName>().ok()?, value.parse().ok()?)))
            .collect();
        unasked::head(status, &fields, head.starts_with("HTTP/2"));
        Said { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }
}

/// What stands between two texts.
pub fn between<'t>(text: &'t str, before: &str, after: &str) -> &'t str {
    let from = text.find(before).unwrap_or_else(|| panic!("{before} not in {text}")) + before.len();
    &text[from..from + text[from..].find(after).unwrap()]
}
