//! Applications that nobody changed, each in front of nothing but its own documented settings: Jupyter Server, which lives on
//! WebSockets; Radicale, which believes a header; Node-RED, whose editor is a page of a hundred files and a socket.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, Stream, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};

use crate::browser::Browser;
use crate::support::{Running, run_text, shipped};
use crate::tools::{self, Service};
use crate::wire::{connect, socket_over_two, soon};

/// The shipped configuration in front of an application on this port.
fn before(port: u16, more: &str) -> Running {
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{port}\""));
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{more}"));
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    running
}

fn jupyter(folder: &std::path::Path) -> (Service, u16) {
    let mut command = tools::python("jupyter");
    command.args(["server", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]);
    // Who may come in is the gateway's business; everything else of its own protection stays on.
    command.arg("--IdentityProvider.token=").arg(format!("--ServerApp.root_dir={}", folder.display()));
    for variable in ["HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"] {
        command.env(variable, folder);
    }
    let service = Service::start(&mut command);
    let port = service.says_port("http://127.0.0.1:");
    (service, port)
}

/// Runs a cell over an open kernel socket; what it printed.
async fn run_cell<S>(socket: &mut S, code: &str) -> String
where
    S: Stream<Item = Result<Message, Error>> + SinkExt<Message, Error = Error> + Unpin,
{
    let id = format!("cell-{}", code.len());
    let request = json!({
        "channel": "shell", "parent_header": {}, "metadata": {}, "buffers": [],
        "header": { "msg_id": id, "msg_type": "execute_request", "version": "5.3", "username": "", "session": "it",
            "date": "2026-01-01T00:00:00Z" },
        "content": { "code": code, "silent": false, "store_history": true, "user_expressions": {},
            "allow_stdin": false, "stop_on_error": true },
    });
    socket.send(Message::text(request.to_string())).await.unwrap();
    let (mut printed, mut replied, mut idle) = (String::new(), false, false);
    while !(replied && idle) {
        let message = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("the kernel answers");
        let Message::Text(text) = message.unwrap().unwrap() else { continue };
        let said: Value = serde_json::from_str(&text).unwrap();
        if said["parent_header"]["msg_id"] != json!(id) {
            continue;
        }
        match said["msg_type"].as_str().unwrap() {
            "stream" => printed.push_str(said["content"]["text"].as_str().unwrap()),
            "execute_reply" => {
                assert_eq!(said["content"]["status"], "ok", "{said}");
                replied = true;
            }
            "status" => idle = said["content"]["execution_state"] == "idle",
            _ => {}
        }
    }
    printed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn jupyter_runs_cells_over_its_kernel_sockets() {
    let home = tempfile::tempdir().unwrap();
    let (_service, port) = jupyter(home.path());
    let running = before(port, "");
    let curl = |path: &str, arguments: &[&str]| tokio::task::block_in_place(|| running.curl(path, arguments));
    // Its own check against forged forms goes through: a cookie there, a header back.
    assert_eq!(curl("/", &[]).status, 200);
    let jar = running.jar();
    let xsrf = jar.lines().find_map(|line| line.split_once("\t_xsrf\t")).expect("Jupyter's own cookie").1.to_owned();
    assert_eq!(curl("/api/kernels", &["-d", "{}"]).status, 403, "Jupyter misses its header");
    let header = format!("X-XSRFToken: {xsrf}");
    let kernel = curl("/api/kernels", &["-H", &header, "-d", "{}"]);
    assert_eq!(kernel.status, 201, "{}", kernel.body);
    let kernel: Value = serde_json::from_str(&kernel.body).unwrap();
    let path = format!("/api/kernels/{}/channels?session_id=it", kernel["id"].as_str().unwrap());

    let origin = format!("https://localhost:{}", running.port());
    let mut request = format!("wss://localhost:{}{path}", running.port()).into_client_request().unwrap();
    request.headers_mut().insert("cookie", running.cookie().parse().unwrap());
    request.headers_mut().insert("origin", origin.parse().unwrap());
    let stream = connect(running.port(), "http/1.1").await;
    let (mut one, _) = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    assert_eq!(run_cell(&mut one, "value = 6 * 7\nprint(value)").await, "42\n");
    // The same kernel over HTTP/2 (RFC 8441), with far more output than a frame holds.
    let mut two = socket_over_two(running.port(), &path, ("cookie", &running.cookie())).await;
    let printed = run_cell(&mut two, "print(str(value) * 100_000)").await;
    assert!(printed.trim_end().len() == 200_000 && printed.starts_with("4242"), "{}", printed.len());
    assert_eq!(curl("/api/kernels", &[]).status, 200);
    std::fs::write(running.folder.path().join("jar"), "").unwrap();
    assert_eq!(curl("/api/kernels", &[]).status, 401, "nobody runs anything unasked");
}

/// Radicale under a CGI-like server, where `X-Remote-User` and `X_Remote_User` are one name, believing it.
#[test]
fn radicale_knows_its_users_from_the_header_alone() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("radicale.conf");
    let storage = home.path().join("storage");
    let text = format!("[auth]\ntype = http_x_remote_user\n[storage]\nfilesystem_folder = {}\n", storage.display());
    std::fs::write(&file, text).unwrap();
    let serve = "import radicale; from wsgiref.simple_server import make_server
server = make_server('127.0.0.1', 0, radicale.application)
print('listens on', server.server_port, flush=True)
server.serve_forever()";
    let service = Service::start(tools::python("python").args(["-c", serve]).env("RADICALE_CONFIG", &file));
    let port = service.says_port("listens on ");
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{port}\""))
        .replace("preset = \"x-forwarded\"", "user = \"X-Remote-User\"");
    let public =
        "[[route]]\nname = \"open\"\npath = \"/open\"\naccess = \"public\"\nupstream = \"app\"\nset_prefix = \"/\"\n";
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{public}"));
    assert_eq!(running.curl("/demo/", &["-X", "PROPFIND"]).status, 401);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let made = running.curl("/demo/calendar/", &["-X", "MKCALENDAR"]);
    assert_eq!(made.status, 201, "{}\n{}", made.head, made.body);
    let event = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//it//\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20260101T000000Z\r\n\
        DTSTART:20260101T100000Z\r\nSUMMARY:Portcullis opens\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
    let put = ["-X", "PUT", "-H", "content-type: text/calendar", "-H", "if-none-match: *", "--data-binary", event];
    assert_eq!(running.curl("/demo/calendar/1.ics", &put).status, 201);
    assert_eq!(running.curl("/demo/calendar/1.ics", &put).status, 412, "conditions reach it");
    let query = "<C:calendar-query xmlns:C='urn:ietf:params:xml:ns:caldav' xmlns:D='DAV:'><D:prop><C:calendar-data/></D:prop>\
        <C:filter><C:comp-filter name='VCALENDAR'/></C:filter></C:calendar-query>";
    let found = running.curl("/demo/calendar/", &["-X", "REPORT", "-H", "depth: 1", "-d", query]);
    assert!(found.status == 207 && found.body.contains("Portcullis opens"), "{}\n{}", found.head, found.body);
    // Somebody else's calendar is somebody else's, whatever the client says of itself.
    for forged in ["X-Remote-User: root", "x_remote_user: root", "X-REMOTE_USER: root", "X.Remote.User: root"] {
        let said = running.curl("/root/", &["-X", "MKCALENDAR", "-H", forged]);
        assert_eq!(said.status, 403, "{forged}: {}", said.body);
        let open = running.curl("/open/demo/calendar/1.ics", &["-H", &forged.replace("root", "demo")]);
        assert!(open.status >= 400 && !open.body.contains("Portcullis opens"), "{forged}: {}", open.body);
    }
    assert!(!storage.join("collection-root/root").exists());
}

