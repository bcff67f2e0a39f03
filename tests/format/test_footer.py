"""The footer: of fixed length, empty for every reader of gzip, and never mistaken."""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.errors import ArchiveError
from backup_tasks.format.footer import END_CHUNK, FOOTER_BYTES, Footer, decode_footer, encode_footer
from backup_tasks.format.tar_headers import END_MARK

FOOTERS = st.builds(
    Footer,
    offset=st.integers(0, 2**64 - 1),
    length=st.integers(0, 2**64 - 1),
    sha256=st.binary(min_size=32, max_size=32),
)


@given(FOOTERS)
def test_a_footer_is_read_back_as_it_was_written(footer: Footer) -> None:
    packed = encode_footer(footer)
    assert len(packed) == FOOTER_BYTES
    assert decode_footer(packed) == footer


@given(FOOTERS)
def test_a_footer_unpacks_to_nothing(footer: Footer) -> None:
    packed = encode_footer(footer)
    assert gzip.decompress(packed) == b""
    assert gzip.decompress(gzip.compress(b"before") + packed) == b"before"
    assert zlib.decompress(packed, 31) == b""


@pytest.mark.parametrize("tool", ["gzip", "pigz", "busybox"])
def test_tools_pass_over_it_in_silence(tool: str) -> None:
    stream = gzip.compress(b"before") + encode_footer(Footer(1, 2, bytes(32)))
    command = ["busybox", "gzip", "-dc"] if tool == "busybox" else [tool, "-dc"]
    done = subprocess.run(command, input=stream, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"before", b"")


@given(FOOTERS, st.integers(0, FOOTER_BYTES - 1), st.integers(1, 255))
def test_a_changed_byte_is_another_footer_or_none(footer: Footer, place: int, change: int) -> None:
    packed = bytearray(encode_footer(footer))
    packed[place] ^= change
    found = None
    with contextlib.suppress(ArchiveError):  # a format that is yet to come
        found = decode_footer(bytes(packed))
    assert found != footer


@given(st.binary(max_size=2 * FOOTER_BYTES))
def test_other_bytes_are_no_footer(tail: bytes) -> None:
    assert decode_footer(tail) is None


def test_a_later_format_is_refused_with_a_way_out() -> None:
    with pytest.raises(ArchiveError, match=r"has format 2, this program reads format 1.*plain tar"):
        decode_footer(encode_footer(Footer(0, 0, bytes(32), version=2)))


def test_the_end_chunk_is_tars_end_mark() -> None:
    assert gzip.decompress(END_CHUNK) == END_MARK == bytes(1024)
