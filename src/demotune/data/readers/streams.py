"""Bytes of a file as lines of UTF-8 text, whatever its encoding; every size is bounded."""

import codecs
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader, RawIOBase, TextIOWrapper
from pathlib import Path

from demotune.common.errors import DemotuneError

LARGEST_LINE = 64 * 2**20
"""Bytes of one line, and characters of one CSV cell: longer ones are no rows but a file of another kind."""
LARGEST_DOCUMENT = 2**30
"""Bytes of a .json file, which is read whole."""
LARGEST_GZIP_RATIO = 100
"""Text packs to a tenth, seldom to a fiftieth; beyond this and `_GZIP_ALLOWANCE` it is a decompression bomb."""
_GZIP_ALLOWANCE = 64 * 2**20

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PEEKED_BYTES = 512
_OTHER_KINDS = (
    (b"\x1f\x8b", "gzip", "name it .gz too"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or export it as CSV"),
    (b"PAR1", "Parquet", "name it .parquet"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it (zstd -d)"),
)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The bytes of a file, unpacked if it is named .gz. Every error of the disk becomes one DemotuneError."""
    try:
        with path.open("rb") as packed:
            if path.suffix.lower() != ".gz":
                yield packed
                return
            unpacked = _Unpacked(path, os.fstat(packed.fileno()).st_size, gzip.GzipFile(fileobj=packed))
            stream: BufferedReader = BufferedReader(unpacked)
            with stream:
                yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: Exception) -> DemotuneError:
    """The error for a path that cannot be read or unpacked: the cause and its fix."""
    cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, PermissionError):
        fix = "give yourself the right to read it (chmod, or ask its owner)"
    elif isinstance(error, IsADirectoryError):
        fix = "give a file, or the folder that holds the files"
    elif isinstance(error, FileNotFoundError | NotADirectoryError):
        fix = "check the path"
    elif isinstance(error, gzip.BadGzipFile | EOFError | zlib.error):
        fix = "copy or download it again; a file that is not gzipped must not be named .gz"
    elif "name too long" in cause.lower():
        fix = "check the path, or give the file a shorter name"
    else:
        fix = "copy or download it again"
    return DemotuneError(f"{path} cannot be read ({cause}); {fix}")


class _Unpacked(RawIOBase):
    """The unpacked bytes of a gzip stream, bounded by the size of the packed file."""

    def __init__(self, path: Path, packed_bytes: int, stream: gzip.GzipFile) -> None:
        self._path, self._stream = path, stream
        self._left = _GZIP_ALLOWANCE + LARGEST_GZIP_RATIO * packed_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = self._stream.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise DemotuneError(
                f"{self._path} unpacks to more than {LARGEST_GZIP_RATIO} times its size, as no text does; "
                "if it is to be trusted, unpack it (gunzip) and give the unpacked file"
            )
        return count


def whole_text(stream: BufferedReader, label: str) -> bytes:
    """The text of a document as UTF-8, its byte order mark removed. Raises DemotuneError where it is too large."""
    encoding = _encoding(stream, label)
    content = stream.read(LARGEST_DOCUMENT + 1)
    if len(content) > LARGEST_DOCUMENT:
        raise DemotuneError(
            f"{label} has more than {LARGEST_DOCUMENT >> 30} GiB, and JSON is read whole; write it as JSON Lines "
            "(.jsonl, one object a line), which are read one by one"
        )
    if encoding == "utf-8":
        return content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        raise _not_as_marked(label, encoding, error) from error


def text_lines(stream: BufferedReader, label: str) -> Iterator[bytes]:
    """Lines as UTF-8, each with its line end, no byte order mark in the first. UTF-8 itself is not checked.

    Raises DemotuneError where a line has more than LARGEST_LINE bytes, or the byte order mark is wrong.
    """
    encoding = _encoding(stream, label)
    if encoding == "utf-8":
        stream.read(len(codecs.BOM_UTF8) if stream.peek(3).startswith(codecs.BOM_UTF8) else 0)
        yield from _bounded_lines(stream, label)
        return
    text = TextIOWrapper(stream, encoding=encoding, newline="\n")
    try:
        text.read(1)  # the mark
        while line := text.readline(LARGEST_LINE):
            if len(line) == LARGEST_LINE:
                raise _line_too_long(label)
            yield line.encode()
    except UnicodeError as error:
        raise _not_as_marked(label, encoding, error) from error
    finally:
        text.detach()  # else its end would close the stream of the caller


def _bounded_lines(stream: BufferedIOBase, label: str) -> Iterator[bytes]:
    while line := stream.readline(LARGEST_LINE):
        if len(line) == LARGEST_LINE:
            raise _line_too_long(label)
        yield line


def _line_too_long(label: str) -> DemotuneError:
    return DemotuneError(
        f"{label} has a line of more than {LARGEST_LINE >> 20} MiB, which is no row; write one row a line"
    )


def _encoding(stream: BufferedReader, label: str) -> str:
    """By the byte order mark, else UTF-8. Raises DemotuneError for what is UTF-16 or UTF-32 without a mark."""
    start = stream.peek(_PEEKED_BYTES)[:_PEEKED_BYTES]
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    for beginning, kind, fix in _OTHER_KINDS:
        if start.startswith(beginning):
            raise DemotuneError(f"{label} is no text but {kind}, whatever its name says; {fix}")
    if 4 * start.count(0) >= len(start) > 0:
        raise DemotuneError(
            f"{label} is not UTF-8: {start.count(0)} of its first {len(start)} bytes are zero, as in UTF-16 or UTF-32 "
            "without a byte order mark; save it as UTF-8, for example with iconv -f UTF-16LE -t UTF-8"
        )
    return "utf-8"


def _not_as_marked(label: str, encoding: str, error: UnicodeError) -> DemotuneError:
    return DemotuneError(
        f"{label} begins with the byte order mark of {encoding.upper()} but is not {encoding.upper()} ({error}); "
        "save it as UTF-8"
    )
