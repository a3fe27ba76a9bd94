"""`anybatch` as the process that a user starts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("cyclopts")

from anybatch.local_provider import LocalProvider, Statistics

COMMAND = [sys.executable, "-W", "error", "-m", "anybatch.cli"]


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**kept, **extra}


def anybatch(
    *arguments: str | Path, stdin: bytes = b"", **extra: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        env=environment(**extra),
        timeout=40,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def local(path: Path, output: Path, *options: str | Path) -> list[str | Path]:
    return ["run", path, "-o", output, "--provider", "local", "--engine", "echo", *options]


def rows_of(output: Path) -> dict[int, dict[str, Any]]:
    rows = [json.loads(line) for line in output.read_bytes().split(b"\n")[:-1]]
    assert len({row["line"] for row in rows}) == len(rows)
    return {row["line"]: row for row in rows}


def text_of(row: dict[str, Any]) -> str:
    assert row["error"] is None
    assert row["response"]["status_code"] == 200
    content = row["response"]["body"]["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def asked(output: Path) -> Statistics:
    return asked_in(output.with_name(output.name + ".anybatch") / "provider")


def asked_in(directory: Path) -> Statistics:
    async def look() -> Statistics:
        async with LocalProvider(port=None, directory=directory) as provider:
            return provider.statistics()

    return anyio.run(look)


def questions(path: Path, count: int) -> Path:
    lines = [json.dumps({"question": f"What is {n} + {n}?"}) for n in range(1, count + 1)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_question_is_answered_and_a_second_run_asks_nothing(
    tmp_path: Path, backend: str
) -> None:
    output = tmp_path / "out.jsonl"
    path = questions(tmp_path / "in.jsonl", 100)
    options = ("--prompt", "{question}", "--queue-threshold", "40", "--backend", backend)
    command = local(path, output, *options)
    first = anybatch(*command)
    assert first.returncode == 0, first.stderr
    assert "echo" in first.stderr
    assert "done 100, failed 0, of 100" in first.stderr
    rows = rows_of(output)
    assert {n: text_of(row) for n, row in rows.items()} == {
        n: f"What is {n} + {n}?" for n in range(1, 101)
    }
    assert len({row["custom_id"] for row in rows.values()}) == 100
    whole = output.read_bytes()
    second = anybatch(*command)
    assert second.returncode == 0, second.stderr
    assert output.read_bytes() == whole
    statistics = asked(output)
    assert statistics.batches_created == 3
    assert set(statistics.asked.values()) == {1}
    assert len(statistics.asked) == 100


def test_bad_lines_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    path, output = tmp_path / "in.jsonl", tmp_path / "out"
    request = {"custom_id": "mine", "body": {"messages": [{"role": "user", "content": "full"}]}}
    path.write_bytes(
        b"\xef\xbb\xbf"
        + json.dumps({"prompt": "bom"}).encode()
        + b'\r\n{"prompt": \n\n{"prompt": "\xff"}\n'
        + '{"prompt": "a\u2028b"}\n'.encode()
        + json.dumps(request).encode()
        + b'\n{"messages": []}\n{"body": {"input": "x"}}'
    )
    done = anybatch(*local(path, output))
    assert done.returncode == 1, done.stderr
    assert "have an error" in done.stderr
    rows = rows_of(output)
    assert sorted(rows) == [1, 2, 4, 5, 6, 7, 8]
    assert [text_of(rows[n]) for n in (1, 5, 6)] == ["bom", "a\u2028b", "full"]
    assert rows[6]["custom_id"] == "mine"
    for n, words in ((2, "broken JSON"), (4, "broken UTF-8"), (7, "messages"), (8, "messages")):
        assert (rows[n]["custom_id"], rows[n]["response"]) == (None, None)
        assert rows[n]["error"]["code"] == "invalid_request"
        assert words in rows[n]["error"]["message"]


def test_text_from_standard_input_takes_the_options(tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ("--system", "S", "--temperature", "0.5", "--max-tokens", "9", "--param", "seed=7")
    done = anybatch(*local(Path("-"), output, *options), stdin="ä\nb".encode())
    assert done.returncode == 0, done.stderr
    assert [text_of(row) for _, row in sorted(rows_of(output).items())] == ["ä", "b"]
    [uploaded] = (tmp_path / "out.anybatch").glob("files/*-0.jsonl")
    body = json.loads(uploaded.read_bytes().split(b"\n")[0])["body"]
    assert body == {
        "model": "local",
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 7,
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "ä"}],
    }


def test_a_grown_input_goes_on_where_it_grew_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    path, output = tmp_path / "in.txt", tmp_path / "out"
    path.write_text("one\ntwo\nthree\n")
    assert anybatch(*local(path, output)).returncode == 0
    path.write_text("one\ntwo\nthree\nfour\n")
    assert anybatch(*local(path, output)).returncode == 0
    assert text_of(rows_of(output)[4]) == "four"
    whole = output.read_bytes()
    path.write_text("one\nTWO\nthree\nfour\nfive\n")
    changed = anybatch(*local(path, output))
    assert (changed.returncode, "line 2 of the input" in changed.stderr) == (2, True)
    path.write_text("one\ntwo\n")
    shorter = anybatch(*local(path, output))
    assert (shorter.returncode, "line 3 of the input" in shorter.stderr) == (2, True)
    path.write_text("one\ntwo\nthree\nfour\n")
    model = anybatch(*local(path, output, "--model", "other"))
    assert (model.returncode, "line 1 of the input" in model.stderr) == (2, True)
    assert output.read_bytes() == whole
    assert len(asked(output).asked) == 4


def test_rows_that_were_lost_come_back_or_are_named_and_are_not_bought_again(
    tmp_path: Path,
) -> None:
    path, output = tmp_path / "in.txt", tmp_path / "out"
    path.write_text("one\ntwo\n")
    assert anybatch(*local(path, output)).returncode == 0
    output.unlink()
    again = anybatch(*local(path, output))
    assert again.returncode == 0, again.stderr
    assert sorted(rows_of(output)) == [1, 2]
    output.write_bytes(b"")
    for rows in output.with_name("out.anybatch").glob("files/*.rows.jsonl"):
        rows.unlink()
    lost = anybatch(*local(path, output))
    assert (lost.returncode, "2 lines were answered" in lost.stderr) == (1, True)
    assert set(asked(output).asked.values()) == {1}


@pytest.mark.faults
def test_killed_again_and_again_each_line_is_answered_once(tmp_path: Path) -> None:
    output = tmp_path / "out"
    path = questions(tmp_path / "in.jsonl", 300)
    command = local(path, output, "--prompt", "{question}", "--queue-threshold", "50")
    draw = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(
            [*COMMAND, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        time.sleep(draw.uniform(0.8, 2.0))
        process.kill()
        process.wait()
    last = anybatch(*command)
    rows = rows_of(output)
    assert last.returncode == 0, last.stderr
    assert sorted(rows) == list(range(1, 301))
    assert set(asked(output).asked.values()) == {1}
    assert all(text_of(row) for row in rows.values())


@contextmanager
def server(*options: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen(
        [*COMMAND, "provider", "--port", "0", "--engine", "echo", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_it_says_how_to_go_on_and_goes_on(
    tmp_path: Path, number: int, status: int
) -> None:
    path, output = tmp_path / "in.txt", tmp_path / "out"
    path.write_text("one\ntwo\n")
    with server("--delay", "0.7", "--directory", tmp_path / "provider") as (_, url):
        command = ["run", path, "-o", output, "--base-url", url, "--model", "m"]
        with subprocess.Popen(
            [*COMMAND, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        ) as process:
            started = output.with_name("out.anybatch") / "store.db"
            while not started.exists():
                time.sleep(0.05)
            time.sleep(0.7)
            process.send_signal(number)
            _, told = process.communicate(timeout=30)
        assert process.returncode == status, told
        assert "Run the same command again to go on" in told
        done = anybatch(*command)
        assert done.returncode == 0, done.stderr
    assert sorted(rows_of(output)) == [1, 2]


def test_the_provider_serves_until_it_is_stopped(tmp_path: Path) -> None:
    with server() as (process, url):
        assert url.startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def create_faults(path: Path, *, bought: bool) -> Path:
    kind = "accept_and_drop" if bought else "reset"
    path.write_text(json.dumps({"calls": [{"route": "batches.create", "kind": kind}]}))
    return path


@pytest.mark.parametrize("bought", [True, False])
def test_a_held_batch_is_named_and_a_person_decides(tmp_path: Path, bought: bool) -> None:
    path, output, store = tmp_path / "in.txt", tmp_path / "out", tmp_path / "out.anybatch"
    path.write_text("one\ntwo\nthree\n")
    faults = create_faults(tmp_path / "faults.json", bought=bought)
    options = ("--faults", faults, "--directory", tmp_path / "provider")
    with server(*options) as (_, url):
        command = ("run", path, "-o", output, "--base-url", url, "--model", "m")
        first = anybatch(*command, "--queue-threshold", "2")
        assert first.returncode == 1, first.stderr
        shown = anybatch("batches", "--store", store, COLUMNS="40")
        assert shown.returncode == 1, shown.stderr
        [held] = [row[0] for row in map(str.split, shown.stdout.splitlines()) if row[1] == "held"]
        assert f"held: {held}" in first.stderr
        again = anybatch(*command)
        assert (again.returncode, f"held: {held}" in again.stderr) == (1, True)
        decision = ("--platform-id", platform_id_of(url, held)) if bought else ("--not-created",)
        decided = anybatch("resolve", held, *decision, "--store", store)
        assert decided.returncode == 0, decided.stderr
        twice = anybatch("resolve", held, *decision, "--store", store)
        assert (twice.returncode, "is not held but" in twice.stderr) == (2, True)
        last = anybatch(*command)
        assert last.returncode == 0, last.stderr
    answers = {n: text_of(row) for n, row in rows_of(output).items()}
    assert answers == {1: "one", 2: "two", 3: "three"}
    assert set(asked_in(tmp_path / "provider").asked.values()) == {1}
    assert anybatch("batches", "--store", store).returncode == 0


def platform_id_of(url: str, batch_id: str) -> str:
    with urllib.request.urlopen(f"{url}/batches") as reply:
        batches = json.load(reply)["data"]
    [found] = [b["id"] for b in batches if b["metadata"] == {"anybatch": batch_id}]
    return str(found)


@pytest.mark.parametrize("bought", [True, False])
def test_the_local_provider_that_died_with_a_run_says_itself_what_was_bought(
    tmp_path: Path, bought: bool
) -> None:
    path, output = tmp_path / "in.txt", tmp_path / "out"
    path.write_text("one\ntwo\n")
    faults = create_faults(tmp_path / "faults.json", bought=bought)
    first = anybatch(*local(path, output, "--faults", faults))
    assert (first.returncode, "held: " in first.stderr) == (1, True)
    second = anybatch(*local(path, output))
    assert second.returncode == 0, second.stderr
    assert sorted(rows_of(output)) == [1, 2]
    assert set(asked(output).asked.values()) == {1}


def test_an_account_that_is_refused_is_said_at_once_and_the_next_run_goes_on(
    tmp_path: Path,
) -> None:
    path, output, faults = tmp_path / "in.txt", tmp_path / "out", tmp_path / "faults.json"
    path.write_text("one\n")
    fault = {"route": "batches.create", "status": 401, "message": "Your key is wrong."}
    faults.write_text(json.dumps({"calls": [fault]}))
    refused = anybatch(*local(path, output, "--faults", faults))
    assert refused.returncode == 1, refused.stderr
    assert "lines have no end yet: " in refused.stderr
    assert "Your key is wrong." in refused.stderr
    done = anybatch(*local(path, output))
    assert done.returncode == 0, done.stderr
    assert text_of(rows_of(output)[1]) == "one"
