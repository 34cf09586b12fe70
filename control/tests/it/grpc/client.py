"""A gRPC client: client.py CERTIFICATES NAME PORT REST. Calls in every way there is, rests so many seconds within a call, and says
whether all was right."""

import queue
import sys
import threading
import time

import grpc

certificates, name, port, rest = sys.argv[1:]
channel = grpc.secure_channel(
    f"ipv4:127.0.0.1:{port}",
    grpc.ssl_channel_credentials(open(certificates, "rb").read()),
    (("grpc.ssl_target_name_override", name), ("grpc.default_authority", f"{name}:{port}")),
)


def method(kind, name):
    return getattr(channel, kind)(f"/test.Service/{name}")


def equal(one, other):
    assert one == other, f"{one!r} is not {other!r}"


# One message there and one back, with fields before and behind.
for length in (0, 1, 3_000_000):
    message = bytes(index % 251 for index in range(length))
    answer, call = method("unary_unary", "Echo").with_call(message, timeout=60, metadata=(("word", "hello"),))
    assert answer == message, f"{len(answer)} octets of {length}"
    equal(dict(call.initial_metadata())["word-before"], "hello")
    trailers = dict(call.trailing_metadata())
    equal(trailers["word-after"], "hello")
    equal(trailers["trace-bin"], bytes(range(256)))
    equal(call.code(), grpc.StatusCode.OK)

# Many back, many there.
equal(list(method("unary_stream", "Count")(b"2000", timeout=60)), [b"%d" % number for number in range(2000)])
pieces = (b"x" * (number % 1000) for number in range(5000))
equal(method("stream_unary", "Add")(pieces, timeout=60), b"%d" % (5 * sum(range(1000))))

# Both at a time: the next is said only when the last has come back, and after a rest as well.
said = queue.Queue()
heard = method("stream_stream", "Talk")(iter(said.get, None), timeout=120)
for number in range(100):
    said.put(b"%d" % number)
    equal(next(heard), b"%d" % number)
time.sleep(float(rest))
said.put(b"still here")
equal(next(heard), b"still here")
said.put(None)
equal(list(heard), [])

# A status other than OK, behind a message and at once.
failing = method("unary_stream", "Fail")(b"", timeout=60)
equal(next(failing), b"one")
try:
    next(failing)
    raise AssertionError("it did not fail")
except grpc.RpcError as error:
    equal(error.code(), grpc.StatusCode.DATA_LOSS)
    equal(error.details(), "disk 3 \u2013 gone")
    equal(dict(error.trailing_metadata())["why"], "it is a test")
try:
    method("unary_unary", "Nothing")(b"", timeout=60)
    raise AssertionError("there is no such method")
except grpc.RpcError as error:
    equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)

# Nobody waits any longer, and the service hears of that.
try:
    method("unary_unary", "Hang")(b"", timeout=0.5)
    raise AssertionError("it answered")
except grpc.RpcError as error:
    equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
equal(method("unary_unary", "WasCancelled")(b"", timeout=60), b"yes")

# A hundred conversations at a time over one connection, none of which waits for another.
turns = threading.Barrier(100, timeout=60)
failed = []


def converse(number):
    try:
        said = queue.Queue()
        heard = method("stream_stream", "Talk")(iter(said.get, None), timeout=120)
        for turn in range(3):
            said.put(b"%d %d" % (number, turn))
            equal(next(heard), b"%d %d" % (number, turn))
            turns.wait()  # all have one under way
        said.put(None)
        equal(list(heard), [])
    except BaseException as error:
        failed.append(error)
        turns.abort()


threads = [threading.Thread(target=converse, args=(number,)) for number in range(100)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed[0]

print("all was right")
