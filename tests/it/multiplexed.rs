//! Many requests on few HTTP/2 connections to an application: none waits for the client of another, none for more than the
//! application takes, and what was never sent is held against nobody.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};

use crate::admin::{self, sample};
use crate::edge::frame;
use crate::shared_store::eventually;
use crate::support::{Running, run_text, shipped};
use crate::wire::{Application, Frames, fed, soon, two, whole};

/// One worker before this application; a server that fails once is left alone for good.
fn before(application: &Application, more: &str) -> Running {
    let server = format!("\"h2c://127.0.0.1:{}\"", application.port);
    let text = shipped("memory").replace("\"builtin:whoami\"", &server);
    let text = text.replace("[server]\n", "[server]\nworkers = 1\nadmin = \"127.0.0.1:0\"\n");
    let upstream = format!("[upstream.app]\neject_after = 1\neject_for = \"1h\"\n{more}");
    let posted = "[[route]]\nname = \"posted\"\npath = \"/posted\"\naccess = \"public\"\nupstream = \"app\"\n";
    run_text(tempfile::tempdir().unwrap(), &format!("{}{posted}", text.replace("[upstream.app]", &upstream)))
}

/// An application that takes so many requests at a time on a connection; `opened` counts those.
fn takes<F, A>(most: u32, opened: &Arc<AtomicUsize>, answer: F) -> Application
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Frames>> + Send + 'static,
{
    let (answer, opened) = (Arc::new(answer), opened.clone());
    Application::on_streams(move |stream| {
        opened.fetch_add(1, Ordering::SeqCst);
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answered = answer(request);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        async move {
            let mut connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            connection.max_concurrent_streams(most);
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        }
    })
}

fn metrics(running: &Running) -> String {
    tokio::task::block_in_place(|| admin::ask(running, "/metrics", &[])).body
}

fn assert_available(metrics: &str, application: &Application) {
    let server = format!("{{upstream=\"app\",server=\"127.0.0.1:{}\"}}", application.port);
    assert_eq!(sample(metrics, &format!("portcullis_upstream_server_available{server}")), "1");
}

async fn ask(client: &http2::SendRequest<Frames>, path: &str) -> Response<Incoming> {
    let request = Request::get(format!("https://localhost/public{path}")).header("accept", "application/json");
    soon(client.clone().send_request(request.body(whole("")).unwrap())).await.unwrap()
}

async fn text(answer: Response<Incoming>) -> String {
    let body = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// attacks: whoever does not read what was asked for takes the application away from nobody, and costs what a stream may hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_does_not_read_holds_nobody_else_back() {
    let (opened, sent) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let count = sent.clone();
    let application = takes(1_000, &opened, move |request| {
        let count = count.clone();
        async move {
            if !request.uri().path().ends_with("/endless") {
                return Response::new(whole(vec![b'x'; 300_000]));
            }
            let (mut feed, body) = fed();
            tokio::spawn(async move {
                while feed.send_data(Bytes::from(vec![b'x'; 16_384])).await.is_ok() {
                    count.fetch_add(16_384, Ordering::SeqCst);
                }
            });
            Response::new(body)
        }
    });
    let running = before(&application, "");
    let other = two(running.port()).await;
    const UNREAD: usize = 80;
    let stalled = two(running.port()).await;
    let mut unread = Vec::new();
    for number in 1..=UNREAD {
        unread.push(ask(&stalled, "/endless").await);
        // More than the four that it once took, and soon more than one connection is for.
        if number % 8 == 0 {
            for _ in 0..4 {
                assert_eq!(text(ask(&other, "/").await).await.len(), 300_000, "while {number} are not read");
            }
        }
    }
    assert_eq!(opened.load(Ordering::SeqCst), 2);
    // The client takes five MiB by itself; of each answer a window lies in the gateway, and another one on the way there.
    let most = (6 << 20) + UNREAD * 3 * 128 * 1024;
    assert!(sent.load(Ordering::SeqCst) < most, "{} bytes were taken", sent.load(Ordering::SeqCst));
    // Given up, their places are there again.
    drop(unread);
    drop(stalled);
    for _ in 0..UNREAD {
        assert_eq!(text(ask(&other, "/").await).await.len(), 300_000);
    }
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_connection_does_not_take_goes_over_another_one_as_long_as_it_is_needed() {
    let (opened, together) = (Arc::<AtomicUsize>::default(), Arc::new(Barrier::new(12)));
    let application = takes(3, &opened, move |_| {
        let together = together.clone();
        async move {
            together.wait().await;
            Response::new(whole("all are here"))
        }
    });
    let running = before(&application, "");
    let client = two(running.port()).await;
    for _ in 0..3 {
        let wave: Vec<_> = (0..12)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { text(ask(&client, "/").await).await })
            })
            .collect();
        for answered in wave {
            assert_eq!(soon(answered).await.unwrap(), "all are here");
        }
    }
    assert_eq!(opened.load(Ordering::SeqCst), 4, "the waves after the first find its connections");
}

