"""A peer that answers like Amazon Transcribe's WebSocket interface at next to no cost, so that a client can be measured.

Five results of about 600 bytes for each second of audio, every fifteenth of them final; an empty audio event ends the stream.
"""

from __future__ import annotations

import datetime
import multiprocessing
import ssl
from multiprocessing.connection import Connection
from pathlib import Path

import picows
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from audio.engines.aws_events import EMPTY_EVENT_BYTES, event_message

RESULT_BYTES = 6_400
"""Audio after which a result is due: 200 ms."""

UNTIL_FINAL = 15


def make_certificate(folder: Path) -> Path:
    """Write a key and a certificate for ``localhost``, valid for a day, into ``folder``; gives the file with both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "peer.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def results() -> list[bytes]:
    """The messages of one segment, in order."""
    messages = []
    for count in range(1, UNTIL_FINAL + 1):
        items = ",".join(
            f'{{"Content":"word{at}","EndTime":{at / 2 + 0.4},"StartTime":{at / 2},"Type":"pronunciation"}}'
            for at in range(min(count, 5))
        )
        text = " ".join(f"word{at}" for at in range(min(count, 5)))
        partial = "false" if count == UNTIL_FINAL else "true"
        payload = (
            f'{{"Transcript":{{"Results":[{{"Alternatives":[{{"Items":[{items}],"Transcript":"{text}"}}],'
            f'"EndTime":{count / 5},"IsPartial":{partial},"ResultId":"one","StartTime":0.0}}]}}}}'
        )
        messages.append(event_message("TranscriptEvent", payload.encode()))
    return messages


class _Answer(picows.WSListener):
    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self._heard = 0
        self._next = 0

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.payload_size <= EMPTY_EVENT_BYTES:
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()
        else:
            self._heard += frame.payload_size - EMPTY_EVENT_BYTES
            while self._heard >= RESULT_BYTES:
                self._heard -= RESULT_BYTES
                transport.send(picows.WSMsgType.BINARY, self._messages[self._next % UNTIL_FINAL])
                self._next += 1


def _serve(certificate: Path, ready: Connection) -> None:
    async def main() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        messages = results()
        server = await picows.ws_create_server(
            lambda _: _Answer(messages), "127.0.0.1", 0, ssl=context, backlog=1000
        )
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


class Peer:
    """The peer in a process of its own; ``port`` is where it listens on loopback."""

    def __init__(self, certificate: Path) -> None:
        spawn = multiprocessing.get_context("spawn")
        theirs, ours = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(certificate, ours), daemon=True)
        self._process.start()
        self.port: int = theirs.recv()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def trusting(certificate: Path) -> ssl.SSLContext:
    """A client's context that trusts the peer."""
    return ssl.create_default_context(cafile=str(certificate))
