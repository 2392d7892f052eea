"""An HTTP/2 client that sends what it is told to, made of Python's h2 with its own checks off. Reads a request a line and answers
with a line: the status, `reset CODE`, `goaway CODE` or `closed`. Argument: port.

A line is fields separated by ` | `: `GET /path`, which stands for the usual pseudo-headers, then `name: value` (a second colon at
the beginning: a pseudo-header), `= body`, `^ name: value` for a trailer, `! frame` for frames sent as they are (hexadecimal, after
the head) and `- :name` to leave out a pseudo-header. In names and values \\xNN stands for a byte."""

import re
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["h2"])


def unescape(text):
    return re.sub(rb"\\x(..)", lambda found: bytes([int(found[1], 16)]), text.encode())


def field(text):
    """A leading colon belongs to the name."""
    at = text.index(":", 1)
    value = text[at + 1 :]
    return unescape(text[:at]), unescape(value[1:] if value.startswith(" ") else value)


def parse(line):
    first, *rest = line.split(" | ")
    method, path = first.split(" ", 1)
    head = [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", unescape(path))]
    body, trailers, frames = None, [], []
    for part in rest:
        if part.startswith("= "):
            body = unescape(part[2:])
        elif part.startswith("^ "):
            trailers.append(field(part[2:]))
        elif part.startswith("! "):
            frames.append(bytes.fromhex(part[2:]))
        elif part.startswith("- "):
            head = [(name, value) for name, value in head if name != part[2:].encode()]
        else:
            head.append(field(part))
    return head, body, trailers, frames


def ask(port, line):
    head, body, trailers, frames = parse(line)
    config = h2.config.H2Configuration(
        client_side=True, header_encoding=False, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    with socket.create_connection(("127.0.0.1", port), 20) as plain, context.wrap_socket(plain, server_hostname="localhost") as stream:
        assert stream.selected_alpn_protocol() == "h2"
        connection.send_headers(1, head, end_stream=body is None and not trailers and not frames)
        if body is not None:
            connection.send_data(1, body, end_stream=not trailers)
        if trailers:
            connection.send_headers(1, trailers, end_stream=True)
        stream.sendall(connection.data_to_send() + b"".join(frames))
        status = None
        while received := stream.recv(65536):
            for event in connection.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[b":status"].decode()
                elif isinstance(event, h2.events.StreamEnded):
                    return status
                elif isinstance(event, h2.events.StreamReset):
                    return f"reset {event.error_code}"
                elif isinstance(event, h2.events.ConnectionTerminated) and event.error_code != h2.errors.ErrorCodes.NO_ERROR:
                    return f"goaway {event.error_code}"
            stream.sendall(connection.data_to_send())
    return "closed"


for line in sys.stdin:
    try:
        said = ask(int(sys.argv[1]), line.rstrip("\n"))
    except (ConnectionError, ssl.SSLError):
        said = "closed"
    print(said, flush=True)
