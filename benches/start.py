"""start.py [PROGRAM] [COUNT]: milliseconds from the start of the gateway to its first 200, with the shipped gateway.toml and the
embedded store: of first starts, which make keys, certificate and user, and of later ones. The processor's time beside it is what
the gateway itself took until then: it says more on a machine that has other work."""
import contextlib
import glob
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

here = os.path.dirname(os.path.abspath(__file__))
program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else f"{here}/../target/release/portcullis")
count = int(sys.argv[2]) if len(sys.argv) > 2 else 9
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
REQUEST = b"GET /public HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def first_answer(port):
    until = time.monotonic() + 40
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 10) as raw:
            with context.wrap_socket(raw, server_hostname="localhost") as wire:
                wire.sendall(REQUEST)
                return wire.recv(4096)
        time.sleep(0.0005)
    return b""


def start(folder, port):
    began = time.perf_counter()
    command = [program, "run", "--config", f"{folder}/gateway.toml"]
    gateway = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answer = first_answer(port)
        took = time.perf_counter() - began
        assert answer.startswith(b"HTTP/1.1 200"), answer
        threads = glob.glob(f"/proc/{gateway.pid}/task/*/schedstat")
        return took * 1e3, sum(int(open(thread).read().split()[0]) for thread in threads) / 1e6
    finally:
        gateway.terminate()
        gateway.wait()


def tell(what, taken):
    wall, own = (statistics.median(column) for column in zip(*taken))
    print(f"{what}: {wall:.0f} ms (least {min(wall for wall, _ in taken):.0f}), of its own {own:.0f} ms; {len(taken)} starts")


shipped = open(f"{here}/../gateway.toml").read()
first, later = [], []
for _ in range(count):
    folder, port = tempfile.mkdtemp(), free_port()
    try:
        with open(f"{folder}/gateway.toml", "w") as file:
            file.write(shipped.replace("127.0.0.1:8443", f"127.0.0.1:{port}"))
        first.append(start(folder, port))
        later.append(start(folder, port))
    finally:
        shutil.rmtree(folder)
tell("first start", first)
tell("later start", later)
