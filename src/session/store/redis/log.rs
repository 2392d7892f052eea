//! The log that nodes share, as a stream. One decision: a link is one connection of one term – its heartbeats, and what it says of
//! its server, go over the very connection that reads – and what blocks has a connection beside it. Nothing here retries: whoever
//! holds the link decides. Knows nothing of leases.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::clock::Timestamp;
use crate::session::shared::{Beat, Cycle, Entry, Link, LogFuture, Opening, Position, Receipt, Registered, SharedLog};
use crate::session::{Event, EventId, Part, Revocation, StoreError, TokenId, UserKey};

use super::connect::Connection;
use super::error::RedisError;
use super::facts;
use super::scripts::Script;
use super::text;
use super::way::{Term, Way};

/// Entries read at a time: bounds how long a node applies before it says so.
const AT_ONCE: usize = 1_000;

/// Members of a sorted set read at a time, where all of it is wanted: some ten milliseconds of a server.
const PIECE: usize = 5_000;

/// All logs of a store.
pub(super) struct RedisLog {
    ways: Arc<[Way]>,
}

/// One link.
struct RedisLink {
    ways: Arc<[Way]>,
    part: Part,
    term: Arc<Term>,
    opening: Opening,
    /// Blocked by `XREAD BLOCK`.
    follower: OnceCell<Connection>,
    /// Blocked by `WAIT`, which speaks for the writes of its own connection alone.
    committer: OnceCell<Connection>,
}

/// What `XREAD` answers: streams, each with its entries; nothing where there are none.
type Read = Option<Vec<(String, Vec<(String, Vec<(String, String)>)>)>>;

impl RedisLog {
    pub(super) fn new(ways: Arc<[Way]>) -> RedisLog {
        RedisLog { ways }
    }

    async fn open(&self, part: u8) -> Result<RedisLink, RedisError> {
        let way = self.ways.get(usize::from(part)).ok_or(RedisError::Closed)?;
        let term = way.renew().await?;
        let (last, trimmed) = bounds(&term, &way.key("rl")).await?;
        let store = text::moment(&term.since)?;
        let opening = Opening { term: term.facts.term, last, trimmed, replicas: term.facts.replicas, store };
        let (follower, committer) = (OnceCell::new(), OnceCell::new());
        let part = Part { index: part, of: self.parts() };
        Ok(RedisLink { ways: self.ways.clone(), part, term, opening, follower, committer })
    }
}

/// The last id that the stream gave, and the last that may have been trimmed.
async fn bounds(term: &Term, key: &str) -> Result<(Position, Position), RedisError> {
    let none = (Position::default(), Position::default());
    let asked = term.connection.ask(redis::cmd("XINFO").arg("STREAM").arg(key)).await;
    let fields: Vec<redis::Value> = match asked {
        Ok(fields) => fields,
        Err(RedisError::Refused { source, .. }) if source.detail().is_some_and(|said| said.contains("no such key")) => {
            return Ok(none);
        }
        Err(error) => return Err(error),
    };
    let field = |name: &str| {
        let at = fields
            .chunks_exact(2)
            .find(|pair| redis::from_redis_value_ref::<String>(&pair[0]).is_ok_and(|key| key == name));
        at.map(|pair| &pair[1])
    };
    let text = |value: &redis::Value| {
        redis::from_redis_value_ref::<String>(value).map_err(|error| RedisError::Shape(Some(error)))
    };
    let last = field("last-generated-id").ok_or(RedisError::Shape(None)).and_then(text)?;
    let last = text::position(&last)?;
    let count = |name| field(name).and_then(|value| redis::from_redis_value_ref::<u64>(value).ok());
    // From 7.0 on a stream counts what it was ever given; before, something may always have been trimmed.
    if count("entries-added").is_some_and(|added| count("length") == Some(added)) {
        return Ok((last, Position::default()));
    }
    let first = match field("first-entry") {
        Some(redis::Value::Array(entry)) => entry.first().map(text).transpose()?,
        _ => None,
    };
    let first = first.map(|first| text::position(&first)).transpose()?;
    Ok((last, first.map_or(last, before)))
}

/// The id before this one.
fn before(at: Position) -> Position {
    match at.seq.checked_sub(1) {
        Some(seq) => Position { ms: at.ms, seq },
        None => Position { ms: at.ms.saturating_sub(1), seq: u64::MAX },
    }
}

