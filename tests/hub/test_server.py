"""The server, as a process of its own with a small application, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0

pytestmark = pytest.mark.pure


class SmallServer:
    """`tests.hub.small_server` as a process; what it says can be waited for."""

    def __init__(self, **settings: Any) -> None:
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._past: list[dict[str, Any]] = []
        self.log = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub.small_server", json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        self._readers = [threading.Thread(target=read) for read in (self._read_events, self._read_log)]
        for reader in self._readers:
            reader.start()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put({"ended": True})

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def event(self, name: str) -> Any:
        """Wait until it says `name`; events are taken once."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for index, event in enumerate(self._past):
                if name in event:
                    return self._past.pop(index)[name]
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {name!r}; there were {self._past}\n{self.log}") from None
            self._past.append(event)
            if "ended" in event and name != "ended":
                raise AssertionError(f"the server ended before {name!r}:\n{self.log}")

    def events_so_far(self) -> list[dict[str, Any]]:
        with contextlib.suppress(queue.Empty):
            while True:
                self._past.append(self._events.get_nowait())
        return self._past

    def listening(self) -> Self:
        self.url: str = self.event("listening")
        return self

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ws(self, path: str = "/", **options: Any) -> ClientConnection:
        websocket: ClientConnection = connect(
            f"ws://{self.url.removeprefix('http://')}{path}", open_timeout=PATIENCE, **options
        )
        return websocket

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def http(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def get(self, path: str) -> tuple[int, bytes]:
        with contextlib.closing(self.http()) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        family = [psutil.Process(self.process.pid), *self.workers()] if self.process.poll() is None else []
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.wait()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


QUICK = {"close_timeout": 0.3, "flush_timeout": 1.0, "application_timeout": 0.5, "drain_timeout": 3.0}


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with SmallServer(options=QUICK) as running:
        yield running.listening()


@contextlib.contextmanager
def small_server(**settings: Any) -> Iterator[SmallServer]:
    settings["options"] = {**QUICK, **settings.get("options", {})}
    with SmallServer(**settings) as running:
        yield running.listening()


def close_of(websocket: ClientConnection) -> tuple[int | None, str]:
    """Read to the end; the close code and reason that arrived."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            websocket.recv(timeout=PATIENCE)
    return websocket.close_code, websocket.close_reason or ""


def until(condition: Callable[[], Any]) -> Any:
    """Poll for what gives no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return result


def handshake(sock: socket.socket, path: str = "/", *headers: str) -> bytes:
    """Upgrade a raw socket; what came after the answer's head."""
    lines = [
        f"GET {path} HTTP/1.1",
        *("Host: localhost", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
        *headers,
    ]
    sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(4096)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    return rest


def masked(payload: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, f"ended after {data!r}"
        data += part
    return data


def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(65536):
            data += part
    return data


# --- frames ---------------------------------------------------------------------------------------


def test_text_frames_are_echoed_in_order(server: SmallServer) -> None:
    with server.ws() as websocket:
        texts = [f"text {number} é" * (number + 1) for number in range(200)]
        for text in texts:
            websocket.send(text)
        assert [websocket.recv(timeout=PATIENCE) for _ in texts] == texts


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 128 * 1024])
def test_frames_of_every_length_form_pass(server: SmallServer, size: int) -> None:
    with server.ws() as websocket:
        websocket.send("x" * size)
        assert websocket.recv(timeout=PATIENCE) == "x" * size


def test_frames_cut_anywhere_arrive_whole(server: SmallServer) -> None:
    frames = masked(b"one") + masked("zwei é".encode()) + masked(b"x" * 300)
    with server.raw() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handshake(sock)
        for cut in range(1, len(frames), 7):
            sock.sendall(frames[:cut])
            # The server's read of the first part is not to be seen from here.
            time.sleep(0.001)
            sock.sendall(frames[cut:])
            assert read_exactly(sock, 5) == b"\x81\x03one"
            assert read_exactly(sock, 9) == b"\x81\x07zwei \xc3\xa9"
            assert read_exactly(sock, 304) == b"\x81\x7e\x01\x2c" + b"x" * 300


def test_fragments_with_a_ping_between_are_one_message(server: SmallServer) -> None:
    with server.raw() as sock:
        handshake(sock)
        first, second = "é".encode()
        sock.sendall(
            masked(b"a" + bytes([first]), fin=False)
            + masked(b"are you there", Opcode.PING)
            + masked(bytes([second]) + b"b", Opcode.CONT)
            + masked(b"next")
        )
        assert read_exactly(sock, 15) == b"\x8a\x0dare you there"
        assert read_exactly(sock, 6) == b"\x81\x04a\xc3\xa9b"
        assert read_exactly(sock, 6) == b"\x81\x04next"


def test_pongs_between_texts_are_passed_over(server: SmallServer) -> None:
    with server.raw() as sock:
        handshake(sock)
        sock.sendall(
            masked(b"", Opcode.PONG) + masked(b"one") + masked(b"x" * 125, Opcode.PONG) + masked(b"two")
        )
        assert read_exactly(sock, 10) == b"\x81\x03one\x81\x03two"


def test_plain_asgi_messages_work_too(server: SmallServer) -> None:
    with server.ws("/plain", subprotocols=["chatbe.v1", "otp.secret"]) as websocket:
        assert websocket.subprotocol == "chatbe.v1"
        websocket.send("é")
        assert websocket.recv(timeout=PATIENCE) == "é"
        websocket.send(b"\x00\xff" * 1000)
        assert websocket.recv(timeout=PATIENCE) == b"\x00\xff" * 1000
        websocket.send("close 1012 back soon")
        assert close_of(websocket) == (1012, "back soon")


# --- closes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1009, 1011, 1012, 4001, 4003, 4008, 4401])
def test_every_close_code_arrives_with_its_reason(server: SmallServer, code: int) -> None:
    with server.ws() as websocket:
        websocket.send(f"/close {code} because of é")
        assert close_of(websocket) == (code, "because of é")


def test_a_client_that_closes_gets_its_code_back_and_the_application_hears_it_once() -> None:
    with small_server() as server:
        with server.ws() as websocket:
            websocket.close(4242, "done")
            assert websocket.close_code == 4242
        assert server.event("lost") == 4242
        assert server.event("disconnect") == 4242
        with server.raw() as sock:
            handshake(sock)
            sock.sendall(masked(b"", Opcode.CLOSE))
            read_to_end(sock)
        assert server.event("disconnect") == 1005
        with server.raw() as sock:
            handshake(sock)
        assert server.event("disconnect") == 1006
        # The application is told twice of each, by its receiver and by ASGI, and not more.
        server.process.terminate()
        assert server.wait() == 0
        ends = [event for event in server.events_so_far() if "lost" in event or "disconnect" in event]
        assert ends == [{"lost": 1005}, {"lost": 1006}]


def test_a_binary_frame_is_told_and_closed_as_the_application_says(server: SmallServer) -> None:
    with server.ws() as websocket:
        websocket.send(b"binary")
        assert close_of(websocket)[0] == 1003


def test_a_message_over_the_limit_is_closed_with_1009(server: SmallServer) -> None:
    with server.ws() as websocket:
        websocket.send("x" * (128 * 1024 + 1))
        assert close_of(websocket)[0] == 1009
    with server.ws() as websocket:
        websocket.send(["x" * 100_000, "x" * 40_000])
        assert close_of(websocket)[0] == 1009
    with server.raw() as sock:
        # Announced only: not a byte of it is waited for.
        handshake(sock)
        sock.sendall(b"\x81\xff" + struct.pack("!Q", 2**40) + b"mask")
        assert read_exactly(sock, 4)[2:] == struct.pack("!H", 1009)


@pytest.mark.parametrize("payload", [b"\xff", b"good \xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_invalid_utf8_is_closed_with_1007(server: SmallServer, payload: bytes) -> None:
    for frames in (masked(payload), masked(b"", fin=False) + masked(payload, Opcode.CONT)):
        with server.raw() as sock:
            handshake(sock)
            sock.sendall(frames)
            assert read_exactly(sock, 4)[2:] == struct.pack("!H", 1007)


def test_frames_against_the_protocol_are_closed_with_1002(server: SmallServer) -> None:
    for frame in (
        Frame(Opcode.TEXT, b"unmasked").serialize(mask=False),
        b"\xc1" + masked(b"reserved bit")[1:],
        masked(b"continues nothing", Opcode.CONT),
        b"\x83" + masked(b"unknown opcode")[1:],
    ):
        with server.raw() as sock:
            handshake(sock)
            sock.sendall(frame)
            assert read_exactly(sock, 4)[2:] == struct.pack("!H", 1002)


def test_a_client_that_ignores_a_close_is_dropped_within_the_time_for_it(server: SmallServer) -> None:
    for frame in (masked(b"/close 4001"), masked(b"\xff")):
        with server.raw() as sock:
            handshake(sock)
            started = time.monotonic()
            sock.sendall(frame)
            read_to_end(sock)
            assert 0.2 < time.monotonic() - started < 2.5


def test_what_was_written_before_a_close_arrives_before_it(server: SmallServer) -> None:
    with server.ws(max_queue=None) as websocket:
        websocket.send("/burst 3000 1000")
        websocket.send("/close 4001 after all")
        received = [websocket.recv(timeout=PATIENCE) for _ in range(3000)]
        assert [int(str(text).split(" ", 1)[0]) for text in received] == list(range(3000))
        assert close_of(websocket) == (4001, "after all")


def test_a_close_behind_a_backlog_that_nobody_reads_ends_within_a_bounded_time() -> None:
    with small_server() as server, server.raw() as sock:
        handshake(sock)
        sock.sendall(masked(b"/burst 30000 1000") + masked(b"/close 4001"))
        assert server.event("lost") == 1006
        # So does one that the client began.
        with server.raw() as other:
            handshake(other)
            other.sendall(masked(b"/burst 30000 1000") + masked(b"\x03\xe8", Opcode.CLOSE))
            assert server.event("lost") == 1000


def test_an_abort_drops_the_connection(server: SmallServer) -> None:
    with server.ws() as websocket:
        websocket.send("/abort")
        assert close_of(websocket)[0] == 1006


@pytest.mark.parametrize(
    "last", [b"/release", b"said back", b"x" * 200_000], ids=["silent", "echoed", "long"]
)
def test_a_reset_just_after_the_last_frame_ends_the_connection(server: SmallServer, last: bytes) -> None:
    process = psutil.Process(server.process.pid)
    frames = [masked(last[start : start + 50_000]) for start in range(0, len(last), 50_000)]
    with server.ws() as other:
        with server.raw() as sock:
            handshake(sock)
            # So that it finds the frame and the reset in one look.
            process.suspend()
            try:
                sock.sendall(b"".join(frames))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            finally:
                process.resume()
        # Others ended in order.
        while server.event("lost") != 1006:
            pass
        other.send("still here")
        assert other.recv(PATIENCE) == "still here"
    # On the same descriptor.
    with server.ws() as again:
        again.send("hello")
        assert again.recv(PATIENCE) == "hello"


def test_frames_after_a_close_do_not_reach_the_application(server: SmallServer) -> None:
    with server.raw() as sock:
        handshake(sock)
        sock.sendall(
            masked(b"one") + masked(b"/close 4001") + masked(b"two") + masked(b"\x0f\xa1", Opcode.CLOSE)
        )
        assert read_to_end(sock) == b"\x81\x03one\x88\x02" + struct.pack("!H", 4001)


# --- the application ------------------------------------------------------------------------------


def test_a_close_before_accept_is_403_and_a_failure_is_500(server: SmallServer) -> None:
    for path, status in (("/refuse", 403), ("/crash", 500)):
        with pytest.raises(InvalidStatus) as refused:
            server.ws(path)
        assert refused.value.response.status_code == status


def test_a_failing_application_closes_with_1011_and_a_finished_one_with_1000(server: SmallServer) -> None:
    with server.ws() as websocket:
        websocket.send("/raise")
        assert close_of(websocket)[0] == 1011
    with server.ws("/crash-after-accept") as websocket:
        assert close_of(websocket)[0] == 1011
    with server.ws("/return") as websocket:
        assert close_of(websocket)[0] == 1000
    assert "planted" in server.log


def test_an_application_that_goes_on_after_the_end_is_cancelled() -> None:
    with small_server() as server:
        with server.ws("/deaf"):
            pass
        assert server.event("deaf")
        until(lambda: "went on too long" in server.log)


def test_a_handshake_that_is_never_accepted_is_refused_in_time() -> None:
    with small_server(options={"accept_timeout": 0.2}) as server:
        with pytest.raises(InvalidStatus) as refused:
            server.ws("/hang")
        assert refused.value.response.status_code == 403
        assert server.event("code") == 1006


def test_a_bad_handshake_is_refused() -> None:
    with small_server() as server:
        for key, value in (("Sec-WebSocket-Key", "short"), ("Sec-WebSocket-Version", "7")):
            with contextlib.closing(server.http()) as connection:
                headers = {
                    "Upgrade": "websocket",
                    "Connection": "Upgrade",
                    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                    "Sec-WebSocket-Version": "13",
                    key: value,
                }
                connection.request("GET", "/", headers=headers)
                assert connection.getresponse().status in {400, 426}
        server.process.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.log


# --- backpressure ---------------------------------------------------------------------------------


def test_a_slow_reader_costs_bounded_memory_and_is_told_when_it_has_read() -> None:
    with small_server() as server, server.ws(max_queue=1) as websocket:
        memory = psutil.Process(server.process.pid).memory_info
        before = memory().rss
        websocket.send("/flood 30000 5000")
        # Nothing is read until the kernel's buffers and the application's allowance are full.
        time.sleep(0.3)
        for _ in range(30_000):
            websocket.recv(timeout=PATIENCE)
        report = json.loads(websocket.recv(timeout=PATIENCE))
        # 150 MB went through.
        assert report["most"] < 256 * 1024 + 5010
        assert report["drains"] > 3
        assert memory().rss - before < 20_000_000


def test_a_paused_socket_is_read_on_where_it_stopped(server: SmallServer) -> None:
    with server.raw() as sock, server.ws() as other:
        handshake(sock)
        sock.sendall(masked(b"one") + masked(b"/pause") + masked(b"two") + masked(b"thr", fin=False))
        sock.sendall(masked(b"ee", Opcode.CONT) + masked(b"four"))
        assert read_exactly(sock, 13) == b"\x81\x03one\x81\x06paused"
        other.send("barrier")
        assert other.recv(timeout=PATIENCE) == "barrier"
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(PATIENCE)
        other.send("/release")
        assert read_exactly(sock, 18) == b"\x81\x03two\x81\x05three\x81\x04four"


def test_a_paused_socket_can_still_be_closed_in_order(server: SmallServer) -> None:
    with server.ws() as websocket:
        websocket.send("/pause")
        assert websocket.recv(timeout=PATIENCE) == "paused"
        websocket.send("never taken")
        with server.ws() as other:
            other.send("/release")
        assert websocket.recv(timeout=PATIENCE) == "never taken"


def test_pings_of_a_client_that_reads_nothing_are_not_answered_without_end() -> None:
    with small_server() as server, server.raw() as sock:
        handshake(sock)
        memory = psutil.Process(server.process.pid).memory_info
        before = memory().rss
        sock.settimeout(0.5)
        ping = masked(b"x" * 125, Opcode.PING) * 100
        with contextlib.suppress(TimeoutError):
            for _ in range(4000):
                sock.sendall(ping)
        assert memory().rss - before < 20_000_000


# --- life and silence -----------------------------------------------------------------------------

WATCHFUL = {"ping_interval": 0.5, "ping_timeout": 0.5}


def test_a_client_that_answers_no_ping_is_dropped_although_it_is_sent_to() -> None:
    with small_server(options=WATCHFUL) as server, server.raw() as sock:
        handshake(sock)
        sock.sendall(masked(b"/burst 10 10"))
        data = read_to_end(sock)
        assert b"\x89\x00" in data
        assert server.event("lost") == 1006


def test_a_client_that_answers_pings_stays() -> None:
    with small_server(options=WATCHFUL) as server, server.ws(ping_interval=None) as websocket:
        # Three times what silence is allowed.
        with pytest.raises(TimeoutError):
            websocket.recv(timeout=3.5)
        websocket.send("still here")
        assert websocket.recv(timeout=PATIENCE) == "still here"


def test_a_slow_reader_that_makes_progress_is_alive_and_one_that_makes_none_is_not() -> None:
    with small_server(options=WATCHFUL) as server, server.raw() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        handshake(sock)
        sock.sendall(masked(b"/burst 20000 1000"))
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            read_exactly(sock, 150_000)
            time.sleep(0.05)
        assert not server.events_so_far()
        assert server.event("lost") == 1006


def test_a_server_that_stood_still_blames_no_client() -> None:
    options = {"ping_interval": 0.5, "ping_timeout": 2}
    with small_server(options=options) as server, server.ws(ping_interval=None) as websocket:
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(server.process.pid, signal.SIGCONT)
        websocket.send("still here")
        assert websocket.recv(timeout=PATIENCE) == "still here"
        with pytest.raises(TimeoutError):
            websocket.recv(timeout=1.5)
        assert not server.events_so_far()


# --- limits ---------------------------------------------------------------------------------------


def test_a_socket_over_the_limit_is_refused_with_503_and_taken_when_another_has_left() -> None:
    with small_server(options={"max_sockets": 2}) as server, server.ws() as first, server.ws():
        with pytest.raises(InvalidStatus) as refused:
            server.ws()
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) > 0
        assert server.get("/hello")[0] == 200
        first.close()
        assert server.event("disconnect") == 1000
        with server.ws() as third:
            third.send("in")
            assert third.recv(timeout=PATIENCE) == "in"


def test_a_body_over_the_limit_is_refused_with_413_before_it_is_read() -> None:
    with small_server(options={"max_body": 1000}) as server:
        connection = server.http()
        connection.request("POST", "/x", body=b"x" * 1000)
        assert json.loads(connection.getresponse().read())["body"] == 1000
        for headers, body in (
            ({"Content-Length": "1001"}, b"x" * 1001),
            ({"Content-Length": str(10**12)}, b"x" * 3_000_000),
            (
                {"Transfer-Encoding": "chunked"},
                b"200\r\n" + b"x" * 512 + b"\r\n1f4\r\n" + b"x" * 500 + b"\r\n0\r\n\r\n",
            ),
            ({"Content-Length": "1001", "Expect": "100-continue"}, b""),
        ):
            with server.raw() as sock:
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                sock.sendall(f"POST /x HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
                with contextlib.suppress(ConnectionError):
                    sock.sendall(body)
                sock.shutdown(socket.SHUT_WR)
                answer = read_to_end(sock)
                assert answer.startswith(b"HTTP/1.1 413 ")
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_large"
        connection.request("GET", "/still-alive")
        assert connection.getresponse().status == 200
        connection.close()


def test_an_upload_may_have_a_larger_body_and_more_time() -> None:
    options = {
        "max_body": 1000, "upload_path": "/up", "max_upload": 1_000_000, "receive_timeout": 0.3, "upload_timeout": 20,
    }  # fmt: skip
    with small_server(options=options) as server:
        connection = server.http()
        for path, size, status in (("/up?x", 1_000_000, 200), ("/up", 1_000_001, 413), ("/upper", 1001, 413)):
            connection.request("POST", path, body=b"x" * size)
            answer = connection.getresponse()
            content = json.loads(answer.read())
            assert answer.status == status, path
            assert status == 413 or content["body"] == size
            connection.close()
        with server.raw() as sock:
            sock.sendall(b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
            with server.raw() as other:
                other.sendall(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
                # By when this one is dropped, the upload is as late, and still waited for.
                assert read_to_end(other) == b""
            sock.sendall(b"x")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_head_that_is_too_long_or_malformed_is_answered(server: SmallServer) -> None:
    line = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    for data, status, code in (
        (line + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n", 431, "too_large"),
        (line + b"X-Long: " + b"x" * 300_000, 431, "too_large"),
        (line + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 200) for n in range(100)) + b"\r\n", 431, "too_large"),
        (line + b"".join(b"X-%d: x\r\n" % n for n in range(600)) + b"\r\n", 431, "too_large"),
        (b"GET /?" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "too_large"),
        (b"GET /?" + b"x" * 300_000, 414, "too_large"),
        (line + b"\r\n" + b"GET /?" + b"x" * 20_000, 414, "too_large"),
        (b"nonsense\r\n\r\n", 400, "invalid"),
        (line + b"Content-Length: x\r\n\r\n", 400, "invalid"),
    ):
        with server.raw() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
            head, _, body = read_to_end(sock).rpartition(b"\r\n\r\n")
            assert b"HTTP/1.1 %d " % status in head, data[:60]
            assert json.loads(body)["code"] == code
    assert server.get("/hello")[0] == 200


def test_a_request_that_arrives_too_slowly_is_dropped_and_one_without_answer_gets_503() -> None:
    with small_server(options={"receive_timeout": 0.5, "http_timeout": 0.5}) as server:
        with server.raw() as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx")
            assert read_to_end(sock) == b""
        status, body = server.get("/never")
        assert status == 503
        assert json.loads(body)["code"] == "unavailable"


# --- HTTP -----------------------------------------------------------------------------------------


def test_a_connection_serves_many_requests(server: SmallServer) -> None:
    with contextlib.closing(server.http()) as connection:
        connection.connect()
        sock = connection.sock
        for number in range(5):
            connection.request("POST", f"/path/{number}", body=b"x" * number)
            answer = json.loads(connection.getresponse().read())
            assert (answer["path"], answer["body"]) == (f"/path/{number}", number)
        assert connection.sock is sock


def test_pipelined_requests_are_answered_in_order(server: SmallServer) -> None:
    with server.raw() as sock:
        requests = [f"GET /{number} HTTP/1.1\r\nHost: x\r\n" for number in range(3)]
        sock.sendall("\r\n".join([*requests[:2], requests[2] + "Connection: close\r\n\r\n"]).encode())
        assert re.findall(rb'"path": "/(\d)"', read_to_end(sock)) == [b"0", b"1", b"2"]


def test_a_failing_or_silent_application_is_a_500(server: SmallServer) -> None:
    for path in ("/crash", "/return"):
        status, body = server.get(path)
        assert status == 500
        assert json.loads(body)["code"] == "internal"


def test_a_client_cannot_set_the_root_path(server: SmallServer) -> None:
    with contextlib.closing(server.http()) as connection:
        connection.request("GET", "/x", headers={"Daphne-Root-Path": "/evil"})
        assert json.loads(connection.getresponse().read())["root_path"] == ""


def test_the_access_log_has_no_query() -> None:
    with small_server() as server:
        server.get("/v1/thing?otp=secret")
        with server.ws("/?otp=secret&username=alice"):
            pass
        with pytest.raises(InvalidStatus):
            server.ws("/refuse?otp=secret")
        with server.raw() as sock:
            sock.sendall(b"GET /v1/ws?otp=secret HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
            read_to_end(sock)
        until(lambda: "chatbe.access: GET /v1/thing 200" in server.log)
        server.process.terminate()
        assert server.wait() == 0
        assert "secret" not in server.log


# --- listening ------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_clear_line(server: SmallServer) -> None:
    with SmallServer(port=server.port) as second:
        assert second.wait() == 1
        assert second.log == (
            f"Port {server.port} on 127.0.0.1 is in use. Stop what listens there, or take another: "
            f"--port {server.port + 1}\n"
        )


def test_an_address_that_is_not_here_and_a_port_that_is_none_are_clear_lines() -> None:
    for settings in ({"host": "192.0.2.1"}, {"host": "no.such.name.invalid"}, {"port": 70000}):
        with SmallServer(**settings) as server:
            assert server.wait() == 1
            assert server.log.count("\n") == 1


def test_ipv6_is_listened_on_where_there_is_one() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with small_server(host="::1") as server, server.ws() as websocket:
        assert server.url.startswith("http://[::1]:")
        websocket.send("six")
        assert websocket.recv(timeout=PATIENCE) == "six"


def test_a_unix_socket_serves_and_replaces_one_that_was_left_behind(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with SmallServer(path=path, options=QUICK) as server:
        assert server.event("listening") == f"unix:{path}"
        with SmallServer(path=path) as second:
            assert second.wait() == 1
            assert "is in use" in second.log
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        with connect("ws://localhost/", sock=sock) as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=PATIENCE) == "hello"


def test_an_inherited_descriptor_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub.small_server", json.dumps({"descriptor": listener.fileno()})],
            cwd=ROOT,
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["listening"]
            assert url == f"http://127.0.0.1:{listener.getsockname()[1]}"
            with connect(url.replace("http", "ws")) as websocket:
                websocket.send("hello")
                assert websocket.recv(timeout=PATIENCE) == "hello"
            process.terminate()
            assert process.wait(PATIENCE) == 0
            process.stdout.close()
        finally:
            process.kill()
            process.wait()


def test_a_start_that_fails_is_exit_code_1() -> None:
    with SmallServer(fail=True) as server:
        assert server.wait() == 1
        assert "the server cannot start" in server.log


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_accepting_drains_and_finishes_requests(number: signal.Signals) -> None:
    with small_server() as server:
        idle, busy = server.http(), server.http()
        idle.request("GET", "/hello")
        idle.getresponse().read()
        busy.request("GET", "/slow")
        assert server.event("slow")
        with server.ws() as websocket, server.ws("/plain") as plain:
            server.process.send_signal(number)
            assert server.event("draining")
            assert json.loads(busy.getresponse().read())["path"] == "/slow"
            assert close_of(websocket)[0] == 1012
            assert close_of(plain)[0] == 1012
            with pytest.raises(ConnectionRefusedError):
                server.raw().close()
        assert server.wait() == 0
        idle.close()
        busy.close()


def test_a_connection_that_was_just_made_is_still_served() -> None:
    with small_server() as server, server.raw() as sock, server.raw() as silent:
        # One that is answered later than it was made shows that both were accepted.
        assert server.get("/hello")[0] == 200
        server.process.terminate()
        assert server.event("draining")
        sock.sendall(b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = read_to_end(sock)
        assert b"/late" in answer
        assert b"connection: close" in answer.lower()
        assert read_to_end(silent) == b""
        assert server.wait() == 0


def test_what_does_not_finish_is_dropped_in_time_and_a_second_signal_stops_at_once() -> None:
    for second in (False, True):
        with small_server(hang=True, options={"drain_timeout": 30.0 if second else 0.5}) as server:
            busy = server.http()
            busy.request("GET", "/slow")
            assert server.event("slow")
            started = time.monotonic()
            server.process.terminate()
            assert server.event("draining")
            if second:
                server.process.terminate()
            assert server.wait() == (128 + signal.SIGTERM if second else 0)
            assert time.monotonic() - started < 5
            busy.close()


def test_a_drain_with_deaf_clients_ends_in_time() -> None:
    with small_server(options={"drain_timeout": 1.0}) as server, server.raw() as sock, server.ws("/deaf"):
        handshake(sock)
        sock.sendall(masked(b"/burst 30000 1000"))
        read_exactly(sock, 100)
        server.process.terminate()
        assert server.wait() == 0


# --- workers --------------------------------------------------------------------------------------


def who(server: SmallServer) -> int:
    return int(json.loads(server.get("/who")[1])["pid"])


@contextlib.contextmanager
def two_workers(**settings: Any) -> Iterator[SmallServer]:
    with small_server(workers=2, **settings) as server:
        yield server


def test_two_workers_share_a_port_evenly_and_drain_together() -> None:
    with two_workers() as server:
        pids = [who(server) for _ in range(60)]
        assert set(pids) == {worker.pid for worker in server.workers()}
        assert 10 < pids.count(pids[0]) < 50
        with server.ws() as websocket:
            server.process.terminate()
            assert server.event("draining")
            assert close_of(websocket)[0] == 1012
        assert server.wait() == 0


def test_a_killed_worker_is_replaced_and_nobody_is_refused_meanwhile() -> None:
    with two_workers() as server:
        victim = who(server)
        os.kill(victim, signal.SIGKILL)
        pids: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while len(pids - {victim}) < 2:
            assert time.monotonic() < deadline
            # Whoever is routed to the dead worker's socket waits for the next worker.
            pids.add(who(server))
        assert victim not in {worker.pid for worker in server.workers()}


def test_workers_are_replaced_in_turn_without_a_refused_request() -> None:
    with two_workers() as server:
        before = {worker.pid for worker in server.workers()}
        server.process.send_signal(signal.SIGHUP)
        pids: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while not (len(pids - before) == 2 and {worker.pid for worker in server.workers()} == pids - before):
            assert time.monotonic() < deadline
            pids.add(who(server))
        server.process.terminate()
        assert server.wait() == 0


def test_a_signal_while_workers_are_replaced_ends_old_and_new() -> None:
    with two_workers() as server:
        server.process.send_signal(signal.SIGHUP)
        workers = until(lambda: len(found := server.workers()) == 3 and found)
        server.process.terminate()
        assert server.wait() == 0
        assert not psutil.wait_procs(workers, timeout=PATIENCE)[1]


def test_workers_that_die_again_and_again_are_restarted_after_a_delay() -> None:
    with two_workers() as server:

        def has_two_without(victim: psutil.Process) -> bool:
            now = server.workers()
            return len(now) == 2 and victim not in now

        for _ in range(3):
            pid = who(server)
            victim = psutil.Process(pid)
            victim.kill()
            until(partial(has_two_without, victim))
        assert who(server) in {worker.pid for worker in server.workers()}


def test_workers_end_when_their_supervisor_is_killed() -> None:
    with two_workers() as server:
        workers = server.workers()
        server.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
        assert not alive


def test_workers_that_cannot_start_end_the_supervisor() -> None:
    with SmallServer(workers=2, fail=True) as server:
        assert server.wait() == 1
        assert "a worker did not start" in server.log


def test_a_port_that_others_share_is_in_use_all_the_same() -> None:
    with two_workers() as server, SmallServer(workers=2, port=server.port) as second:
        assert second.wait() == 1
        assert "is in use" in second.log


def test_workers_share_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with SmallServer(workers=2, path=path, options=QUICK) as server:
        assert server.event("listening") == f"unix:{path}"
        pids: set[int] = set()
        for _ in range(200):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            with connect("ws://localhost/", sock=sock) as websocket:
                websocket.send("/who")
                pids.add(int(websocket.recv(timeout=PATIENCE)))
            if len(pids) == 2:
                break
        assert pids <= {worker.pid for worker in server.workers()}


def test_a_second_signal_kills_workers_that_do_not_drain() -> None:
    with two_workers(hang=True, options={"drain_timeout": 30.0}) as server:
        busy = server.http()
        busy.request("GET", "/slow")
        assert server.event("slow")
        server.process.terminate()
        assert server.event("draining")
        server.process.terminate()
        assert server.wait() == 1
        busy.close()
