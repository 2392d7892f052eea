//! A real gRPC client and server with the gateway between them: calls of every shape, trailers, deadlines, and refusals that the
//! client's library understands.

use crate::support::{add_user, run_text, shipped};
use crate::tools::{self, Service, program};

const ROUTES: &str = r#"
[upstream.gone]
servers = ["h2c://127.0.0.1:1"]
[[route]]
name = "echo"
path = "/it.Echo"
access = "authenticated"
upstream = "app"
[[route]]
name = "echo-admin"
path = "/it.Echo/Admin"
access = { roles = ["admin"] }
upstream = "app"
[[route]]
name = "gone"
path = "/it.Gone"
access = "authenticated"
upstream = "gone"
"#;

const EXPECTED: &str = r"unary demo hello 1
trailers 2 b'\x00\xff'
large 3000005
up 2000000
down True
both 100 [] OK
deadline DEADLINE_EXCEEDED Deadline Exceeded -
told cancelled 1, with True deadline
fail FAILED_PRECONDITION not today: 100 % sure tested
nobody UNAUTHENTICATED You are not signed in. -
forged UNAUTHENTICATED You are not signed in. -
admin demo hello
no role PERMISSION_DENIED Your account may not open this page. -
no route UNIMPLEMENTED There is nothing at this address. -
no method UNIMPLEMENTED Method not found! -
no server UNAVAILABLE The application cannot be reached. -
";

#[test]
fn grpc_calls_of_every_shape_go_through_and_refusals_are_its_own() {
    let service = Service::start(tools::python("python").arg(program("grpc_server.py")));
    let port = service.says_port("listens on ");
    // No route but those below: what is not listed is not there.
    let text = shipped("memory").replace("builtin:whoami", &format!("h2c://127.0.0.1:{port}"));
    let text = format!("{}{ROUTES}", &text[..text.find("[[route]]").unwrap()]);
    let (folder, password) = (tempfile::tempdir().unwrap(), "a password of a test");
    add_user(folder.path(), &text, "demo", password, &["admin"]);
    add_user(folder.path(), &text, "carol", password, &[]);
    let running = run_text(folder, &text);
    assert_eq!(running.sign_in_as("carol", password).status, 303);
    let other = running.cookie();
    assert_eq!(running.sign_in_as("demo", password).status, 303);
    let said = tools::python("python")
        .arg(program("grpc_client.py"))
        .arg(running.port().to_string())
        .arg(running.folder.path().join("certs/gateway.pem"))
        .args([running.cookie(), other])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!(out, EXPECTED, "{err}");
}