/// What the log may have forgotten and memory must not: denied tokens and epochs. In pieces: there may be millions, and in one answer
/// they would hold up the heartbeats of all nodes, and never come in time. What is written meanwhile is in the log.
pub(super) async fn remembered(connection: &Connection, way: &Way, part: Part) -> Result<Vec<Event>, RedisError> {
    let mut events = Vec::new();
    pieces(connection, &way.key("t"), |id, until| {
        events.push(Event::Token { id: TokenId(text::bytes(id)?), until: Timestamp(until) });
        Ok(())
    })
    .await?;
    pieces(connection, &way.key("n"), |user, epoch| {
        events.push(Event::UserEpoch { user: UserKey(text::bytes(user)?), epoch, spared: None });
        Ok(())
    })
    .await?;
    let everyone: Option<u64> = connection.ask(redis::cmd("GET").arg(way.key("g"))).await?;
    events.extend(everyone.map(|epoch| Event::Everyone { part, epoch }));
    Ok(events)
}

/// Each member of a sorted set with its score, some of them twice.
async fn pieces(
    connection: &Connection,
    key: &str,
    mut tell: impl FnMut(&str, u64) -> Result<(), RedisError>,
) -> Result<(), RedisError> {
    let (mut from, mut count) = (0, PIECE);
    loop {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(key).arg(from).arg("+inf").arg("WITHSCORES").arg("LIMIT").arg(0).arg(count);
        let piece: Vec<(String, u64)> = connection.ask(&command).await?;
        piece.iter().try_for_each(|(member, score)| tell(member, *score))?;
        match piece.last() {
            Some((_, last)) if piece.len() == count => {
                // The next one begins with the last score and not behind it: others may have the same. A set only ever moves on, so that
                // nobody slips back behind it.
                count = if *last == from { count * 2 } else { PIECE };
                from = *last;
            }
            _ => return Ok(()),
        }
    }
}

fn unavailable(error: RedisError) -> StoreError {
    match error {
        RedisError::Rules { .. } | RedisError::Unlike { .. } => StoreError::Rules(Box::new(error)),
        error => StoreError::Unavailable(Box::new(error)),
    }
}

/// A node counts for twice as long as it may serve.
fn other_rules(error: RedisError, silence: Duration) -> RedisError {
    match error.said("RULES").and_then(|said| said.parse().ok()).map(Duration::from_millis) {
        Some(theirs) => RedisError::Rules { found: theirs / 2, wanted: silence / 2, counts: theirs.max(silence) },
        None => error,
    }
}

impl SharedLog for RedisLog {
    fn parts(&self) -> u8 {
        u8::try_from(self.ways.len()).unwrap_or(u8::MAX)
    }

    fn connect(&self, part: u8) -> LogFuture<'_, Arc<dyn Link>> {
        Box::pin(async move {
            let link = self.open(part).await.map_err(unavailable)?;
            Ok(Arc::new(link) as Arc<dyn Link>)
        })
    }
}

impl RedisLink {
    fn way(&self) -> &Way {
        &self.ways[usize::from(self.part.index)]
    }

    /// A connection beside the link's. Behind the same address may be another server by now.
    async fn beside(&self) -> Result<Connection, RedisError> {
        let connection = self.way().beside(&self.term).await?;
        let mut command = redis::cmd("INFO");
        command.arg("replication");
        let info: String = self.within(&connection, Duration::ZERO, connection.ask(&command)).await?;
        self.same_term(&info)?;
        Ok(connection)
    }

    fn same_term(&self, info: &str) -> Result<(), RedisError> {
        if facts::term(info) == Some(self.opening.term) {
            return Ok(());
        }
        Err(RedisError::Demoted(self.term.connection.address().clone()))
    }

    fn entries(&self, read: Read) -> Result<Vec<Entry>, RedisError> {
        let streams = read.into_iter().flatten();
        streams.flat_map(|(_, entries)| entries).map(|entry| text::entry(&entry, self.part)).collect()
    }

    async fn beat(&self, beat: Beat, after: Position) -> Result<Cycle, RedisError> {
        let (node, term) = (text::hex(&beat.boot.0), text::hex(&self.opening.term.0));
        let (applied, silence) = (text::place(beat.applied), beat.forget_after.as_millis().to_string());
        let (since, alike) = (&self.term.since, &self.term.alike);
        let arguments = [&node, &term, &applied, &silence, since, alike].map(|text| text.as_bytes());
        let mut commands = redis::pipe();
        commands.add_command(self.way().command(&self.term, Script::Beat, &arguments));
        // A server that was demoted and promoted between two beats is master again, of another history.
        commands.cmd("INFO").arg("replication");
        commands
            .cmd("XREAD")
            .arg("COUNT")
            .arg(AT_ONCE)
            .arg("STREAMS")
            .arg(self.way().key("rl"))
            .arg(text::place(after));
        let asked = self.term.connection.ask_all(&commands).await;
        let (clock, info, read): (String, String, Read) =
            asked.map_err(|error| other_rules(error, beat.forget_after).judged(self.way().options()))?;
        self.same_term(&info)?;
        let entries = self.entries(read)?;
        let clock = clock.parse().map_err(|_| RedisError::Shape(None))?;
        Ok(Cycle { more: entries.len() == AT_ONCE, entries, clock: Timestamp(clock) })
    }

