//! Real OpenID providers, and a browser's way through them with curl.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Running, Said, between, run_text, shipped};
use crate::tools::{Service, program, python};

/// The certified provider of npm. It ends with the test.
pub struct Provider {
    _service: Service,
    folder: tempfile::TempDir,
    pub port: u16,
}

impl Provider {
    /// Start it; it answers nothing but 503 until it is configured.
    pub fn start() -> Provider {
        let folder = tempfile::tempdir().unwrap();
        let service = Provider::service(&folder, 0);
        let port = service.says_port("provider on port ");
        Provider { _service: service, folder, port }
    }

    fn service(folder: &tempfile::TempDir, port: u16) -> Service {
        let mut command = python("node");
        command.arg(program("oidc_provider.mjs")).arg(folder.path()).arg(port.to_string());
        // It tells the gateway of sign-outs, whose certificate is made for the test.
        Service::start(command.env("NODE_TLS_REJECT_UNAUTHORIZED", "0"))
    }

    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kill it, and return what starts it again at the same address.
    pub fn kill(self) -> Killed {
        let Provider { _service, folder, port } = self;
        drop(_service);
        Killed { folder, port }
    }

    fn tell(&self, path: &str, what: &Value) {
        let address = format!("{}/test/{path}", self.issuer());
        let told = Command::new("curl").args(["-sf", "--max-time", "20", "-d", &what.to_string(), &address]).output();
        let told = told.unwrap();
        assert!(told.status.success(), "{path}: {}", String::from_utf8_lossy(&told.stdout));
    }

    /// A token as it would sign it.
    pub fn sign(&self, wanted: &Value) -> String {
        let address = format!("{}/test/sign", self.issuer());
        let said = Command::new("curl").args(["-sf", "-d", &wanted.to_string(), &address]).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    }

    /// What was asked of it.
    pub fn seen(&self, what: &str) -> u64 {
        let said = Command::new("curl").args(["-sf", &format!("{}/test/seen", self.issuer())]).output().unwrap();
        serde_json::from_slice::<Value>(&said.stdout).unwrap()[what].as_u64().unwrap()
    }

    /// Its accounts from now on.
    pub fn accounts(&self, accounts: &Value) {
        self.tell("accounts", accounts);
    }

    /// Make it: the gateway is a client, and whatever else is asked for.
    pub fn configure(&self, running: &Running, more: &Value) {
        self.configure_at(&[("corp", running)], more);
    }

    /// The same with a client for each of several gateways, or names of it in one.
    pub fn configure_at(&self, clients: &[(&str, &Running)], more: &Value) {
        let base = |running: &Running| format!("https://localhost:{}", running.gateway.address().port());
        let client = |(name, running): &(&str, &Running)| {
            json!({
                "client_id": "portcullis",
                "client_secret": "a secret: with + signs",
                "grant_types": ["authorization_code", "refresh_token"],
                "redirect_uris": [format!("{}/.portcullis/oidc/{name}/callback", base(running))],
                "post_logout_redirect_uris": [format!("{}/.portcullis/logout", base(running))],
                "backchannel_logout_uri": format!("{}/.portcullis/oidc/{name}/backchannel-logout", base(running)),
                "backchannel_logout_session_required": true,
            })
        };
        let mut wanted = json!({ "clients": clients.iter().map(client).collect::<Vec<_>>(), "accounts": people() });
        for (name, value) in more.as_object().into_iter().flatten() {
            match (wanted.get_mut(name), value) {
                (Some(Value::Array(list)), Value::Array(others)) => list.extend(others.iter().cloned()),
                _ => wanted[name] = value.clone(),
            }
        }
        if let Some(client) = more.get("client").and_then(Value::as_object) {
            for (name, value) in client {
                wanted["clients"][0][name] = value.clone();
            }
        }
        self.tell("configure", &wanted);
    }
}

/// A provider that was killed.
pub struct Killed {
    folder: tempfile::TempDir,
    port: u16,
}

impl Killed {
    pub fn start_again(self) -> Provider {
        let service = Provider::service(&self.folder, self.port);
        service.says_port("provider on port ");
        Provider { _service: service, folder: self.folder, port: self.port }
    }
}

