"""An HTTP/3 service: server.py CERTIFICATE KEY. Says on which port it listens, and of each connection by which address it came."""

import asyncio
import hashlib
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated

PATTERN = bytes(range(251)) * 4096


class Service(QuicConnectionProtocol):
    http = None

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
            self.requests = {}
        if self.http is not None:
            for part in self.http.handle_event(event):
                self.part_received(part)

    def part_received(self, part):
        if isinstance(part, HeadersReceived):
            self.requests[part.stream_id] = (dict(part.headers)[b":path"].decode(), hashlib.sha256())
        elif isinstance(part, DataReceived):
            self.requests[part.stream_id][1].update(part.data)
        if part.stream_ended:
            self.answer(part.stream_id, *self.requests.pop(part.stream_id))

    def answer(self, stream, path, heard):
        kind = b"text/html"
        if path.startswith("/bytes/"):
            length = int(path.removeprefix("/bytes/"))
            body = (PATTERN * (length // len(PATTERN) + 1))[:length]
            kind = b"application/octet-stream"
        elif path == "/sum":
            body = heard.hexdigest().encode()
        else:
            body = b"<!doctype html><title>HTTP/3</title><p>Hello from the device."
        fields = [(b":status", b"200"), (b"content-type", kind), (b"content-length", str(len(body)).encode())]
        self.http.send_headers(stream, fields)
        self.http.send_data(stream, body, end_stream=True)
        self.transmit()


async def main(certificate, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(certificate, key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Service)
    print("listening on", server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
