//! The stores. One decision: they are told apart by their constructors alone; one contract suite runs over all of them.

mod embedded;
mod memory;
mod older;
mod record;
mod redis;
mod rows;
mod standing;
mod tables;

pub use self::redis::{Address, Deployment, Login, Redis, RedisError, RedisOptions, Tls, Trusted};
pub use embedded::{Embedded, Export, OpenError};
pub use memory::Memory;