/// Who has an account.
pub fn people() -> Value {
    json!({
        "alice": { "name": "Alice Example", "email": "alice@corp.example", "email_verified": true,
                   "groups": ["eng-admins", "lunch"] },
        "bob": { "name": "Bob", "email": "bob@corp.example", "email_verified": false, "groups": ["eng"] },
        "mallory": { "name": "Mallory", "email": "mallory@evil.example", "email_verified": true, "groups": [] },
    })
}

/// The shipped configuration with these sections of `[login]` in place of its own.
pub fn text(logins: &str) -> String {
    let text = shipped("memory");
    let (before, rest) = text.split_once("[login.local]").unwrap();
    let (_, after) = rest.split_once("[identity_headers]").unwrap();
    format!("{before}{logins}\n[identity_headers]{after}")
}

/// A provider's section.
pub fn section(name: &str, issuer: &str, more: &str) -> String {
    format!(
        "[login.oidc.{name}]\nissuer = \"{issuer}\"\nplain_http = true\nclient_id = \"portcullis\"\n\
         client_secret = {{ file = \"secret\" }}\nroles_claim = \"groups\"\n\
         role_map = {{ eng-admins = \"admin\", eng = \"staff\" }}\n{more}\n"
    )
}

/// A gateway from this text, in a folder that holds the client's secret.
pub fn gateway(text: &str) -> Running {
    gateway_in(tempfile::tempdir().unwrap(), text)
}

/// The same in a folder that holds more.
pub fn gateway_in(folder: tempfile::TempDir, text: &str) -> Running {
    std::fs::write(folder.path().join("secret"), "a secret: with + signs\n").unwrap();
    run_text(folder, text)
}

/// A gateway whose people sign in at this provider alone, already known to it.
pub fn before(provider: &Provider, more: &str) -> Running {
    let running = gateway(&text(&section("corp", &provider.issuer(), more)));
    provider.configure(&running, &json!({}));
    running
}

const PERSON: [&str; 2] = ["-H", "accept: text/html"];

impl Running {
    pub fn base(&self) -> String {
        format!("https://localhost:{}", self.gateway.address().port())
    }

    fn absolute(&self, from: &str, location: &str) -> String {
        if location.starts_with("http") {
            return location.to_owned();
        }
        let end = from.match_indices('/').nth(2).map_or(from.len(), |(at, _)| at);
        format!("{}{location}", &from[..end])
    }

    /// Follow redirects from this address until a page, or until the gateway's callback has answered.
    pub fn follow(&self, start: &str) -> (String, Said) {
        let mut address = self.absolute(&format!("{}/", self.base()), start);
        for _ in 0..12 {
            let said = self.visit(&address, &PERSON);
            let called_back = address.starts_with(&self.base()) && address.contains("/callback");
            match said.header("location").filter(|_| (300..400).contains(&said.status) && !called_back) {
                Some(location) => address = self.absolute(&address, &location),
                None => return (address, said),
            }
        }
        panic!("in circles at {address}");
    }

    /// The provider's page for somebody who is on the way to `path`.
    pub fn to_provider(&self, path: &str) -> String {
        let (address, said) = self.follow(path);
        assert!(said.body.contains("Sign in to the provider"), "{address}: {} {}", said.head, said.body);
        address
    }

    /// Answer that page; returns the callback's address, not asked yet.
    pub fn answer(&self, page: &str, form: &str) -> String {
        let sent = self.visit(page, &["-d", form]);
        let mut address = self.absolute(page, &sent.header("location").unwrap_or_else(|| panic!("{}", sent.body)));
        while !address.contains("/callback") {
            let said = self.visit(&address, &PERSON);
            let location = said.header("location").unwrap_or_else(|| panic!("{address}: {} {}", said.head, said.body));
            address = self.absolute(&address, &location);
        }
        address
    }

    /// Sign in as this account on the way to `path`; returns what the callback said.
    pub fn sign_in_there(&self, path: &str, account: &str) -> Said {
        let page = self.to_provider(path);
        let callback = self.answer(&page, &format!("login={account}"));
        self.visit(&callback, &PERSON)
    }
}

/// A parameter of an address.
pub fn parameter(address: &str, name: &str) -> String {
    let rest = between(&format!("{address}&"), &format!("{name}="), "&").to_owned();
    form_urlencoded::parse(format!("x={rest}").as_bytes()).next().unwrap().1.into_owned()
}
