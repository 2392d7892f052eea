//! What stands between a gateway and its store on a bad day: a TCP proxy that passes bytes, holds them back, or swallows them while
//! the connection looks alive – which a stopped process does not do, whose kernel still takes them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PASS: u8 = 0;
const SWALLOW: u8 = 1;
const REFUSE: u8 = 2;

#[derive(Default)]
struct State {
    mode: AtomicU8,
    delay_ms: AtomicU64,
    /// Connections ever made.
    made: AtomicU64,
    stop: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// The proxy. It ends when it is dropped.
pub struct Between {
    pub port: u16,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

impl Between {
    /// In front of a port of this machine.
    pub fn new(target: u16) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let theirs = state.clone();
        let accepting = std::thread::spawn(move || accept(&listener, target, &theirs));
        Between { port, state, accepting: Some(accepting) }
    }

    /// From now on bytes vanish in both directions; connections look alive, and new ones stand.
    pub fn swallow(&self) {
        self.state.mode.store(SWALLOW, Ordering::SeqCst);
    }

    /// From now on connections are cut and refused.
    pub fn refuse(&self) {
        self.state.mode.store(REFUSE, Ordering::SeqCst);
        self.cut();
    }

    /// As if nothing had been. Streams that lost bytes are of no use and are cut.
    pub fn pass(&self) {
        let before = self.state.mode.swap(PASS, Ordering::SeqCst);
        if before == SWALLOW {
            self.cut();
        }
    }

    /// Hold every packet back for so long, in each direction.
    pub fn delay(&self, by: Duration) {
        self.state.delay_ms.store(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// How many connections were made so far.
    pub fn made(&self) -> u64 {
        self.state.made.load(Ordering::SeqCst)
    }

    /// Cut what is open.
    pub fn cut(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, target: u16, state: &Arc<State>) {
    for client in listener.incoming() {
        if state.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        state.made.fetch_add(1, Ordering::SeqCst);
        if state.mode.load(Ordering::SeqCst) == REFUSE {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        // A packet held back for company would be 40 ms of our own making.
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            state.open.lock().unwrap().push(stream.try_clone().unwrap());
        }
        let (there, back) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
        for (from, to) in [there, back] {
            let state = state.clone();
            std::thread::spawn(move || carry(from, to, &state));
        }
    }
}

/// One direction. Packets in flight wait beside each other, not one after the other: a delay is no limit of throughput.
fn carry(mut from: TcpStream, to: TcpStream, state: &Arc<State>) {
    let (send, packets) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
    let mut sink = to.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for (due, packet) in packets {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sink.write_all(&packet).is_err() {
                return;
            }
        }
    });
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if state.mode.load(Ordering::SeqCst) == SWALLOW {
            continue;
        }
        let due = Instant::now() + Duration::from_millis(state.delay_ms.load(Ordering::SeqCst));
        if send.send((due, buffer[..read].to_vec())).is_err() {
            break;
        }
    }
    drop(send);
    let _ = sending.join();
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
