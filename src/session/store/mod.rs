//! The stores. One decision: they are told apart by their constructors alone; one contract suite runs over all of them.

mod embedded;
mod memory;
mod record;
mod standing;
mod tables;

pub use embedded::{Embedded, OpenError};
pub use memory::Memory;
