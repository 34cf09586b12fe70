"""A gRPC service: server.py [CERTIFICATE KEY]. Says on which port it listens. What its methods take and give is octets."""

import sys
import threading
from concurrent import futures

import grpc


def echo(message, context):
    """What it was sent, with the caller's word in front of it and behind."""
    word = dict(context.invocation_metadata()).get("word", "none")
    context.send_initial_metadata((("word-before", word),))
    context.set_trailing_metadata((("word-after", word), ("trace-bin", bytes(range(256)))))
    return message


def count(message, context):
    """Each number below the one it was sent."""
    for number in range(int(message)):
        yield b"%d" % number


def add(messages, context):
    """The octets of all it was sent."""
    return b"%d" % sum(len(message) for message in messages)


def talk(messages, context):
    """Each message at once, and the end when there are no more."""
    for message in messages:
        yield message


def fail(message, context):
    yield b"one"
    context.set_trailing_metadata((("why", "it is a test"),))
    context.abort(grpc.StatusCode.DATA_LOSS, "disk 3 \u2013 gone")


cancelled = threading.Event()


def hang(message, context):
    context.add_callback(cancelled.set)
    cancelled.wait(60)
    return b""


def was_cancelled(message, context):
    """Once nobody waits for `hang` any longer."""
    return b"yes" if cancelled.wait(30) else b"no"


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Add": grpc.stream_unary_rpc_method_handler(add),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Fail": grpc.unary_stream_rpc_method_handler(fail),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
}

server = grpc.server(futures.ThreadPoolExecutor(120))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", METHODS),))
if sys.argv[1:]:
    certificate, key = (open(name, "rb").read() for name in sys.argv[1:])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
else:
    port = server.add_insecure_port("127.0.0.1:0")
server.start()
print("listening on", port, flush=True)
server.wait_for_termination()
