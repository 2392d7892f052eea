//! The way to one partition. One decision: a connection belongs to a term, with the history of writes it was made to; when it
//! breaks, or the server is no longer the one to write to, the term is over and the next one begins by looking for the master
//! and examining it anew. Knows nothing of what is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::trust;

use super::connect::Connection;
use super::error::{RedisError, SCHEMA};
use super::facts::{Facts, examine};
use super::options::RedisOptions;
use super::place::{Master, master};
use super::scripts::{Script, Scripts};

/// After a failed attempt nobody tries for so long, doubled up to the second: an outage must not become a storm of connects,
/// and its end is noticed before a person would press the key again.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Sent once more on a fresh connection: a server that was restarted or demoted while nobody looked answers the second time.
const TRIES: usize = 2;

/// A standing connection and what is known of its server.
pub(super) struct Term {
    /// Counts connections of this partition.
    number: u64,
    /// The connection.
    pub(super) connection: Connection,
    /// What the server said of itself.
    pub(super) facts: Facts,
    /// Since when the store has been kept, in its own words. Another one was emptied in between.
    pub(super) since: String,
    /// What gateways of this store have in common, as the store keeps it.
    pub(super) alike: String,
    scripts: Scripts,
}

enum State {
    Up(Arc<Term>),
    Down { since: Instant, pause: Duration },
}

/// See the module.
pub(super) struct Way {
    options: Arc<RedisOptions>,
    /// Sockets live on the store's own runtime; callers come from any.
    runtime: Handle,
    tag: String,
    /// What a server may forget was told of, for one partition or another.
    told: Arc<AtomicBool>,
    state: Mutex<(u64, State)>,
}

impl Way {
    /// When the certificate ends that the next connection shows.
    pub(super) fn shown_until(&self) -> Option<SystemTime> {
        trust::shown_until(&self.options.tls.as_ref()?.config.config())
    }

    pub(super) fn new(options: Arc<RedisOptions>, runtime: Handle, index: u8, told: Arc<AtomicBool>) -> Way {
        let never = State::Down { since: Instant::now(), pause: Duration::ZERO };
        Way { options, runtime, tag: format!("{{{index:02x}}}"), told, state: Mutex::new((0, never)) }
    }

    /// A key that is one of its kind in this partition.
    pub(super) fn key(&self, kind: &str) -> String {
        format!("{}{kind}{}", self.options.prefix, self.tag)
    }

    /// The standing connection, or a new one. Whoever comes while one is being made waits for it; whoever comes shortly after
    /// a failure is told at once.
    pub(super) async fn term(&self) -> Result<Arc<Term>, RedisError> {
        let mut state = self.state.lock().await;
        let pause = match &state.1 {
            State::Up(term) => return Ok(term.clone()),
            State::Down { since, pause } if since.elapsed() < *pause => return Err(RedisError::Down),
            State::Down { pause, .. } => *pause,
        };
        self.next(&mut state, pause).await
    }

    /// A new connection whatever stands: the deployment may have another master by now. The old one is nobody's any more.
    pub(super) async fn renew(&self) -> Result<Arc<Term>, RedisError> {
        let mut state = self.state.lock().await;
        let pause = match &state.1 {
            State::Up(_) => Duration::ZERO,
            State::Down { pause, .. } => *pause,
        };
        self.next(&mut state, pause).await
    }

