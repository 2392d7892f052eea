//! Makes an embedded store with many live sessions, for the rig: `cargo bench --bench live -- FOLDER SESSIONS` writes the store to
//! FOLDER/data and a `Cookie` line of each session to FOLDER/creds. One decision: the sessions are begun as sign-ins begin them, but at
//! a provider, because a million local passwords would be hashed for hours. The first thousand lines are of `user00000` and on, and
//! spread over all. Knows nothing of the gateway that will serve them.

use std::error::Error;
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::{Clock, SystemClock};
use portcullis::session::store::Embedded;
use portcullis::session::{CookieCodec, Lifetimes, NewSession, SessionKeys, Sessions, Settings};
use tokio::task::JoinSet;

const LIFE: Duration = Duration::from_secs(12 * 3_600);
/// Begun at once: they share the store's commits.
const AT_ONCE: usize = 2_000;
/// What the rig asks for.
const NAMED: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [folder, count] = &arguments[..] else {
        println!("live: not asked for (cargo bench --bench live -- FOLDER SESSIONS)");
        return Ok(());
    };
    let (folder, count) = (Path::new(folder), count.parse::<usize>()?);
    let data = folder.join("data");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
    let keys = SessionKeys::load_or_create(&data.join("keys"))?;
    let store = Arc::new(Embedded::open(&data.join("sessions.redb"))?);
    let (lifetimes, store_timeout) = (Lifetimes::new(LIFE, LIFE), Duration::from_secs(60));
    let settings = Settings { lifetimes, cache_entries: 1, max_sessions: None, store_timeout };
    let sessions = Sessions::new(store, CookieCodec::new(&keys, ""), settings);

    let every = (count / NAMED).max(1);
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for first in (0..count).step_by(AT_ONCE) {
        let mut begun = JoinSet::new();
        for number in first..count.min(first + AT_ONCE) {
            let (sessions, place) = (sessions.clone(), number / every);
            let is_named = number % every == 0 && place < NAMED;
            let subject = if is_named { format!("user{place:05}") } else { format!("somebody{number:07}") };
            begun.spawn(async move {
                let begun = sessions.begin(session(subject), None, SystemClock.now()).await?;
                Ok::<_, portcullis::session::StoreError>((is_named.then_some(place), begun.cookie))
            });
        }
        while let Some(begun) = begun.join_next().await {
            match begun?? {
                (Some(place), cookie) => named.push((place, cookie)),
                (None, cookie) => others.push(cookie),
            }
        }
    }
    named.sort_unstable();
    let mut file = BufWriter::new(fs::File::create(folder.join("creds"))?);
    for cookie in named.into_iter().map(|(_, cookie)| cookie).chain(others) {
        writeln!(file, "Cookie: __Host-portcullis={cookie}")?;
    }
    Ok(file.flush()?)
}

fn session(subject: String) -> NewSession {
    NewSession {
        provider: "https://id.example.com".to_owned(),
        subject,
        entry: 0,
        name: None,
        email: None,
        roles: vec!["user".to_owned()],
        device: "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0".to_owned(),
        provided: None,
    }
}
