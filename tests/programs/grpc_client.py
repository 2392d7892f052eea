"""Asks a gRPC server through the gateway and prints what it got, a line a call. Arguments: port, file of trusted certificates,
session cookie of one who may, session cookie of one who holds no role."""

import queue
import sys

import grpc

port, trusted, may, other = sys.argv[1:]
with open(trusted, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
channel = grpc.secure_channel(f"localhost:{port}", credentials)
cookie = (("cookie", may),)


def status(what, call):
    try:
        print(what, call())
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ()).get("x-why", "-")
        print(what, error.code().name, error.details(), trailing)


unary = channel.unary_unary("/it.Echo/Unary")
answer, call = unary.with_call(b"hello", metadata=cookie, timeout=20)
print("unary", answer.decode(), dict(call.initial_metadata())["x-initial"])
trailing = dict(call.trailing_metadata())
print("trailers", trailing["x-trailing"], trailing["x-binary-bin"])
large = unary(b"x" * 3_000_000, metadata=cookie, timeout=20)
print("large", len(large))
print("up", channel.stream_unary("/it.Echo/Up")((b"x" * 1000 for _ in range(2000)), metadata=cookie, timeout=20).decode())
got = [int(number) for number in channel.unary_stream("/it.Echo/Down")(b"2000", metadata=cookie, timeout=20)]
print("down", got == list(range(2000)))

# Each message is sent when the answer to the one before is there: nothing may wait for more.
waiting = queue.Queue()
stream = channel.stream_stream("/it.Echo/Both")(iter(waiting.get, None), metadata=cookie, timeout=20)
rounds = 0
for number in range(100):
    waiting.put(b"%d" % number)
    rounds += next(stream) == b"demo %d" % number
waiting.put(None)
print("both", rounds, list(stream), stream.code().name)

status("deadline", lambda: channel.unary_unary("/it.Echo/Slow")(b"", metadata=cookie, timeout=0.5))
print("told", channel.unary_unary("/it.Echo/Told")(b"", metadata=cookie, timeout=20).decode())
status("fail", lambda: channel.unary_unary("/it.Echo/Fail")(b"", metadata=cookie, timeout=20))
status("nobody", lambda: unary(b"", timeout=20))
status("forged", lambda: unary(b"", metadata=(("x-forwarded-user", "demo"),), timeout=20))
admin = channel.unary_unary("/it.Echo/Admin")
print("admin", admin(b"hello", metadata=cookie, timeout=20).decode())
status("no role", lambda: admin(b"", metadata=(("cookie", other),), timeout=20))
status("no route", lambda: channel.unary_unary("/it.Other/Unary")(b"", metadata=cookie, timeout=20))
status("no method", lambda: channel.unary_unary("/it.Echo/Nothing")(b"", metadata=cookie, timeout=20))
status("no server", lambda: channel.unary_unary("/it.Gone/Unary")(b"", metadata=cookie, timeout=20))