    async fn next(&self, state: &mut (u64, State), pause: Duration) -> Result<Arc<Term>, RedisError> {
        let number = state.0 + 1;
        match self.begin(number).await {
            Ok(term) => {
                let term = Arc::new(term);
                if term.facts.forgets && !self.told.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        address = %term.connection.address(),
                        "this server may forget sessions and revocations when it is restarted: by its version it loads them from its \
                         append-only file with the rights of the default user, which has none; write `user default off ~* &* +@all`"
                    );
                }
                *state = (number, State::Up(term.clone()));
                Ok(term)
            }
            Err(error) => {
                let pause = (pause * 2).clamp(PAUSE, LONGEST_PAUSE);
                state.1 = State::Down { since: Instant::now(), pause };
                Err(error)
            }
        }
    }

    async fn begin(&self, number: u64) -> Result<Term, RedisError> {
        let (options, key, tag) = (self.options.clone(), self.key("rl"), self.tag.clone());
        let begun = self.runtime.spawn(async move {
            let Master { address, has_replicas } = master(&options, &key).await?;
            let login = (&options.login, options.database);
            let connection = Connection::open(&options, &address, login, Some(options.reply_timeout)).await?;
            let mut facts = examine(&connection, &options).await?;
            facts.replicas |= has_replicas;
            let scripts = Scripts::load(&connection).await?;
            let since = agree(&connection, &scripts, &options, (&key, &tag)).await?;
            Ok(Term { number, connection, facts, since, alike: options.likeness(), scripts })
        });
        begun.await.unwrap_or(Err(RedisError::Closed))
    }

    /// End a term, where it is still the standing one.
    pub(super) async fn lose(&self, term: &Term) {
        let mut state = self.state.lock().await;
        if matches!(&state.1, State::Up(standing) if standing.number == term.number) {
            state.1 = State::Down { since: Instant::now(), pause: Duration::ZERO };
        }
    }

    /// Another connection to the server of a term: for what blocks the one it is sent on. The wait for an answer is the asker's.
    pub(super) async fn beside(&self, term: &Term) -> Result<Connection, RedisError> {
        let (options, address) = (self.options.clone(), term.connection.address().clone());
        let opened = self
            .runtime
            .spawn(async move { Connection::open(&options, &address, (&options.login, options.database), None).await });
        opened.await.unwrap_or(Err(RedisError::Closed))
    }

    /// What the store was opened with.
    pub(super) fn options(&self) -> &RedisOptions {
        &self.options
    }

    /// How long an answer may take.
    pub(super) fn patience(&self) -> Duration {
        self.options.reply_timeout
    }

    /// Run a script, on a fresh connection where the standing one turns out to be broken or to lead to the wrong server.
    pub(super) async fn run<T: redis::FromRedisValue>(
        &self,
        script: Script,
        arguments: &[&[u8]],
    ) -> Result<T, RedisError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let term = self.term().await?;
            match self.run_in(&term, script, arguments).await {
                Err(error) if tries < TRIES && was_not_answered(&error) => {}
                answer => return answer,
            }
        }
    }

    async fn run_in<T: redis::FromRedisValue>(
        &self,
        term: &Term,
        script: Script,
        arguments: &[&[u8]],
    ) -> Result<T, RedisError> {
        let answer = self.run_on(&term.connection, term, script, arguments).await;
        if let Err(error) = &answer
            && ends_term(error)
        {
            self.lose(term).await;
        }
        answer
    }

    /// Run a script on a connection to a term's server.
    pub(super) async fn run_on<T: redis::FromRedisValue>(
        &self,
        connection: &Connection,
        term: &Term,
        script: Script,
        arguments: &[&[u8]],
    ) -> Result<T, RedisError> {
        let command = self.command(term, script, arguments);
        match connection.ask(&command).await {
            // The server's memory of scripts was emptied.
            Err(RedisError::Refused { source, .. }) if source.code() == Some("NOSCRIPT") => {
                Scripts::load(connection).await?;
                connection.ask(&command).await
            }
            answer => answer,
        }
    }

    /// The command that runs a script. Its one key stands for all: they share a hash tag, and so a slot.
    pub(super) fn command(&self, term: &Term, script: Script, arguments: &[&[u8]]) -> redis::Cmd {
        command(&term.scripts, script, &self.options.prefix, (&self.key("rl"), &self.tag), arguments)
    }
}

fn command(
    scripts: &Scripts,
    script: Script,
    prefix: &str,
    (key, tag): (&str, &str),
    arguments: &[&[u8]],
) -> redis::Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(scripts.digest(script)).arg(1).arg(key).arg(prefix).arg(tag);
    for argument in arguments {
        command.arg(*argument);
    }
    command
}

/// The partition's idea of schema and division, which whoever came first decided; answers since when. Asked on every connection:
/// behind the address may be another store by now.
async fn agree(
    connection: &Connection,
    scripts: &Scripts,
    options: &RedisOptions,
    place: (&str, &str),
) -> Result<String, RedisError> {
    let (schema, partitions) = (SCHEMA.to_string(), options.partitions.to_string());
    let alike = options.likeness();
    let arguments = [&schema, &partitions, &alike].map(|text| text.as_bytes());
    let asked = connection.ask(&command(scripts, Script::Meta, &options.prefix, place, &arguments)).await;
    let [found, divided, since]: [String; 3] = asked.map_err(|error| error.judged(options))?;
    if found != schema {
        return Err(RedisError::Schema { found });
    }
    if divided != partitions {
        return Err(RedisError::Partitions { found: divided, wanted: options.partitions });
    }
    Ok(since)
}

/// Whether the connection is of no use any more: broken, late (each later answer would be late as well), or to a server that
/// does not take our writes.
pub(super) fn ends_term(error: &RedisError) -> bool {
    match error {
        RedisError::Late(_) => true,
        RedisError::Refused { source, .. } => {
            source.is_io_error()
                || source.is_connection_dropped()
                || matches!(
                    source.code(),
                    Some(
                        "READONLY"
                            | "MOVED"
                            | "ASK"
                            | "CLUSTERDOWN"
                            | "LOADING"
                            | "MASTERDOWN"
                            | "NOAUTH"
                            | "NOREPLICAS"
                    )
                )
        }
        _ => false,
    }
}

/// Whether asking the next server may help; after a late answer it would only double the wait.
fn was_not_answered(error: &RedisError) -> bool {
    !matches!(error, RedisError::Late(_)) && ends_term(error) && !is(error, "NOREPLICAS")
}

fn is(error: &RedisError, code: &str) -> bool {
    matches!(error, RedisError::Refused { source, .. } if source.code() == Some(code))
}