    async fn read(&self, after: Position, wait: Duration) -> Result<Vec<Entry>, RedisError> {
        let follower = self.follower.get_or_try_init(|| self.beside()).await?;
        let mut command = redis::cmd("XREAD");
        // Zero would wait for ever.
        command.arg("COUNT").arg(AT_ONCE).arg("BLOCK").arg(wait.as_millis().max(1).to_string());
        command.arg("STREAMS").arg(self.way().key("rl")).arg(text::place(after));
        let read = self.within(follower, wait, follower.ask(&command)).await?;
        self.entries(read)
    }

    async fn write(&self, id: EventId, what: Revocation) -> Result<Receipt, RedisError> {
        let committer = self.committer.get_or_try_init(|| self.beside()).await?;
        let (id, [kind, whom, until, spared]) = (text::hex(&id.0), text::asked(what));
        let arguments = [&id, &kind, &whom, &until, &spared].map(|text| text.as_bytes());
        let run = self.way().run_on(committer, &self.term, Script::Revoke, &arguments);
        let said: String = self.within(committer, Duration::ZERO, run).await?;
        text::receipt(&said, self.part)
    }

    /// An answer, waited for as long as any may take beyond what was asked to be waited.
    async fn within<T>(
        &self,
        connection: &Connection,
        wait: Duration,
        answer: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        let late = || RedisError::Late(connection.address().clone());
        tokio::time::timeout(wait + self.way().patience(), answer).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Link for RedisLink {
    fn opening(&self) -> Opening {
        self.opening
    }

    fn cycle(&self, beat: Beat, after: Position) -> LogFuture<'_, Cycle> {
        Box::pin(async move { self.beat(beat, after).await.map_err(unavailable) })
    }

    fn follow(&self, after: Position, wait: Duration) -> LogFuture<'_, Vec<Entry>> {
        Box::pin(async move { self.read(after, wait).await.map_err(unavailable) })
    }

    fn commit(&self, id: EventId, what: Revocation) -> LogFuture<'_, Receipt> {
        Box::pin(async move { self.write(id, what).await.map_err(unavailable) })
    }

    fn replicated(&self, within: Duration) -> LogFuture<'_, bool> {
        Box::pin(async move {
            if !self.opening.replicas {
                return Ok(true);
            }
            let asked = async {
                let committer = self.committer.get_or_try_init(|| self.beside()).await?;
                let mut command = redis::cmd("WAIT");
                command.arg(1).arg(within.as_millis().max(1).to_string());
                self.within(committer, within, committer.ask::<u64>(&command)).await
            };
            Ok(asked.await.map_err(unavailable)? > 0)
        })
    }

    fn remembered(&self) -> LogFuture<'_, Vec<Event>> {
        Box::pin(async move { remembered(&self.term.connection, self.way(), self.part).await.map_err(unavailable) })
    }

    fn nodes(&self) -> LogFuture<'_, Vec<Registered>> {
        Box::pin(async move {
            let asked = self.term.connection.ask(redis::cmd("HGETALL").arg(self.way().key("nodes"))).await;
            let all: Vec<(String, String)> = asked.map_err(unavailable)?;
            let nodes = all.iter().filter(|(node, _)| node != "looked").map(|(node, said)| {
                let (boot, term, applied) = text::registered(node, said)?;
                Ok(Registered { boot, term, applied })
            });
            nodes.collect::<Result<_, RedisError>>().map_err(unavailable)
        })
    }

    fn reassert(&self, events: Vec<(EventId, Event)>) -> LogFuture<'_, ()> {
        Box::pin(async move {
            for batch in events.chunks(AT_ONCE / 10) {
                let texts: Vec<String> = batch.iter().flat_map(|(id, event)| text::told(*id, event)).collect();
                let arguments: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
                let again = self.way().run_on(&self.term.connection, &self.term, Script::Reassert, &arguments).await;
                let again: u64 = again.map_err(unavailable)?;
                if again > 0 {
                    tracing::warn!(part = self.part.index, again, "a failover had lost revocations; they stand again");
                }
            }
            Ok(())
        })
    }

    fn leave(&self, boot: crate::session::shared::Boot) -> LogFuture<'_, ()> {
        Box::pin(async move {
            let node = text::hex(&boot.0);
            let asked = self.term.connection.ask(redis::cmd("HDEL").arg(self.way().key("nodes")).arg(node)).await;
            asked.map_err(unavailable)
        })
    }
}
