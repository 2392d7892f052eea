"""The application that training sends requests through: answers of every size and framing that the gateway hands on. One decision: it
is a thread of the program that starts it, so that nothing is left to be stopped. Knows nothing of who is calling.

The last segment of the path says what is answered: 1k, 64k, 4m, chunked, upload (how many bytes came), socket (a WebSocket that
gives every message back), anything else nothing (204)."""
import asyncio
import base64
import hashlib
import queue
import ssl
import threading

SIZES = {"1k": 1 << 10, "64k": 1 << 16, "4m": 4 << 20}
HEAD = (
    "HTTP/1.1 200 OK\r\nserver: application\r\ncontent-type: text/html; charset=utf-8\r\n"
    "cache-control: no-cache\r\nvary: accept\r\n"
)
# RFC 6455, 1.3.
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def start(certificate, key):
    """Start it, and return two ports: in clear text, and over TLS with this certificate."""
    ports = queue.Queue()
    threading.Thread(target=lambda: asyncio.run(_serve(certificate, key, ports)), daemon=True).start()
    return ports.get(timeout=20), ports.get(timeout=20)


async def _serve(certificate, key, ports):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    servers = [await asyncio.start_server(_connection, "127.0.0.1", 0, ssl=tls) for tls in (None, context)]
    for server in servers:
        ports.put(server.sockets[0].getsockname()[1])
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _connection(reader, writer):
    try:
        while head := await _head(reader):
            await _answer(head, reader, writer)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # The gateway left.
    finally:
        writer.close()


async def _head(reader):
    """Method, path and fields; nothing where the connection ended."""
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = first.split(" ")
    fields = (line.split(":", 1) for line in lines if line)
    return method, path, {name.lower(): value.strip() for name, value in fields}


async def _body(reader, fields):
    """How many bytes came."""
    if fields.get("transfer-encoding") != "chunked":
        return len(await reader.readexactly(int(fields.get("content-length", 0))))
    came = 0
    while size := int(await reader.readline(), 16):
        came += len(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return came


async def _answer(head, reader, writer):
    _, path, fields = head
    what = path.split("?")[0].rsplit("/", 1)[1]
    if what == "socket":
        return await _socket(reader, writer, fields["sec-websocket-key"])
    came = await _body(reader, fields)
    if what == "chunked":
        writer.write((HEAD + "transfer-encoding: chunked\r\n\r\n").encode())
        for _ in range(8):
            writer.write(b"1000\r\n" + b"c" * 0x1000 + b"\r\n")
            # Pieces come one by one, as from a template that is being written.
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
    elif what in SIZES or what == "upload":
        body = str(came).encode() if what == "upload" else b"x" * SIZES[what]
        writer.write((HEAD + f"content-length: {len(body)}\r\n\r\n").encode() + body)
    else:
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def _socket(reader, writer, key):
    accept = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "upgrade: websocket", "connection: upgrade"]
    writer.write("\r\n".join([*lines, f"sec-websocket-accept: {accept}", "", ""]).encode())
    while True:
        kind, length = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        message = bytes(byte ^ mask[at % 4] for at, byte in enumerate(await reader.readexactly(length & 0x7F)))
        # A server masks nothing. Messages of training are shorter than 126 bytes; a close frame is given back as any other.
        writer.write(bytes([kind, len(message)]) + message)
        await writer.drain()
        if kind & 0x0F == 8:
            return
