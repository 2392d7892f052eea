//! What a process manager is told, by sd_notify(3): that the gateway listens, what came of a reload, that it stops. One decision: nobody
//! waits for it and nothing depends on it: where no manager asked, or it does not read, nothing is told. Knows nothing of what is said.

use std::env;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Where it is told; nobody asked without it.
pub(super) struct Manager(Option<(UnixDatagram, PathBuf)>);

impl Manager {
    /// As the environment names it. A name that begins with `@` is no path, and no manager of today gives one.
    pub(super) fn of_environment() -> Manager {
        let socket = || {
            let path = PathBuf::from(env::var_os("NOTIFY_SOCKET")?);
            let socket = UnixDatagram::unbound().ok().filter(|socket| socket.set_nonblocking(true).is_ok())?;
            path.is_absolute().then_some((socket, path))
        };
        Manager(socket())
    }

    /// A line of state (`READY=1`, `STOPPING=1`, or none), and one for people.
    pub(super) fn tell(&self, state: &str, status: &str) {
        if let Some((socket, path)) = &self.0 {
            let _ = socket.send_to(format!("{state}\nSTATUS={status}\n").trim_start().as_bytes(), path);
        }
    }
}
