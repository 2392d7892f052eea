"""A gRPC server without generated code: messages are bytes. Says where it listens; ends with its standard input."""

import sys
import threading
from concurrent import futures

import grpc

seen = {"cancelled": 0, "deadline": 0.0}
cancelled = threading.Event()


def who(context):
    return dict(context.invocation_metadata()).get("x-forwarded-user", "nobody").encode()


def unary(request, context):
    context.send_initial_metadata((("x-initial", "1"),))
    context.set_trailing_metadata((("x-trailing", "2"), ("x-binary-bin", b"\x00\xff")))
    return who(context) + b" " + request


def up(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def down(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def both(requests, context):
    for request in requests:
        yield who(context) + b" " + request


def slow(request, context):
    """Answers when nobody waits any more."""
    remaining = context.time_remaining()
    seen["deadline"] = remaining if remaining is not None else -1.0

    def ended():
        seen["cancelled"] += 1
        cancelled.set()

    context.add_callback(ended)
    cancelled.wait(30)
    return b"too late"


def told(request, context):
    cancelled.wait(30)
    return f"cancelled {seen['cancelled']}, with {0 < seen['deadline'] <= 1} deadline".encode()


def fail(request, context):
    context.set_trailing_metadata((("x-why", "tested"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 % sure")


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Told": grpc.unary_unary_rpc_method_handler(told),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Admin": grpc.unary_unary_rpc_method_handler(unary),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("it.Echo", handlers),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print("listens on", port, flush=True)
server.wait_for_termination()
