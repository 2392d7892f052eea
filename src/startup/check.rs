//! What a start would read, looked at without one. One decision: everything is looked at, whatever is wrong with the rest, by the
//! functions that a start reads it with; each mistake is told at the key that names the file. Makes nothing and listens on nothing.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::admin::Token;
use crate::causes;
use crate::config::{
    Config, LocalLogin, OidcClientAuth, OidcLogin, Problem, RedisDeployment, RedisStore, Secret, Store, TokenIssuer,
    TokenKeys, Upstream, did_you_mean,
};
use crate::login::Login;
use crate::login::users::{Users, canonical};
use crate::server::tls::TlsError;
use crate::server::{CertificateFiles, Certificates, Wrong, tls};
use crate::session::SessionKeys;
use crate::upstream::Sockets;

use super::files::{certificate_files, read_secret};
use super::redis::redis_options;
use super::secrets::readable;
use super::tokens::verifier;
use super::upstreams::{is_secure, live_upstream};
use super::{StartError, descriptors, oidc, worker_count};

/// Something wrong beyond the text.
#[derive(Clone, Debug)]
pub struct Flaw {
    /// Where the configuration names it.
    pub at: Problem,
    /// Whether nothing could be served with it, or not all of it; otherwise it is worth knowing.
    pub is_fatal: bool,
}

/// Everything that `portcullis check` adds to the text's own mistakes, by line.
pub fn check(config: &Config) -> Vec<Flaw> {
    let mut looking = Looking { config, flaws: Vec::new() };
    looking.certificates();
    looking.session();
    looking.operator();
    config.upstreams.iter().for_each(|upstream| looking.upstream(upstream));
    for (index, issuer) in config.tokens.iter().enumerate() {
        looking.issuer(&config.token_table(index), issuer);
    }
    config.oidc.iter().for_each(|login| looking.provider(login));
    config.local.iter().for_each(|local| looking.users(local));
    for (key, message) in readable(config) {
        looking.say(&key, message, false);
    }
    let doubt = descriptors::shares(config, worker_count(config), descriptors::at_most()).doubt;
    if let Some(doubt) = doubt {
        looking.say("limits.connections", doubt, false);
    }
    looking.flaws.extend(config.doubts().into_iter().map(|at| Flaw { at, is_fatal: false }));
    looking.flaws.sort_by(|one, other| one.at.cmp(&other.at));
    looking.flaws
}

/// Say what a check warns of, of the file itself, of files with secrets and of the roles of local users.
pub(super) fn warn(config: &Config, login: &Login) {
    for (_, message) in readable(config) {
        tracing::warn!("{message}");
    }
    for doubt in config.doubts() {
        tracing::warn!(line = doubt.line, "{}: {}", doubt.key, doubt.message);
    }
    for (user, role) in login.undeclared(&|role| config.roles.id(role).is_some()) {
        tracing::warn!(%user, %role, "a role of a local user is not declared, so it counts for nothing");
    }
}

struct Looking<'c> {
    config: &'c Config,
    flaws: Vec<Flaw>,
}