#[test]
fn node_red_serves_its_editor_its_socket_and_a_flow() {
    let home = tempfile::tempdir().unwrap();
    let mut command = tools::node("node-red");
    command.args(["--userDir", home.path().to_str().unwrap(), "--port", "0"]).env("HOME", home.path());
    command.args(["-D", "uiHost=127.0.0.1", "-D", "telemetry.enabled=false"]);
    let service = Service::start(&mut command);
    let port = service.says_port("Server now running at http://127.0.0.1:");
    let running = before(port, "");
    let flow = json!([
        { "id": "tab", "type": "tab", "label": "Gatehouse" },
        { "id": "in", "type": "http in", "z": "tab", "url": "/hello", "method": "get", "x": 100, "y": 60, "wires": [["say"]] },
        { "id": "say", "type": "function", "z": "tab", "x": 300, "y": 60, "outputs": 1, "wires": [["out"]],
          "func": "msg.payload = 'hello ' + msg.req.headers['x-forwarded-user']; return msg;" },
        { "id": "out", "type": "http response", "z": "tab", "x": 500, "y": 60, "wires": [] },
    ]);
    let deploy = |flow: &str| running.curl("/flows", &["-H", "content-type: application/json", "-d", flow]).status;
    assert_eq!(deploy(&flow.to_string()), 204);
    // It answers the deployment before it has started what was deployed.
    let until = Instant::now() + Duration::from_secs(20);
    while running.curl("/hello", &[]).status == 404 {
        assert!(Instant::now() < until, "the flow does not start");
    }
    for version in ["--http1.1", "--http2"] {
        let said = running.curl("/hello", &[version, "-H", "X-Forwarded-User: root"]);
        assert_eq!((said.status, said.body.as_str()), (200, "hello demo"), "{version}");
    }
    let browser = Browser::open(1280, 900, false);
    let base = format!("https://localhost:{}", running.port());
    browser.go(&format!("{base}/"));
    browser.write("#user", "demo");
    browser.write("#password", &running.password);
    browser.click("button");
    browser.until("the editor shows the flow", || browser.text().contains("Gatehouse"));
    // Deployed by somebody else while it is open: the editor hears of it over its socket.
    assert_eq!(deploy(&flow.to_string().replace("Gatehouse", "Drawbridge")), 204);
    browser.until("the socket tells it", || {
        browser.text().to_lowercase().contains("flows on the server have been updated")
    });
    browser.picture("node-red");
}
