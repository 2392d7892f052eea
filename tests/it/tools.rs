//! Real programs of other people: where `tests/run` put them, and how one is started and ends with its test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a real application may take to start on a busy machine.
const STARTS: Duration = Duration::from_secs(60);
/// How long one may take to end when it is asked to.
const ENDS: Duration = Duration::from_secs(10);

/// Where they are.
pub fn tools() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools")
}

/// A command of tests/requirements.txt: `python`, `node`, `jupyter`.
pub fn python(name: &str) -> Command {
    Command::new(tools().join("python/bin").join(name))
}

/// A command of tests/package.json, run by the node of tests/requirements.txt.
pub fn node(name: &str) -> Command {
    let mut command = python("node");
    command.arg(tools().join("node/node_modules/.bin").join(name));
    command
}

/// A file of `tests/programs`.
pub fn program(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// A program that answers a line with a line.
pub struct Lines {
    child: Child,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Lines {
    /// Start it.
    pub fn start(command: &mut Command) -> Lines {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Lines { child, answers }
    }

    /// One line there, one back.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        self.answers.next().expect("it answers every line").unwrap()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running program and what it says, in whichever of its two outputs.
pub struct Service {
    child: Child,
    lines: Receiver<String>,
}

impl Service {
    /// Start it in a process group of its own, so that what it starts ends with it.
    pub fn start(command: &mut Command) -> Service {
        let (told, lines) = channel();
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let told = told.clone();
            // Read to the end, whether anybody listens or not: a full pipe would stop the program.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = told.send(line);
                }
            });
        }
        Service { child, lines }
    }

    /// Waits until it says something, and returns what follows in that line.
    pub fn says(&self, words: &str) -> String {
        let said = self.said_until(words);
        said.lines().last().and_then(|line| line.split_once(words)).expect("the last line has them").1.to_owned()
    }

    /// Waits until it says something, and returns everything up to the end of that line that was not returned yet.
    pub fn said_until(&self, words: &str) -> String {
        let until = Instant::now() + STARTS;
        let mut said = String::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    said.extend([line.as_str(), "\n"]);
                    if line.contains(words) {
                        return said;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("it never said `{words}`, but\n{said}"),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended without saying `{words}`, but\n{said}"),
            }
        }
    }

    /// The same where a port follows.
    pub fn says_port(&self, words: &str) -> u16 {
        let rest = self.says(words);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("no port: {rest}"))
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ask it to end.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself; its exit code, and what it said that was not returned yet.
    pub fn ends(mut self) -> (Option<i32>, String) {
        let (until, mut said) = (Instant::now() + STARTS, String::new());
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => said.extend([line.as_str(), "\n"]),
                Err(RecvTimeoutError::Timeout) => panic!("it did not end, but said\n{said}"),
                Err(RecvTimeoutError::Disconnected) => return (self.child.wait().unwrap().code(), said),
            }
        }
    }

    /// Ask it to read its file again.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// Send it a signal.
    pub fn signal(&self, name: &str) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args([name, "--", &group]).stderr(Stdio::null()).status();
    }
}

/// Asked first: Jupyter ends its kernels, which are in groups of their own.
impl Drop for Service {
    fn drop(&mut self) {
        self.signal("-TERM");
        let until = Instant::now() + ENDS;
        while Instant::now() < until && self.is_running() {
            let _ = self.lines.recv_timeout(Duration::from_millis(20));
        }
        self.signal("-KILL");
        let _ = self.child.wait();
    }
}
