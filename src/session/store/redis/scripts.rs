//! The scripts that run in the store. One decision: whatever has to happen together happens in one script, and a script is
//! asked for by its digest, so that its text travels once per connection. Knows nothing of what is done with answers.

use super::connect::Connection;
use super::error::RedisError;

/// One script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Load,
    Create,
    Touch,
    Revoke,
    List,
    Sweep,
    Meta,
    Reassert,
    Beat,
    Keep,
    Kept,
    Discard,
    Restore,
}

/// Each after the common beginning, but for the heartbeat, in the order of [`Script`].
const TEXTS: [&str; 13] = [
    concat!(include_str!("lua/common.lua"), include_str!("lua/load.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/create.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/touch.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/revoke.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/list.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/sweep.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/meta.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/reassert.lua")),
    include_str!("lua/beat.lua"),
    concat!(include_str!("lua/common.lua"), include_str!("lua/keep.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/kept.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/discard.lua")),
    concat!(include_str!("lua/common.lua"), include_str!("lua/restore.lua")),
];

/// Their digests, as a server told them.
pub(super) struct Scripts(Vec<String>);

impl Scripts {
    /// Hand all to a server.
    pub(super) async fn load(connection: &Connection) -> Result<Scripts, RedisError> {
        let mut commands = redis::pipe();
        for text in TEXTS {
            commands.cmd("SCRIPT").arg("LOAD").arg(text);
        }
        connection.ask_all(&commands).await.map(Scripts)
    }

    pub(super) fn digest(&self, script: Script) -> &str {
        &self.0[script as usize]
    }
}
