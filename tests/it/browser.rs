//! The pages in Debian's headless Chromium, driven over WebDriver. Screenshots are kept in `target/screenshots/`, to be looked at.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use crate::support::{between, run};

/// The key under which WebDriver names an element (W3C WebDriver §12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with a fresh profile; ends with the test.
pub struct Browser {
    driver: Child,
    session: String,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = Command::new("curl").args(["-s", "--max-time", "10", "-X", "DELETE", &self.session]).output();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn ask(method: &str, address: &str, body: &Value) -> Value {
    let mut command = Command::new("curl");
    command.args(["-s", "--max-time", "60", "-X", method, address]);
    if method == "POST" {
        command.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
    }
    let said = command.output().unwrap().stdout;
    let said: Value = serde_json::from_slice(&said).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&said)));
    said["value"].clone()
}

/// A driver and its port. It takes any that is free over IPv4, and ends where the same one is not over IPv6.
fn driver() -> Option<(Child, String)> {
    let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut driver = driver.unwrap();
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    match lines.find(|line| line.as_ref().unwrap().contains("successfully on port")) {
        Some(line) => Some((driver, between(&line.unwrap(), "on port ", ".").to_owned())),
        None => {
            driver.wait().unwrap();
            None
        }
    }
}

impl Browser {
    pub fn open(width: u32, height: u32, dark: bool) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = (0..5).find_map(|_| driver()).expect("chromedriver listens");
        let mut browser = Browser { driver, session: String::new(), _profile: profile };
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-quic".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            // `acceptInsecureCerts` lets no service worker in.
            "--ignore-certificate-errors".into(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        if dark {
            arguments.push("--blink-settings=preferredColorScheme=0".into());
        }
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": arguments },
        } } });
        let base = format!("http://127.0.0.1:{port}/session");
        let session = ask("POST", &base, &capabilities);
        let id = session["sessionId"].as_str().unwrap_or_else(|| panic!("{session}"));
        browser.session = format!("{base}/{id}");
        browser
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        ask("POST", &format!("{}/{path}", self.session), body)
    }

    pub fn go(&self, address: &str) {
        self.post("url", &json!({ "url": address }));
    }

    pub fn address(&self) -> String {
        ask("GET", &format!("{}/url", self.session), &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    fn element(&self, css: &str) -> String {
        let found = self.post("element", &json!({ "using": "css selector", "value": css }));
        found[ELEMENT].as_str().unwrap_or_else(|| panic!("{css} at {}: {found}", self.address())).to_owned()
    }

    pub fn write(&self, css: &str, text: &str) {
        self.post(&format!("element/{}/value", self.element(css)), &json!({ "text": text }));
    }

    pub fn click(&self, css: &str) {
        self.post(&format!("element/{}/click", self.element(css)), &json!({}));
    }

    pub fn text(&self) -> String {
        // Asked of the page in one step: between two pages there is no body, and that is no mistake.
        self.run("return document.body ? document.body.innerText : ''").as_str().unwrap_or_default().to_owned()
    }

    /// Run a script in the page; what it returns, or what the promise does that it returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Forget the cookies of this site.
    pub fn forget(&self) {
        ask("DELETE", &format!("{}/cookie", self.session), &Value::Null);
    }

    /// Open a tab and look at it; its handle leads back to it.
    pub fn tab(&self) -> String {
        let handle = self.post("window/new", &json!({ "type": "tab" }))["handle"].as_str().unwrap().to_owned();
        self.look_at(&handle);
        handle
    }

    /// Look at the tab that is not this one.
    pub fn first_tab(&self, other: &str) {
        let all = ask("GET", &format!("{}/window/handles", self.session), &Value::Null);
        let first = all.as_array().unwrap().iter().filter_map(Value::as_str).find(|handle| *handle != other);
        self.look_at(first.unwrap());
    }

    /// Look at another tab.
    pub fn look_at(&self, handle: &str) {
        self.post("window", &json!({ "handle": handle }));
    }

    pub fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(15);
        while !holds() {
            assert!(Instant::now() < until, "{what}: {} shows {}", self.address(), self.text());
        }
    }

    /// Keep a picture, and see that it is one.
    pub fn picture(&self, name: &str) {
        let taken = ask("GET", &format!("{}/screenshot", self.session), &Value::Null);
        let png = base64::engine::general_purpose::STANDARD.decode(taken.as_str().unwrap()).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 2_000, "{name}");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/screenshots");
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(format!("{folder}/{name}.png"), png).unwrap();
    }
}

#[test]
fn a_person_signs_in_and_out_in_a_browser() {
    let running = run("memory");
    let base = format!("https://localhost:{}", running.gateway.address().port());
    for (width, height, dark, name) in [(390, 844, false, "phone-light"), (1280, 900, true, "desktop-dark")] {
        let browser = Browser::open(width, height, dark);
        browser.go(&format!("{base}/reports?year=2026&q=%20x"));
        browser.picture(&format!("{name}-sign-in"));
        browser.write("#user", "demo");
        browser.write("#password", "not the password");
        browser.click("button");
        browser.until("the page says what went wrong", || browser.text().contains("is not right"));
        browser.picture(&format!("{name}-wrong"));
        browser.write("#password", &running.password);
        browser.click("button");
        browser.until("back at the page that was asked for", || {
            browser.address() == format!("{base}/reports?year=2026&q=%20x")
        });
        assert!(browser.text().contains("x-forwarded-user"), "{}", browser.text());
        browser.picture(&format!("{name}-application"));
        browser.go(&format!("{base}/.portcullis/sessions"));
        assert!(browser.text().contains("this device"), "{}", browser.text());
        browser.picture(&format!("{name}-sessions"));
        browser.go(&format!("{base}/.portcullis/whoami"));
        assert!(browser.text().contains("You are demo"), "{}", browser.text());
        browser.picture(&format!("{name}-whoami"));
        browser.click("button");
        browser.until("signed out", || browser.text().contains("You are signed out"));
        browser.picture(&format!("{name}-signed-out"));
        browser.go(&format!("{base}/reports"));
        assert!(browser.address().contains("/.portcullis/login"), "{}", browser.address());
    }
}
