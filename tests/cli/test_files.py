"""INPUT, OUTPUT and what lies beside OUTPUT."""

from __future__ import annotations

import errno
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cyclopts")

from anybatch import Answer, RequestFailed
from anybatch.cli._errors import UsageError
from anybatch.cli._input import CHUNK, LineSplitter, Source
from anybatch.cli._output import Output, Row
from anybatch.cli._recipe import Recipe
from anybatch.cli._state import RunDirectory

RECIPE = Recipe("run", format="text")


def split(*chunks: bytes) -> list[tuple[int, bytes]]:
    splitter = LineSplitter()
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()


def test_lines_end_at_newlines_alone_and_blank_ones_count() -> None:
    text = "\ufeffa\r\n\n b\u2028c\x0bd\x85\ne"
    assert split(text.encode()) == [
        (1, b"a"),
        (2, b""),
        (3, " b\u2028c\x0bd\x85".encode()),
        (4, b"e"),
    ]


def test_the_same_lines_come_out_wherever_the_chunks_are_cut() -> None:
    text = "\ufeffä\r\n\r\nö\n".encode()
    whole = split(text)
    assert whole == [(1, "ä".encode()), (2, b""), (3, "ö".encode())]
    assert split(*(text[i : i + 1] for i in range(len(text)))) == whole


@pytest.mark.anyio
async def test_a_file_is_read_to_its_end_in_slices(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"x" * 99 + b"\n" + b"y" * CHUNK + b"\nend")
    lines: list[tuple[int, bytes]] = []
    async with Source(path) as source:
        while (some := await source.read()) is not None:
            lines += some
        assert await source.read() is None
    assert [(number, len(text)) for number, text in lines] == [(1, 99), (2, CHUNK), (3, 3)]


@pytest.mark.anyio
async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing cannot be read: No such file"):
        async with Source(tmp_path / "nothing"):
            raise AssertionError
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        async with Source(tmp_path) as source:
            await source.read()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.anyio
async def test_each_line_is_written_once_in_the_form_of_output_files(tmp_path: Path) -> None:
    path = tmp_path / "out"
    answer = Row.of(2, "run-2", Answer({"id": "c"}, custom_id="run-2"))
    failure = Row.of(5, "run-5", RequestFailed("no", code="bad", custom_id="run-5"))
    with closing(Output(path)) as output:
        await output.write([answer, failure])
        await output.write([answer, Row.invalid(9, "broken JSON")])
        assert (len(output), output.failed) == (3, 2)
    assert rows_of(path) == [
        {
            "line": 2,
            "custom_id": "run-2",
            "error": None,
            "response": {"status_code": 200, "body": {"id": "c"}},
        },
        {
            "line": 5,
            "custom_id": "run-5",
            "response": None,
            "error": {"code": "bad", "message": "no"},
        },
        {
            "line": 9,
            "custom_id": None,
            "response": None,
            "error": {"code": "invalid_request", "message": "broken JSON"},
        },
    ]


@pytest.mark.anyio
async def test_a_torn_last_row_is_cut_off_and_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "out"
    rows = [Row.invalid(1, "a\u2028b"), Row.invalid(2, "b")]
    with closing(Output(path)) as output:
        await output.write(rows)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with closing(Output(path)) as output:
            assert len(output) == whole[:end].count(b"\n") == output.failed
            await output.write(rows)
        assert path.read_bytes() == whole


def test_a_file_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b'{"line": 1, "error": null}\nmy thesis\nmore')
    with pytest.raises(UsageError, match=r"line 2 of .* is no row of a run"):
        Output(path)
    assert path.read_bytes().endswith(b"more")
    with pytest.raises(UsageError, match="cannot be written"):
        Output(tmp_path)


@pytest.mark.anyio
async def test_a_full_disk_leaves_no_half_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "out"
    with closing(Output(path)) as output:
        await output.write([Row.invalid(1, "a")])
        whole = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("anybatch.cli._output.os.fsync", full)
            with pytest.raises(OSError, match="No space"):
                await output.write([Row.invalid(2, "b")])
        assert path.read_bytes() == whole
        assert 2 not in output
        await output.write([Row.invalid(2, "b")])
    assert [row["line"] for row in rows_of(path)] == [1, 2]


def opened(output: Path, provider: str = "local", url: str | None = None) -> RunDirectory:
    return RunDirectory(output, provider, url)


def test_a_run_keeps_its_id_and_knows_a_grown_input_from_a_changed_one(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    lines = [RECIPE.line(number, text) for number, text in enumerate((b"a", b"b", b"c"), 1)]
    with closing(opened(output)) as directory:
        assert directory.path == tmp_path / "out.jsonl.anybatch"
        run_id = directory.run_id
        directory.lines.append(lines[:2])
        directory.lines.append(lines)  # what is known is not written again
    with (directory.path / "lines").open("ab") as file:
        file.write(b"torn")
    with closing(opened(output)) as directory:
        assert directory.run_id == run_id
        assert directory.lines.count == 3
        for line in lines:
            directory.lines.check(line)
        directory.lines.check(RECIPE.line(4, b"new"))
        with pytest.raises(UsageError, match="line 2 of the input"):
            directory.lines.check(RECIPE.line(2, b"other"))
        directory.lines.append([RECIPE.line(4, b"new")])
    with closing(opened(output)) as directory:
        directory.lines.check(RECIPE.line(4, b"new"))
        with pytest.raises(UsageError, match="line 4 of the input"):
            directory.lines.check(RECIPE.line(4, b"newer"))


def test_a_run_is_gone_on_with_where_it_was_begun_and_by_one_process(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with closing(opened(output)), pytest.raises(UsageError, match="another run has"):
        opened(output)
    with pytest.raises(UsageError, match="begun with --provider local, not --provider openai"):
        opened(output, "openai", "http://x/v1")


def test_rows_without_a_run_and_a_damaged_run_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_bytes(b'{"line": 1}\n')
    with pytest.raises(UsageError, match="is not; name another file"):
        opened(output)
    output.write_bytes(b"")
    opened(output).close()
    (tmp_path / "out.anybatch" / "run.json").write_bytes(b"{")
    with pytest.raises(UsageError, match="is damaged"):
        opened(output)
    with pytest.raises(UsageError, match="cannot be written"):
        opened(output / "below" / "out")
