//! What a request costs, as numbers that repeat: allocations and system calls. Times belong into `benches/`, where a quiet machine is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::http1::SendRequest;
use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::config::Config;
use portcullis::proxy::Records;
use portcullis::session::store::Memory;
use portcullis::session::{Activity, CookieCodec, Lifetimes, Lookup, NewSession, SessionKeys, Sessions, Settings};
use portcullis::startup::{Gateway, Setup, start};

use crate::process::start_text;
use crate::support::{between, entry_of, shipped};
use crate::wire::{Application, Frames, SOON, one, soon, whole};

thread_local! {
    /// Whether this thread's allocations are added to `ALLOCATIONS`.
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    /// Bytes that this thread took and did not give back.
    static TAKEN: Cell<i64> = const { Cell::new(0) };
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Bytes that counted threads took and did not give back.
static HELD: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, counting.
struct Counting;

fn count(allocations: u64, bytes: i64) {
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + bytes));
    if COUNTING.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(allocations, Ordering::Relaxed);
        HELD.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A clock that marks the threads which ask it: the gateway's workers, once they answer a request.
struct Marking;

impl Clock for Marking {
    fn now(&self) -> Timestamp {
        COUNTING.with(|counting| counting.set(std::thread::current().name().is_some_and(|name| name == "worker-0")));
        SystemClock.now()
    }
}

/// Lines are made and thrown away.
struct Nowhere;

impl Records for Nowhere {
    fn line(&self, _: &str) {}
}

async fn ask(client: &mut SendRequest<Frames>, path: &str, cookie: Option<&str>) {
    soon(client.ready()).await.unwrap();
    let request = Request::get(path).header("host", "localhost");
    let request = cookie.into_iter().fold(request, |request, cookie| request.header("cookie", cookie));
    let answer = soon(client.send_request(request.body(whole("")).unwrap())).await.unwrap();
    assert_eq!(answer.status(), 200);
    soon(answer.into_body().collect()).await.unwrap();
}

/// So many requests over each of these, side by side.
async fn rounds(clients: Vec<SendRequest<Frames>>, count: usize) -> Vec<SendRequest<Frames>> {
    let asking = |mut client| async move {
        for _ in 0..count {
            ask(&mut client, "/public", None).await;
        }
        client
    };
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(asking(client))).collect();
    let mut clients = Vec::new();
    for task in tasks {
        clients.push(task.await.unwrap());
    }
    clients
}

/// A kilobyte, as the side-by-side measurements have it.
fn kilobyte() -> Application {
    Application::start(|_| async { http::Response::new(whole(vec![b'x'; 1024])) })
}

/// One gateway is counted at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A gateway of one worker, counted, in front of it.
fn one_worker(application: &Application, folder: &Path) -> Gateway {
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let text = text.replace("[server]\n", "[server]\nworkers = 1\n");
    let config = Config::parse(&text, "gateway.toml", folder).unwrap();
    start(Setup { config: config.into(), clock: Arc::new(Marking), records: Arc::new(Nowhere), store: None }).unwrap()
}

/// Access log, metrics, header rules and limits are on. Debug builds allocate as often as others.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_in_a_session_takes_a_fixed_small_number_of_allocations() {
    const MOST: u64 = 15;
    let _alone = ALONE.lock().await;
    let application = kilobyte();
    let folder = tempfile::tempdir().unwrap();
    let gateway = one_worker(&application, folder.path());
    let begun = gateway.sessions().begin(demo(folder.path()), None, SystemClock.now()).await.unwrap();
    let cookie = format!("__Host-portcullis={}", begun.cookie);
    let mut client = one(gateway.address().port()).await;
    let mut counted = Vec::new();
    for _ in 0..4 {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..100 {
            ask(&mut client, "/a", Some(&cookie)).await;
        }
        counted.push((ALLOCATIONS.load(Ordering::Relaxed) - before).div_ceil(100));
    }
    println!("{counted:?} allocations a request");
    // The first hundred fill buffers and memory.
    assert!(counted[1..].iter().all(|count| (10..=MOST).contains(count)), "allocations a request: {counted:?}");
}

pub fn signed_in(subject: &str) -> NewSession {
    NewSession {
        provider: "local".into(),
        subject: subject.into(),
        entry: 0,
        name: Some("Somebody Example".into()),
        email: Some(format!("{subject}@example.com")),
        roles: vec!["staff".into(), "admin".into()],
        device: "Firefox on Linux".into(),
        provided: None,
    }
}

/// The demo user, of the file in this folder.
pub fn demo(folder: &std::path::Path) -> NewSession {
    NewSession { entry: entry_of(folder, "demo"), ..signed_in("demo") }
}

