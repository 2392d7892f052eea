//! Standard output and standard error that nobody reads: a collector that is paused, a terminal that was stopped, a full pipe.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{between, shipped};
use crate::wire::Nobody;

/// How long anything here may take.
const SOON: Duration = Duration::from_secs(30);

/// One of its two outputs, both ends.
struct Output {
    ours: UnixStream,
    theirs: UnixStream,
}

impl Output {
    fn new() -> Output {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(SOON)).unwrap();
        Output { ours, theirs }
    }

    fn handed_over(&self) -> Stdio {
        Stdio::from(OwnedFd::from(self.theirs.try_clone().unwrap()))
    }

    /// From now on nothing more goes in.
    fn fill(&self) {
        self.theirs.set_nonblocking(true).unwrap();
        while let Ok(written) = (&self.theirs).write(&[b'-'; 1 << 10]) {
            assert!(written > 0);
        }
        self.theirs.set_nonblocking(false).unwrap();
    }

    /// Read until it says this, and return all of it.
    fn until(&mut self, words: &str) -> String {
        let (mut said, mut some) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&said).into_owned();
            if text.contains(words) && text.ends_with('\n') {
                return text;
            }
            let read = self.ours.read(&mut some).unwrap_or_else(|error| panic!("{error}: no `{words}` in {text}"));
            assert!(read > 0, "it ended without `{words}`: {text}");
            said.extend_from_slice(&some[..read]);
        }
    }

    /// Everything to the end.
    fn rest(self) -> String {
        let Output { mut ours, theirs } = self;
        drop(theirs);
        let mut said = Vec::new();
        ours.read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }
}

/// The running program.
struct Program {
    child: Child,
    port: u16,
    out: Output,
    err: Output,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(folder: &Path, text: &str) -> Program {
        std::fs::write(folder.join("gateway.toml"), text).unwrap();
        let (out, mut err) = (Output::new(), Output::new());
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg("--config").arg(folder.join("gateway.toml")).stdin(Stdio::null());
        let child = command.stdout(out.handed_over()).stderr(err.handed_over()).spawn().unwrap();
        let port = between(&err.until("listening on"), "listening on https://localhost:", "/").parse().unwrap();
        Program { child, port, out, err }
    }

    /// The statuses of so many requests, one after another.
    fn ask(&self, path: &str, times: usize) -> Vec<String> {
        let address = format!("https://localhost:{}{path}?[1-{times}]", self.port);
        let mut curl = Command::new("timeout");
        curl.args(["60", "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}\n", &address]);
        String::from_utf8(curl.output().unwrap().stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Stop it; its exit code.
    fn stops(&mut self) -> Option<i32> {
        self.signal("-TERM");
        let until = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it did not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The shipped configuration in front of an application that is away.
fn before_nobody() -> (Nobody, String) {
    let nobody = Nobody::new();
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", nobody.port()));
    (nobody, text)
}

/// What a worker has to say of a request, and the thread of signals of a file, waits for nobody; and is said when somebody reads.
#[test]
fn a_standard_error_that_nobody_reads_stops_no_request_and_no_signal() {
    let (_nobody, text) = before_nobody();
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path(), &text);
    program.err.fill();
    assert_eq!(program.ask("/public", 8), vec!["502"; 8]);
    std::fs::write(folder.path().join("gateway.toml"), "wrong").unwrap();
    program.signal("-HUP");
    assert_eq!(program.ask("/public", 8), vec!["502"; 8]);
    let said = program.err.until("not reloaded");
    assert!(said.contains("a request could not be answered"), "{said}");
    assert_eq!(program.stops(), Some(0));
    assert!(program.err.ours.read(&mut [0; 4096]).unwrap() > 0, "the last words");
}

#[test]
fn a_stop_waits_for_no_reader_and_says_what_was_lost() {
    let (_nobody, text) = before_nobody();
    for both in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Program::start(folder.path(), &text);
        program.out.fill();
        if both {
            program.err.fill();
        }
        assert_eq!(program.ask("/public", 3), ["502"; 3]);
        assert_eq!(program.stops(), Some(0), "both: {both}");
        if !both {
            let said = program.err.until("were lost until the end: nobody reads standard output");
            assert!(between(&said, "nobody reads standard output", "\n").contains("lost=3"), "{said}");
        }
    }
}

/// An application that is down is one cause, not a line for each request; the access log has those.
#[test]
fn requests_that_cannot_be_answered_are_no_flood_on_standard_error() {
    let (_nobody, text) = before_nobody();
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path(), &text);
    assert_eq!(program.ask("/public", 200), vec!["502"; 200]);
    assert_eq!(program.stops(), Some(0));
    let Program { out, err, .. } = &mut program;
    let [out, err] = [out, err].map(|output| std::mem::replace(output, Output::new()).rest());
    assert_eq!(out.matches("\"status\":502").count(), 200);
    assert!(err.contains("a request could not be answered") && err.contains("a server is left alone"), "{err}");
    assert!(err.lines().count() < 100, "{err}");
}