/// One more than all connections take waits for a bounded time, is told, and says nothing about the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn beyond_all_connections_there_is_a_wait_and_a_clear_answer_and_nobody_is_blamed() {
    let (opened, gate) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
    let leaving = gate.clone();
    let application = takes(1, &opened, move |request| {
        let leaving = leaving.clone();
        async move {
            if request.uri().path().ends_with("/held") {
                leaving.acquire().await.unwrap().forget();
            }
            Response::new(whole("done"))
        }
    });
    let running = before(&application, "connect_timeout = \"500ms\"");
    let client = two(running.port()).await;
    let mut held = Vec::new();
    for number in 1..=32 {
        let client = client.clone();
        held.push(tokio::spawn(async move { text(ask(&client, "/held").await).await }));
        eventually("it has a connection", async || opened.load(Ordering::SeqCst) == number).await;
    }
    for _ in 0..3 {
        let answer = ask(&client, "/").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "2");
        assert!(text(answer).await.contains("upstream_full"));
    }
    assert_eq!(opened.load(Ordering::SeqCst), 32);
    // Whoever waits gets the first place that is left.
    gate.add_permits(32);
    for answered in held {
        assert_eq!(soon(answered).await.unwrap(), "done");
    }
    assert_eq!(text(ask(&client, "/").await).await, "done");
    let metrics = metrics(&running);
    assert_eq!(sample(&metrics, "portcullis_upstream_requests_total{upstream=\"app\",outcome=\"full\"}"), "3");
    assert_available(&metrics, &application);
}

/// What a server of single frames does with the requests of one connection, in turn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Answer,
    /// Answer, and take so many at a time from then on.
    AnswerAndTake(u32),
    /// Never answer.
    Hold,
    /// REFUSED_STREAM.
    Refuse,
    /// Answer, and take no more on this connection.
    AnswerAndGoAway,
    /// Take no more, this one included (RFC 9113 §6.8).
    GoAway,
    /// Close the connection.
    Close,
}

const SETTINGS: u8 = 4;
const MAX_CONCURRENT_STREAMS: u8 = 3;

fn settings(most: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, MAX_CONCURRENT_STREAMS][..], &most.to_be_bytes()].concat())
}

/// Reads frames and does what the script of the connection says.
async fn scripted(mut stream: TcpStream, steps: &[Step]) -> Option<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.ok()?;
    stream.write_all(&settings(100)).await.ok()?;
    let mut steps = steps.iter();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        let on = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let answer = match (head[3], head[4] & 1) {
            (1, _) => {
                // `:status: 200` from the static table (RFC 7541 §A), and the end of the stream.
                let answered = frame(1, 5, on, &[0x88]);
                match steps.next().unwrap_or(&Step::Answer) {
                    Step::Hold => continue,
                    Step::Answer => answered,
                    Step::AnswerAndTake(most) => [settings(*most), answered].concat(),
                    Step::Refuse => frame(3, 0, on, &[0, 0, 0, 7]),
                    Step::GoAway => frame(7, 0, 0, &[on.saturating_sub(2).to_be_bytes(), [0; 4]].concat()),
                    Step::Close => return None,
                    Step::AnswerAndGoAway => [frame(7, 0, 0, &[on.to_be_bytes(), [0; 4]].concat()), answered].concat(),
                }
            }
            (SETTINGS, 0) => frame(SETTINGS, 1, 0, &[]),
            (6, 0) => frame(6, 1, 0, &payload),
            _ => continue,
        };
        stream.write_all(&answer).await.ok()?;
    }
}

