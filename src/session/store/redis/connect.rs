//! One connection. One decision: it is ours from the first packet – every step has a deadline, small packets go out at once,
//! and nobody opens it again behind our back: a connection that broke stays broken, so that whoever read on it knows.
//! Knows nothing of what is asked.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use tokio::task::JoinHandle;

use crate::reach::{self, AnyLine};
use crate::task::task;

use super::error::RedisError;
use super::options::{Address, Login, RedisOptions};
use super::secure::secure;

/// A connection; clones share it, the last one closes it.
#[derive(Clone)]
pub(super) struct Connection {
    address: Address,
    redis: MultiplexedConnection,
    _driver: Arc<Driver>,
}

/// The task that moves bytes; without it a blocked read would keep the socket open after everybody left.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Connect and sign in, within `connect_timeout`. Without a `reply_timeout` whoever asks has to bound the wait. Has to be called on the store's own runtime, which the socket stays with.
    pub(super) async fn open(
        options: &RedisOptions,
        address: &Address,
        (login, database): (&Login, u32),
        reply_timeout: Option<Duration>,
    ) -> Result<Connection, RedisError> {
        let standing = async {
            let failed = |source| RedisError::Connect { address: address.clone(), source };
            let tcp = reach::connect((&address.host, address.port)).await.map_err(failed)?;
            // Each answer is waited for: a packet held back for company costs 40 ms.
            tcp.set_nodelay(true).map_err(failed)?;
            match &options.tls {
                None => sign_in(Box::new(tcp), address, login, database, reply_timeout).await,
                Some(tls) => {
                    let (secure, asked) = secure(tls, address, tcp).await?;
                    match sign_in(Box::new(secure), address, login, database, reply_timeout).await {
                        Err(RedisError::Refused { source, .. }) if source.is_io_error() && asked.was() => {
                            Err(RedisError::Unshown(address.clone()))
                        }
                        signed_in => signed_in,
                    }
                }
            }
        };
        tokio::time::timeout(options.connect_timeout, standing)
            .await
            .unwrap_or_else(|_| Err(RedisError::Late(address.clone())))
    }

    /// Where it goes to.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Send a command, wait for its answer.
    pub(super) async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisError> {
        let mut redis = self.redis.clone();
        command.query_async(&mut redis).await.map_err(|source| self.refused(source))
    }

    /// Send several, wait for all answers; nothing comes between them on this connection.
    pub(super) async fn ask_all<T: redis::FromRedisValue>(&self, commands: &redis::Pipeline) -> Result<T, RedisError> {
        let mut redis = self.redis.clone();
        commands.query_async(&mut redis).await.map_err(|source| self.refused(source))
    }

    fn refused(&self, source: redis::RedisError) -> RedisError {
        if source.is_timeout() {
            RedisError::Late(self.address.clone())
        } else {
            RedisError::Refused { address: self.address.clone(), source }
        }
    }
}

async fn sign_in(
    line: AnyLine,
    address: &Address,
    login: &Login,
    database: u32,
    reply_timeout: Option<Duration>,
) -> Result<Connection, RedisError> {
    // Telling the library's name is one more command that an ACL would have to allow.
    let mut info = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(i64::from(database));
    if let Some(user) = &login.user {
        info = info.set_username(user);
    }
    if let Some(password) = &login.password {
        info = info.set_password(password);
    }
    let config = AsyncConnectionConfig::new().set_response_timeout(reply_timeout);
    let (redis, driver) = MultiplexedConnection::new_with_config(&info, line, config)
        .await
        .map_err(|source| RedisError::Refused { address: address.clone(), source })?;
    let driver = Arc::new(Driver(tokio::spawn(task(driver))));
    Ok(Connection { address: address.clone(), redis, _driver: driver })
}
