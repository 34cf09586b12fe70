"""An HTTP/3 client: client.py CERTIFICATE NAME PORT OCTETS. Fetches so many and sends them back, and says whether all was right."""

import asyncio
import hashlib
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

PATTERN = bytes(range(251)) * 4096


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = H3Connection(self._quic)
        self.answers = {}

    async def ask(self, method, name, path, body=b""):
        stream = self._quic.get_next_available_stream_id()
        done = asyncio.get_running_loop().create_future()
        self.answers[stream] = (bytearray(), done)
        fields = [(b":method", method), (b":scheme", b"https"), (b":authority", name), (b":path", path)]
        self.http.send_headers(stream, fields, end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        return await done

    def quic_event_received(self, event):
        for part in self.http.handle_event(event):
            body, done = self.answers[part.stream_id]
            if isinstance(part, HeadersReceived):
                assert dict(part.headers)[b":status"] == b"200", part.headers
            elif isinstance(part, DataReceived):
                body.extend(part.data)
            if part.stream_ended:
                done.set_result(bytes(body))


async def main(certificate, name, port, octets):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(certificate)
    expected = (PATTERN * (int(octets) // len(PATTERN) + 1))[: int(octets)]
    async with connect("127.0.0.1", int(port), configuration=configuration, create_protocol=Client) as client:
        got = await client.ask(b"GET", name.encode(), f"/bytes/{octets}".encode())
        assert got == expected, f"{len(got)} octets, or others"
        sum_of_sent = await client.ask(b"POST", name.encode(), b"/sum", expected)
        assert sum_of_sent.decode() == hashlib.sha256(expected).hexdigest()
    print("all was right")


asyncio.run(main(*sys.argv[1:]))
