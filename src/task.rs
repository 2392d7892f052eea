//! What goes on beside requests. One decision: such work is of one type, a box, because a task of a type of its own is six kilobytes of
//! the program, and these begin too seldom for the box to cost anything. Connections and the streams of HTTP/2 are none of them.
//! Knows nothing of what is done, nor who runs it.

use std::pin::Pin;

/// Work that a runtime can be given.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Make it; nobody waits for what it ends with.
pub fn task<T>(work: impl Future<Output = T> + Send + 'static) -> Task {
    Box::pin(async move { drop(work.await) })
}
