//! The files with secrets that a configuration names. One decision: they stand in one list, at the keys that name them, for a check and
//! for a start: what a check warns of, a start does. But for the keys of `[tls]`, which whoever shows their certificates looks at, and for
//! the operator's token beside the store, which is refused where others can read it. Knows nothing of what is in them.

use std::path::PathBuf;

use crate::config::{Config, OidcClientAuth, RedisDeployment, Secret, Store, TokenKeys};
use crate::private;

/// Those that others can read: the key, and what to say.
pub(super) fn readable(config: &Config) -> Vec<(String, String)> {
    let mut list = List(Vec::new());
    list.session(config);
    list.secret("server.admin_token", config.server.admin.as_ref().and_then(|admin| admin.token.as_ref()));
    for upstream in &config.upstreams {
        list.key(&format!("upstream.{}.tls", upstream.name), upstream.tls.identity.as_ref());
    }
    for (index, issuer) in config.tokens.iter().enumerate() {
        if let TokenKeys::Secret(secret) = &issuer.keys {
            list.secret(&format!("{}.secret", config.token_table(index)), Some(secret));
        }
    }
    for login in &config.oidc {
        let table = format!("login.oidc.{}", login.name);
        list.key(&format!("{table}.tls"), login.identity.as_ref());
        match &login.client_auth {
            OidcClientAuth::Basic(secret) | OidcClientAuth::Post(secret) => {
                list.secret(&format!("{table}.client_secret"), Some(secret));
            }
            OidcClientAuth::Key(path, _) => list.file(&format!("{table}.client_key"), path.clone()),
            OidcClientAuth::Certificate => {}
        }
    }
    // A hash is what is guessed at leisure.
    config.local.iter().for_each(|local| list.file("login.local.users", local.users.clone()));
    let told = list
        .0
        .into_iter()
        .filter_map(|(key, path)| Some((key, private::told(&path, private::mode_for_others(&path)?))));
    told.collect()
}

struct List(Vec<(String, PathBuf)>);

impl List {
    fn file(&mut self, key: &str, path: PathBuf) {
        self.0.push((key.to_owned(), path));
    }

    fn secret(&mut self, key: &str, secret: Option<&Secret>) {
        if let Some(Secret::File(path)) = secret {
            self.file(key, path.clone());
        }
    }

    fn key(&mut self, table: &str, identity: Option<&(PathBuf, PathBuf)>) {
        if let Some((_, key)) = identity {
            self.file(&format!("{table}.private_key"), key.clone());
        }
    }

    fn session(&mut self, config: &Config) {
        let session = &config.session;
        self.secret("session.secret", session.secret.as_ref());
        match &session.store {
            Store::Memory => {}
            Store::Embedded(folder) => {
                self.file("session.store", folder.join("sessions.redb"));
                if session.secret.is_none() {
                    self.file("session.store", folder.join("keys"));
                }
            }
            Store::Redis(store) => {
                self.secret("session.redis.password", store.login.password.as_ref());
                if let RedisDeployment::Sentinel { login, .. } = &store.deployment {
                    self.secret("session.redis.sentinel_password", login.password.as_ref());
                }
                self.key("session.redis", store.tls.as_ref().and_then(|tls| tls.identity.as_ref()));
            }
        }
    }
}