/// Each connection has a script of its own; those after the last answer everything.
fn scripts(of: &'static [&'static [Step]], opened: &Arc<AtomicUsize>) -> Application {
    let opened = opened.clone();
    Application::on_streams(move |stream| {
        let number = opened.fetch_add(1, Ordering::SeqCst);
        async move {
            scripted(stream, of.get(number).copied().unwrap_or(&[])).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_takes_fewer_from_now_on_gets_no_more_on_that_connection() {
    let opened = Arc::<AtomicUsize>::default();
    let application = scripts(&[&[Step::AnswerAndTake(1), Step::Hold]], &opened);
    let running = before(&application, "");
    let client = two(running.port()).await;
    assert_eq!(ask(&client, "/").await.status(), StatusCode::OK);
    // One of the two is held where the first was answered, the other goes elsewhere.
    let mut both = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let client = client.clone();
        both.spawn(async move { ask(&client, "/").await.status() });
    }
    assert_eq!(soon(both.join_next()).await.unwrap().unwrap(), StatusCode::OK);
    for _ in 0..10 {
        assert_eq!(ask(&client, "/").await.status(), StatusCode::OK);
    }
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_goes_away_costs_no_answer_and_a_refused_request_no_server() {
    let opened = Arc::<AtomicUsize>::default();
    let application = scripts(&[&[Step::AnswerAndGoAway], &[Step::Answer, Step::Refuse]], &opened);
    let running = before(&application, "");
    let client = two(running.port()).await;
    for _ in 0..2 {
        assert_eq!(ask(&client, "/").await.status(), StatusCode::OK);
    }
    assert_eq!(opened.load(Ordering::SeqCst), 2, "a new one in the place of that which went away");
    assert_eq!(ask(&client, "/").await.status(), StatusCode::SERVICE_UNAVAILABLE, "refused unseen");
    assert_available(&metrics(&running), &application);
    for _ in 0..3 {
        assert_eq!(ask(&client, "/").await.status(), StatusCode::OK);
    }
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

/// Many bodies at once that it says it did not read, and it is asked like any other the next time.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_ends_a_connection_in_good_order_is_not_left_alone_for_it() {
    const GOES: &[Step] = &[Step::Answer, Step::GoAway];
    let opened = Arc::<AtomicUsize>::default();
    let application = scripts(&[GOES, GOES, GOES, GOES], &opened);
    let running = before(&application, "");
    let client = two(running.port()).await;
    for n in 1..=4 {
        assert_eq!(ask(&client, "/").await.status(), StatusCode::OK);
        let request = Request::post("https://localhost/posted").body(whole("body")).unwrap();
        let answer = soon(client.clone().send_request(request)).await.unwrap();
        assert_eq!((answer.status(), opened.load(Ordering::SeqCst)), (StatusCode::SERVICE_UNAVAILABLE, n));
        assert!(answer.headers().contains_key("retry-after"));
        assert_available(&metrics(&running), &application);
    }
}

/// What changes nothing, and whatever the server says it did not process (RFC 9113 §6.8), as long as all of it is still here.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_may_be_said_twice_is_asked_once_more_where_a_connection_went_away_under_it() {
    const GOES: &[Step] = &[Step::Answer, Step::GoAway];
    const CLOSES: &[Step] = &[Step::Answer, Step::Close];
    let (fine, away, lost) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY);
    let rows: [(&'static [&'static [Step]], _, _, _); 3] = [
        (&[GOES, GOES, GOES], fine, away, 4),
        // Neither is it repeated for ever.
        (&[GOES, GOES, &[Step::GoAway]], away, fine, 4),
        (&[CLOSES, CLOSES], lost, fine, 3),
    ];
    for (script, posted, with_body, connections) in rows {
        let opened = Arc::<AtomicUsize>::default();
        let application = scripts(script, &opened);
        let running = before(&application, "");
        let client = two(running.port()).await;
        for _ in 0..2 {
            assert_eq!(ask(&client, "/").await.status(), StatusCode::OK);
        }
        assert_eq!(opened.load(Ordering::SeqCst), 2);
        for (body, status) in [("", posted), ("body", with_body)] {
            let request = Request::post("https://localhost/posted").body(whole(body)).unwrap();
            assert_eq!(soon(client.clone().send_request(request)).await.unwrap().status(), status, "{body}");
        }
        assert_eq!(ask(&client, "/").await.status(), StatusCode::OK);
        assert_eq!(opened.load(Ordering::SeqCst), connections);
    }
}