/// What the system has given this process, in bytes.
fn resident() -> i64 {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap();
    told.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

/// What a session takes of the cache, the cache's own bookkeeping included. `PORTCULLIS_SESSIONS` asks for more of them, and to
/// be told what the system gave for them.
#[test]
fn a_session_in_memory_takes_a_fixed_small_number_of_bytes() {
    const MOST: i64 = 340;
    let sessions = std::env::var("PORTCULLIS_SESSIONS").map_or(20_000, |text| text.parse::<usize>().unwrap());
    let settings = |cache_entries| Settings {
        lifetimes: Lifetimes::new(Duration::from_secs(1_800), Duration::from_secs(43_200)),
        cache_entries,
        max_sessions: None,
        store_timeout: Duration::from_secs(2),
    };
    let (store, keys) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
    let over = |entries| Sessions::new(store.clone(), CookieCodec::new(&keys, ""), settings(entries));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cookies: Vec<String> = runtime.block_on(async {
        // Small: memory that this one gave back would hide what the other takes.
        let (one, mut cookies) = (over(1), Vec::new());
        for number in 0..sessions {
            let new = signed_in(&format!("somebody-{number:011}"));
            cookies.push(one.begin(new, None, Timestamp(0)).await.unwrap().cookie);
        }
        cookies
    });
    let other = over(sessions as u64);
    let (before, resident_before) = (TAKEN.get(), resident());
    runtime.block_on(async {
        for cookie in &cookies {
            let found = other.lookup(cookie, Activity::Active, Timestamp(1)).await.unwrap();
            assert!(matches!(found, Lookup::Alive(_)));
        }
    });
    let each = (TAKEN.get() - before) / i64::try_from(sessions).unwrap();
    let resident = (resident() - resident_before) / i64::try_from(sessions).unwrap();
    println!("{each} bytes a session, {resident} with what the allocator adds, {} sessions", other.cached());
    assert!((100..=MOST).contains(&each), "{each} bytes a session");
}

/// Many connections at once, as under load: what the kernel is asked for a request, the waiting shared among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxied_request_asks_the_kernel_about_four_times() {
    const CONNECTIONS: usize = 64;
    const REQUESTS: usize = 40;
    let application = kilobyte();
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let program = start_text(folder.path(), &text.replace("[server]\n", "[server]\nworkers = 1\n"));
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(one(program.port).await);
    }
    // Once beforehand, all together: what a first request costs, connecting and buffers, is another matter.
    let clients = rounds(clients, 4).await;
    let told = folder.path().join("strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(&told)
        .args(["-p", &program.id().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("strace: {error}; tests/run installs it"));
    let mut said = std::io::BufReader::new(strace.stderr.take().unwrap());
    let mut attached = String::new();
    std::io::BufRead::read_line(&mut said, &mut attached).unwrap();
    assert!(attached.contains("attached"), "{attached}");
    let _still_open = rounds(clients, REQUESTS).await;
    assert!(Command::new("kill").args(["-INT", &strace.id().to_string()]).status().unwrap().success());
    strace.wait().unwrap();
    let told = std::fs::read_to_string(told).unwrap();
    let calls: HashMap<&str, f64> = told
        .lines()
        .filter_map(|line| {
            let (count, name) = line.trim().split_once(char::is_whitespace)?;
            Some((name.trim(), count.parse().ok()?))
        })
        .collect();
    let each = |name: &str| calls.get(name).copied().unwrap_or_default() / (CONNECTIONS * REQUESTS) as f64;
    let moving = ["sendto", "writev", "recvfrom", "readv", "read"].map(each).iter().sum::<f64>();
    println!("{moving} calls a request that move bytes, {} in all", each("total"));
    // To read a request and to send it on, and the same for its answer: no more and no less.
    assert!((3.99..=4.01).contains(&moving), "{moving} calls a request that move bytes\n{told}");
    // Waiting, waking the thread that writes records, and the writing: shared by as many requests as come at once, which a
    // busy machine decides. On a quiet one all together are 4.1.
    assert!(each("total") <= 4.5, "{} calls a request\n{told}", each("total"));
    assert!(between(&told, "calls", "total").contains("recv"), "{told}");
}

/// What a kept-alive connection holds that nobody uses: its TLS, and little more.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_resting_connection_takes_a_fixed_small_number_of_bytes() {
    const CONNECTIONS: u64 = 64;
    const MOST: i64 = 9_600;
    let _alone = ALONE.lock().await;
    let application = kilobyte();
    let folder = tempfile::tempdir().unwrap();
    let gateway = one_worker(&application, folder.path());
    let mut clients = Vec::new();
    let mut held = Vec::new();
    for round in 1..=2 {
        for _ in 0..CONNECTIONS {
            let mut client = one(gateway.address().port()).await;
            ask(&mut client, "/public", None).await;
            clients.push(client);
        }
        let begun = Instant::now();
        let rested = || gateway.counters().unwrap().rested.get();
        while rested() < round * CONNECTIONS {
            assert!(begun.elapsed() < SOON, "{} rest", rested());
            tokio::task::yield_now().await;
        }
        held.push(HELD.load(Ordering::Relaxed));
    }
    let each = (held[1] - held[0]) / CONNECTIONS as i64;
    println!("{each} bytes a resting connection");
    assert!((1_000..=MOST).contains(&each), "{each} bytes a resting connection");
}
