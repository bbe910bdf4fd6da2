"""Small files that are read, and names that nothing printed is changed by."""

import io
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from semiisp_plugin.io.files import PrintableStream, printable, printable_path, read_text


def test_read_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("ä\n", encoding="utf-8-sig")
    assert read_text(path, 6) == "ä\n"
    with pytest.raises(ValueError, match=r"^it has 6 bytes; at most 5 are read$"):
        read_text(path, 5)
    path.write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"^byte 3 is not of a text in UTF-8; save it as UTF-8$"):
        read_text(path, 5)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "b.txt", 5)
    os.mkfifo(tmp_path / "pipe")
    for name, what in (
        (tmp_path / "pipe", "a pipe or device"),
        ("/dev/zero", "a pipe or device"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(ValueError, match=f"^it is {what}, not a file$"):
            read_text(name, 5)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Bäume 雪.png", "Bäume 雪.png"),
        ("a\x1b[31m\r\x07\x9b", r"a\x1b[31m\r\x07\x9b"),
        ("\u202egnp.exe\u200b\ufeff", r"\u202egnp.exe\u200b\ufeff"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\udcff\ud800", r"\xff\ud800"),
    ],
)
def test_what_is_not_printed_is_written_out(text, shown):
    assert printable(text) == shown
    if "\ud800" not in text:
        assert printable_path(text) == shown
    assert printable(text, "\n\t") == shown.replace(r"\n", "\n").replace(r"\t", "\t")
    stream = io.StringIO()
    print(text, file=PrintableStream(stream), flush=True)
    assert stream.getvalue() == printable(text, "\n\t") + "\n"


def test_whoever_reads_may_be_gone():
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - closing it fails, too
    print("text", file=PrintableStream(full), flush=True)
    with suppress(OSError):
        full.close()


def test_a_command_without_outputs(tmp_path):
    code = "import sys; from semiisp_plugin.arguments import print_anything; print_anything(); print(file=sys.stderr); "
    code += "sys.exit(not (open(sys.argv[1], 'w').fileno() > 2 and sys.stderr.isatty() is False))"
    command = f'"{sys.executable}" -c "{code}" "{tmp_path / "file"}" >&- 2>&-'
    assert subprocess.run(command, shell=True, check=False).returncode == 0
