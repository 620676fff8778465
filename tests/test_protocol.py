"""Whatever a peer sends, it is a message, the end of the stream, or a ProtocolError."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detbuild import protocol
from detbuild.errors import ProtocolError

Pair = tuple[socket.socket, socket.socket]

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def received(data: bytes, with_fd: bool = False) -> protocol.Message | None:
    """What a receiver makes of ``data`` and then the end of the stream."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        sender = threading.Thread(target=_send, args=(theirs, data))
        sender.start()
        try:
            return protocol.receive_fd(ours)[0] if with_fd else protocol.receive(ours)
        finally:
            ours.close()
            sender.join()


def _send(peer: socket.socket, data: bytes) -> None:
    try:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the receiver had seen enough


@given(
    fields=st.dictionaries(
        st.text().filter(lambda name: name not in ("peer", "kind", "fds", "protocol", "version")), JSON
    )
)
def test_a_message_arrives_as_it_was_sent(fields: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        protocol.send(theirs, "greeting", **fields)
        assert protocol.receive(ours) == {"protocol": "detbuild", "version": 1, "kind": "greeting", **fields}


@given(data=st.binary(max_size=200), with_fd=st.booleans())
def test_garbage_is_an_error_or_the_end(data: bytes, with_fd: bool) -> None:
    try:
        assert received(data, with_fd) is None
        assert data == b""
    except ProtocolError:
        assert data


@given(body=st.binary(max_size=200), with_fd=st.booleans())
def test_a_framed_body_that_is_no_json_is_an_error(body: bytes, with_fd: bool) -> None:
    with pytest.raises(ProtocolError):
        received(framed(body), with_fd)


@given(value=JSON)
def test_json_that_is_no_message_is_an_error(value: Any) -> None:
    with pytest.raises(ProtocolError):
        received(framed(json.dumps(value).encode()))


WHOLE = framed(json.dumps({"protocol": "detbuild", "version": 1, "kind": "x"}).encode())


@pytest.mark.parametrize("with_fd", [False, True])
@pytest.mark.parametrize("size", range(1, len(WHOLE)))
def test_a_message_cut_short_is_an_error(size: int, with_fd: bool) -> None:
    with pytest.raises(ProtocolError):
        received(WHOLE[:size], with_fd)


@pytest.mark.parametrize("with_fd", [False, True])
def test_a_message_that_comes_byte_by_byte_is_whole(pair: Pair, with_fd: bool) -> None:
    ours, theirs = pair

    def trickle() -> None:
        for byte in WHOLE:
            theirs.send(bytes([byte]))
            time.sleep(0.0005)

    sender = threading.Thread(target=trickle)
    sender.start()
    message = protocol.receive_fd(ours)[0] if with_fd else protocol.receive(ours)
    sender.join()
    assert message is not None
    assert message["kind"] == "x"


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, True, 1.0, [1]])
def test_another_version_is_named(version: object) -> None:
    with pytest.raises(ProtocolError, match="version"):
        received(framed(json.dumps({"protocol": "detbuild", "version": version, "kind": "x"}).encode()))


@pytest.mark.parametrize("kind", [None, 1, ["x"]])
def test_a_kind_is_text(kind: object) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        received(framed(json.dumps({"protocol": "detbuild", "version": 1, "kind": kind}).encode()))


def test_a_length_over_the_limit_is_refused_before_the_body(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(struct.pack(">I", protocol.LARGEST + 1))
    with pytest.raises(ProtocolError, match=str(protocol.LARGEST)):
        protocol.receive(ours)


def test_a_message_over_the_limit_is_not_sent(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LARGEST", 1000)
    with pytest.raises(ProtocolError, match="limit of 1000"):
        protocol.send(pair[1], "x", text="y" * 1000)
    pair[1].close()
    assert protocol.receive(pair[0]) is None


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000])
def test_deep_nesting_is_an_error(deep: bytes) -> None:
    with pytest.raises(ProtocolError):
        received(framed(deep))


def test_a_large_message_in_small_parts_takes_linear_time() -> None:
    text = "x" * (4 << 20)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sender = threading.Thread(target=protocol.send, args=(theirs, "x"), kwargs={"text": text})
        sender.start()
        message = protocol.receive(ours)
        sender.join()
    assert message is not None
    assert message["text"] == text


def test_a_descriptor_arrives_beside_its_message_and_no_program_inherits_it(pair: Pair) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    protocol.send(pair[1], "take", fds=[writer])
    message, fd = protocol.receive_fd(pair[0])
    assert message is not None
    assert fd is not None
    assert not os.get_inheritable(fd)
    os.write(fd, b"through")
    assert os.read(reader, 10) == b"through"
    for each in (reader, writer, fd):
        os.close(each)


@pytest.mark.parametrize("data", [b"\0\0\0\1x", b"\0\0", b"\xff\xff\xff\xff"])
def test_descriptors_beside_garbage_are_closed(pair: Pair, data: bytes) -> None:
    reader, writer = os.pipe()
    socket.send_fds(pair[1], [data], [writer, writer, writer])
    os.close(writer)
    pair[1].close()
    with pytest.raises(ProtocolError):
        protocol.receive_fd(pair[0])
    assert os.read(reader, 1) == b""  # the end: nobody holds the other side
    os.close(reader)


@settings(max_examples=30)
@given(messages=st.lists(st.text(), max_size=5))
def test_messages_keep_their_order(messages: list[str]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for text in messages:
            protocol.send(theirs, "x", text=text)
        theirs.close()
        seen = []
        while (message := protocol.receive(ours)) is not None:
            seen.append(message["text"])
    assert seen == messages