impl Looking<'_> {
    fn say(&mut self, key: &str, message: String, is_fatal: bool) {
        let at = Problem { line: self.config.lines.of(key), key: key.to_owned(), message };
        self.flaws.push(Flaw { at, is_fatal });
    }

    fn wrong(&mut self, key: &str, message: impl Into<String>) {
        self.say(key, message.into(), true);
    }

    /// Whether a file can be read.
    fn file(&mut self, key: &str, path: &Path) -> bool {
        // A folder can be opened; only reading says that it is none.
        let read = File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut [0]));
        if let Err(error) = &read {
            self.wrong(key, format!("`{}` cannot be read: {error}", path.display()));
        }
        read.is_ok()
    }

    fn secret(&mut self, key: &'static str, secret: &Secret) -> Option<Vec<u8>> {
        self.secret_at(key, key, secret)
    }

    /// The same where the key holds a name that the file chose.
    fn secret_at(&mut self, path: &str, key: &'static str, secret: &Secret) -> Option<Vec<u8>> {
        match read_secret(key, secret) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.wrong(path, without_key(&error));
                None
            }
        }
    }

    /// Whether the files of a TLS table can all be read.
    fn pems(&mut self, table: &str, ca: Option<&PathBuf>, identity: Option<&(PathBuf, PathBuf)>) -> bool {
        let named = [
            ("ca", ca),
            ("certificate", identity.map(|(certificate, _)| certificate)),
            ("private_key", identity.map(|(_, key)| key)),
        ];
        let mut fine = true;
        for (key, path) in named.into_iter().filter_map(|(key, path)| Some((key, path?))) {
            fine &= self.file(&format!("{table}.{key}"), path);
        }
        fine
    }

    /// But for a pair that would be made.
    fn certificates(&mut self) {
        let names = &self.config.tls;
        let to_be_made = names.self_signed && tls::is_to_be_made(&names.certificate, &names.private_key);
        for (pair, files) in certificate_files(self.config).into_iter().enumerate().skip(usize::from(to_be_made)) {
            let table = if pair == 0 { "tls".to_owned() } else { format!("tls.also[{}]", pair - 1) };
            let [certificate, key] = ["certificate", "private_key"].map(|key| format!("{table}.{key}"));
            let CertificateFiles { certificate: chain, private_key } = &files;
            // Not `&&`: both are told.
            if !(self.file(&certificate, chain) & self.file(&key, private_key)) {
                continue;
            }
            let of_key = |error: &TlsError| match error {
                TlsError::Pem { path, .. } | TlsError::File { path, .. } => path == private_key && path != chain,
                TlsError::Mismatch { .. } => true,
                _ => false,
            };
            match Certificates::load(vec![files.clone()], tls::provider()) {
                Err(error) => self.wrong(if of_key(&error) { &key } else { &certificate }, causes::line(&error)),
                Ok(shown) => {
                    for flaw in shown.flaws(SystemTime::now()) {
                        let is_fatal = !matches!(flaw.wrong, Wrong::Readable(_));
                        self.say(if is_fatal { &certificate } else { &key }, flaw.to_string(), is_fatal);
                    }
                }
            }
        }
    }

    fn session(&mut self) {
        let session = &self.config.session;
        let given = ("session.secret", session.secret.as_ref());
        self.kept(given, ("session.store", "keys"), SessionKeys::from_secret, SessionKeys::load_or_create);
        if let Store::Redis(store) = &session.store {
            self.redis(store);
        }
    }

    /// What is given as a secret, or else stands in a file of the store's folder; but for one that would be made.
    fn kept<T, E: Error + 'static>(
        &mut self,
        (key, secret): (&'static str, Option<&Secret>),
        (place, name): (&str, &str),
        of_secret: impl FnOnce(&[u8]) -> Result<T, E>,
        of_file: impl FnOnce(&Path) -> Result<T, E>,
    ) {
        let found = match (secret, &self.config.session.store) {
            (Some(secret), _) => self.secret(key, secret).map(|secret| (key, of_secret(&secret))),
            (None, Store::Embedded(folder)) => made(folder, name).map(|path| (place, of_file(&path))),
            (None, Store::Memory | Store::Redis(_)) => None,
        };
        if let Some((key, Err(error))) = found {
            self.wrong(key, causes::line(&error));
        }
    }

    fn redis(&mut self, store: &RedisStore) {
        let mut fine = true;
        if let Some(secret) = &store.login.password {
            fine &= self.secret("session.redis.password", secret).is_some();
        }
        if let RedisDeployment::Sentinel { login, .. } = &store.deployment
            && let Some(secret) = &login.password
        {
            fine &= self.secret("session.redis.sentinel_password", secret).is_some();
        }
        if let Some(tls) = &store.tls {
            fine &= self.pems("session.redis", tls.ca.as_ref(), tls.identity.as_ref());
        }
        if let (true, Err(error)) = (fine, redis_options(store, self.config.limits.store_timeout)) {
            self.wrong("session.redis", without_key(&error));
        }
    }

    /// The operator's token.
    fn operator(&mut self) {
        let Some(admin) = &self.config.server.admin else { return };
        let given = ("server.admin_token", admin.token.as_ref());
        self.kept(given, ("server.admin", "admin-token"), Token::new, Token::load_or_create);
    }

    fn upstream(&mut self, upstream: &Upstream) {
        if !upstream.servers.iter().any(is_secure) {
            return;
        }
        let table = format!("upstream.{}.tls", upstream.name);
        let files = self.pems(&table, upstream.tls.ca.as_ref(), upstream.tls.identity.as_ref());
        if let (true, Err(error)) = (files, live_upstream(upstream, self.config, (None, None), &Sockets::default())) {
            self.wrong(&table, without_key(&error));
        }
    }

    fn issuer(&mut self, table: &str, issuer: &TokenIssuer) {
        let own = |key: &str| format!("{table}.{key}");
        let mut file = String::new();
        let (key, fine) = match &issuer.keys {
            TokenKeys::Secret(secret) => {
                let key = own("secret");
                let read = self.secret_at(&key, "token.secret", secret).is_some();
                (key, read)
            }
            TokenKeys::File(path) => {
                let key = if self.config.lines.has(&own("key")) { own("key") } else { own("jwks") };
                let read = self.file(&key, path);
                file = format!("`{}`: ", path.display());
                (key, read)
            }
            TokenKeys::Url { ca, .. } => {
                let read = ca.as_ref().is_none_or(|ca| self.file(&own("ca"), ca));
                (own("jwks"), read)
            }
        };
        if let (true, Err(error)) = (fine, verifier(self.config, issuer)) {
            self.wrong(&key, file + &without_key(&error));
        }
    }

    fn provider(&mut self, login: &OidcLogin) {
        let own = |key: &str| format!("login.oidc.{}.{key}", login.name);
        if self.pems(&own("tls"), login.ca.as_ref(), login.identity.as_ref())
            && let Err(error) = oidc::client(login)
        {
            self.wrong(&own("tls"), causes::line(&error));
        }
        let mut file = String::new();
        let (key, fine) = match &login.client_auth {
            OidcClientAuth::Basic(secret) | OidcClientAuth::Post(secret) => {
                let key = own("client_secret");
                let read = self.secret_at(&key, "client_secret", secret).is_some();
                (key, read)
            }
            OidcClientAuth::Key(path, _) => {
                let key = own("client_key");
                let read = self.file(&key, path);
                file = format!("`{}`: ", path.display());
                (key, read)
            }
            OidcClientAuth::Certificate => return,
        };
        if let (true, Err(error)) = (fine, oidc::client_auth(&login.client_auth)) {
            self.wrong(&key, file + &causes::line(&*error));
        }
    }

    fn users(&mut self, local: &LocalLogin) {
        if let Some(demo) = local.demo_user.as_ref().filter(|demo| canonical(demo).is_none()) {
            let accepted = "use letters, digits and . _ @ + -, at most 128";
            self.wrong("login.local.demo_user", format!("`{demo}` is not a user name; {accepted}"));
        }
        if local.demo_user.is_some() && !local.users.exists() {
            return;
        }
        let key = "login.local.users";
        if let Ok(false) = local.users.try_exists() {
            let hint = "where there never was one, `portcullis user add NAME` makes it";
            self.wrong(key, format!("`{}` is not there; {hint}", local.users.display()));
            return;
        }
        if !self.file(key, &local.users) {
            return;
        }
        match Users::read(&local.users) {
            Err(error) => self.wrong(key, causes::line(&error)),
            Ok(users) => {
                for (name, role) in users.undeclared(&|role| self.config.roles.id(role).is_some()) {
                    let near = did_you_mean(&role, self.config.roles.iter());
                    let told = format!(
                        "user.{name} has the role `{role}`, which `roles` does not declare, so it counts for nothing{near}"
                    );
                    self.say(key, told, false);
                }
            }
        }
    }
}

/// What an earlier start made in the folder of the store.
fn made(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    // What cannot be looked at is there.
    (!matches!(path.try_exists(), Ok(false))).then_some(path)
}

/// An error with its causes, of what begins with a key, which stands before it already.
fn without_key(error: &StartError) -> String {
    match error {
        StartError::Secret { from, source, .. } => format!("`{from}` cannot be read: {source}"),
        StartError::RedisTls(source) | StartError::UpstreamTls { source, .. } => causes::line(source),
        StartError::TokenKeys { source, .. } | StartError::Oidc { source, .. } => causes::line(&**source),
        other => causes::line(other),
    }
}
