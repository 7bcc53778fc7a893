"""Reading files: no hang, no escape, bounded, retried."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from fewsight.data import source
from fewsight.data.source import leaves_folder, read_bytes, read_head
from fewsight.errors import UnreadableImage


def reason(path, **options) -> tuple[str, str]:
    with pytest.raises(UnreadableImage) as caught:
        read_bytes(path, max_bytes=options.pop("max_bytes", 1000), **options)
    return caught.value.status, str(caught.value)


def test_whole_files(tmp_path):
    path = tmp_path / "a\n\"',<script>\U0001f98a.jpg"
    path.write_bytes(b"abc" * 100)
    assert read_bytes(path, max_bytes=300) == b"abc" * 100
    assert read_head(path, 4) == b"abca"


def test_names_in_any_bytes(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9" + b"x" * 250
    Path(os.fsdecode(raw)).write_bytes(b"1")
    assert read_bytes(os.fsdecode(raw), max_bytes=10) == b"1"


def test_everything_that_is_no_file(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "big").write_bytes(bytes(1001))
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    assert reason(tmp_path / "empty") == ("unreadable", "empty")
    assert reason(tmp_path / "big")[0] == "refused"
    assert reason(tmp_path / "gone") == ("unreadable", "file not found")
    assert reason(tmp_path / "broken") == ("unreadable", "broken link")
    assert reason(tmp_path / "circle") == ("unreadable", "link points in a circle")
    assert reason(tmp_path / "pipe") == ("unreadable", "not a regular file (a pipe)")
    assert reason(tmp_path) == ("unreadable", "not a regular file (a folder)")
    assert reason("/dev/null") == ("unreadable", "not a regular file (a device)")
    assert reason("a\0b") == ("unreadable", "name is not a path")
    assert reason("x" * 5000) == ("unreadable", "name too long")
    for name in ("pipe", "gone", "circle"):
        assert read_head(tmp_path / name, 10) == b""


def test_sockets(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        assert reason(tmp_path / "s")[0] == "unreadable"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    path.chmod(0)
    assert reason(path) == ("unreadable", "permission denied")


def test_permission_as_the_system_says_it(monkeypatch):
    def denied(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(source.os, "open", denied)
    assert reason("a") == ("unreadable", "permission denied")


def test_links_that_leave_the_folder(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "a").write_bytes(b"1")
    (inside / "b").write_bytes(b"2")
    (inside / "leaving").symlink_to(outside / "a")
    (inside / "staying").symlink_to("b")
    (inside / "folder").symlink_to(outside)
    assert reason(inside / "leaving", root=inside) == ("refused", "link leaves the folder")
    assert reason(inside / "folder" / "a", root=inside) == ("refused", "link leaves the folder")
    assert read_bytes(inside / "staying", max_bytes=9, root=inside) == b"2"
    assert read_bytes(inside / "leaving", max_bytes=9) == b"1"
    # a root that is itself a link, and a neighbour whose name starts alike
    (tmp_path / "link").symlink_to(inside)
    assert read_bytes(tmp_path / "link" / "b", max_bytes=9, root=tmp_path / "link") == b"2"
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2" / "c").write_bytes(b"3")
    assert leaves_folder(tmp_path / "in2" / "c", inside)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_network_errors_are_tried_again_and_no_more_than_that(tmp_path, monkeypatch, number):
    waits: list[float] = []
    monkeypatch.setattr(source.time, "sleep", waits.append)
    path = tmp_path / "a"
    path.write_bytes(b"1")
    true_open, failures = os.open, 2

    def failing(name, flags, *rest):
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(number, "no luck")
        return true_open(name, flags, *rest)

    monkeypatch.setattr(source.os, "open", failing)
    assert read_bytes(path, max_bytes=9) == b"1"
    assert waits == list(source.RETRY_DELAYS[:2])
    failures = 100
    waits.clear()
    assert reason(path) == ("unreadable", f"read error ({errno.errorcode[number]})")
    assert waits == list(source.RETRY_DELAYS)
