"""The engine's process by Qt: bytes both ways, its end however it comes, and a program that is not there."""

from __future__ import annotations

import sys
import time

import pytest

ECHO = """
import os, sys
sys.stderr.write("trouble\\n")
print(os.environ["MEDQUANT_SAYS"], flush=True)
for line in sys.stdin:
    if line == "leave\\n":
        sys.exit(3)
    print(line.upper(), end="", flush=True)
"""


class Heard:
    def __init__(self):
        self.data, self.codes = b"", []

    def on_bytes(self, data):
        assert isinstance(data, bytes)
        assert not self.codes, "bytes after the end"
        self.data += data


@pytest.fixture
def start(slicer, tmp_path):
    from MedQuantSlicerLib.qprocess_transport import QProcessTransport

    started = []

    def begin(*command):
        heard = Heard()
        transport = QProcessTransport(heard.on_bytes, heard.codes.append)
        transport.start([*command, "--folder", str(tmp_path)], {"MEDQUANT_SAYS": "grüß dich"})
        started.append(transport)
        return transport, heard

    yield begin
    for transport in started:
        transport.kill(wait=True)


def _until(true, seconds=10):
    import qt

    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        qt.QApplication.processEvents()
        time.sleep(0.005)


def test_bytes_both_ways(start, tmp_path):
    transport, heard = start(sys.executable, "-X", "utf8", "-c", ECHO)
    transport.send(b'{"a": 1}\n')
    _until(lambda: heard.data.count(b"\n") == 2)
    assert heard.data == "grüß dich\n".encode() + b'{"A": 1}\n'
    transport.send(b"leave\n")
    _until(lambda: heard.codes)
    assert heard.codes == [3]
    assert (tmp_path / "worker.log").read_text() == "trouble\n"


def test_much_at_once(start):
    transport, heard = start(sys.executable, "-X", "utf8", "-c", ECHO)
    lines = b"".join(b"%07d " % n * 100 + b"\n" for n in range(2000))
    transport.send(lines)
    _until(lambda: heard.data.count(b"\n") == 2001, 20)
    assert heard.data.endswith(lines)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals on Windows")
def test_killed(start):
    transport, heard = start(sys.executable, "-X", "utf8", "-c", ECHO)
    _until(lambda: heard.data)
    transport.kill(wait=True)
    assert heard.codes == [-9]
    transport.kill(wait=True)
    assert heard.codes == [-9], "its end is told once"


def test_nobody_waits_for_a_killed_process_and_nothing_keeps_it(start):
    """Taking a large program's memory back takes the system its time."""
    from MedQuantSlicerLib import qprocess_transport

    transport, heard = start(sys.executable, "-X", "utf8", "-c", ECHO)
    _until(lambda: heard.data)
    transport.kill()
    assert heard.codes == [], "it was waited for"
    assert transport in qprocess_transport._ending
    _until(lambda: heard.codes)
    assert transport not in qprocess_transport._ending
    transport.send(b"too late\n")
    assert transport._process is None


def test_a_program_that_is_not_there(start):
    _transport, heard = start("/no/such/program")
    _until(lambda: heard.codes)
    assert heard.codes == [None]


def test_qt_has_finished_telling_before_the_process_is_deleted(start):
    """Deleted earlier, it is used after its end: PythonQt deletes what nothing in Python refers to any longer."""
    transport, heard = start(sys.executable, "-c", "")
    told = []
    transport._process.finished.connect(lambda *_: told.append("finished"))
    transport._process.destroyed.connect(lambda *_: told.append("deleted"))
    _until(lambda: heard.codes and len(told) == 2)
    assert told == ["finished", "deleted"]
