"""From a line of INPUT to a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

pytest.importorskip("cyclopts")

from anybatch.cli._errors import UsageError
from anybatch.cli._recipe import Recipe, check_template, guess_format, parse_parameters

JSONL = Recipe("run", model="m")
TEXT = Recipe("run", format="text", model="m")


def body(recipe: Recipe, raw: bytes) -> Any:
    line = recipe.line(7, raw)
    assert line.request is not None, line.error
    request = json.loads(line.request)
    assert request["custom_id"] == "run-7"
    assert (request["method"], request["url"]) == ("POST", "/v1/chat/completions")
    return request["body"]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_line_of_text_is_a_prompt() -> None:
    assert body(TEXT, b"2 + 2?") == {"model": "m", "messages": [user("2 + 2?")]}


def test_a_prompt_an_object_with_a_prompt_and_a_string_are_the_same_request() -> None:
    expected = {"model": "m", "messages": [user("hi")]}
    assert body(JSONL, b'{"prompt": "hi", "answer": 3}') == expected
    assert body(JSONL, b'"hi"') == expected


def test_fields_beside_messages_go_into_the_body_and_win_over_options() -> None:
    recipe = attrs.evolve(JSONL, parameters={"seed": b"7", "temperature": b"0.5"})
    raw = b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1.50, "model": "n"}'
    line = recipe.line(1, raw)
    assert line.request is not None
    assert b'"temperature":1.50' in line.request.replace(b": ", b":")
    assert json.loads(line.request)["body"] == {
        "model": "n",
        "seed": 7,
        "temperature": 1.5,
        "messages": [user("hi")],
    }


def test_a_batch_api_request_keeps_its_spelling_and_gets_our_custom_id() -> None:
    raw = (
        b'{"custom_id": "mine", "method": "POST", "url": "/v1/embeddings", '
        b'"body": {"model": "e", "input": "x", "n": 1.000, "big": 123456789012345678901}}'
    )
    line = JSONL.line(3, raw)
    assert line.custom_id == "mine"
    assert line.request is not None
    assert b'"n": 1.000, "big": 123456789012345678901' in line.request
    assert json.loads(line.request)["custom_id"] == "run-3"
    assert json.loads(line.request)["url"] == "/v1/embeddings"


def test_a_batch_api_request_gets_what_it_lacks_and_no_parameters() -> None:
    recipe = attrs.evolve(JSONL, parameters={"seed": b"7"}, system="Be brief.")
    assert body(recipe, b'{"body": {"messages": []}}') == {"model": "m", "messages": []}
    assert body(recipe, b'{"body": {"model": "n"}}') == {"model": "n"}


def test_a_template_takes_the_fields_of_any_object() -> None:
    recipe = attrs.evolve(JSONL, template="{question} ({n}) {{x}}")
    assert body(recipe, b'{"question": "q\\u2028r", "n": 3, "prompt": "p"}')["messages"] == [
        user("q\u2028r (3) {x}")
    ]
    assert body(attrs.evolve(TEXT, template="Say {line}"), b"hi")["messages"] == [user("Say hi")]


def test_a_system_message_comes_first_unless_there_is_one() -> None:
    recipe = attrs.evolve(JSONL, system="S")
    system = {"role": "system", "content": "S"}
    assert body(recipe, b'{"prompt": "hi"}')["messages"] == [system, user("hi")]
    assert body(recipe, b'{"messages": [{"role":"user","content":"hi"}]}')["messages"] == [
        system,
        user("hi"),
    ]
    own = b'{"messages": [{"role": "developer", "content": "D"}]}'
    assert body(recipe, own)["messages"] == [{"role": "developer", "content": "D"}]


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b'{"prompt": ', "broken JSON"),
        (b'{"prompt": NaN}', "broken JSON"),
        (b'{"prompt": "\xff"}', "broken UTF-8: byte 0xff at position 12"),
        (b"[" * 100_000, "broken JSON"),
        (b"3", "no JSON object but a number"),
        (b"null", "no JSON object but null"),
        (b"[]", "no JSON object but an array"),
        (b'{"prompt": 3}', "its prompt is no string but a number"),
        (b'{"prompt": "x", "custom_id": true}', "its custom_id is no string but a boolean"),
        (b'{"question": "x"}', "no request in its fields (question)"),
        (b"{}", "no request in its fields (none)"),
    ],
)
def test_a_line_that_is_no_request_says_why(raw: bytes, complaint: str) -> None:
    line = JSONL.line(1, raw)
    assert line.request is None
    assert line.error is not None
    assert complaint in line.error


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{answer}", "'answer' of --prompt is missing"),
        ("{question:d}", "cannot be filled"),
        ("{question.x}", "cannot be filled"),
        ("{question[9]}", "cannot be filled"),
    ],
)
def test_a_template_that_does_not_fit_is_the_line_s_error(template: str, complaint: str) -> None:
    line = attrs.evolve(JSONL, template=template).line(1, b'{"question": "q"}')
    assert complaint in str(line.error)


def test_a_blank_line_is_neither_request_nor_error() -> None:
    assert JSONL.line(1, b"  ").blank
    assert not JSONL.line(1, b"x").blank


def test_the_digest_tells_another_line_another_template_and_another_id_apart() -> None:
    raw = b'{"prompt": "hi", "custom_id": "a"}'
    digests = {
        JSONL.line(1, raw).digest,
        JSONL.line(1, raw.replace(b"hi", b"ho")).digest,
        JSONL.line(1, raw.replace(b'"a"', b'"b"')).digest,
        attrs.evolve(JSONL, model="n").line(1, raw).digest,
        JSONL.line(1, b"broken").digest,
        JSONL.line(1, b"").digest,
    }
    assert len(digests) == 6
    assert JSONL.line(1, raw).digest in digests


def test_a_custom_id_tells_the_line_of_its_own_run_only() -> None:
    assert JSONL.number("run-12") == 12
    assert JSONL.number("nur-12") is None
    assert JSONL.number("run-x") is None


@pytest.mark.parametrize(
    ("path", "first", "format"),
    [
        ("a.jsonl", b"hello", "jsonl"),
        ("a.TXT", b'{"prompt": 1}', "text"),
        ("a.data", b' {"prompt', "jsonl"),
        (None, b"hello", "text"),
        (None, b"{", "jsonl"),
    ],
)
def test_the_name_tells_the_format_else_the_first_line(
    path: str | None, first: bytes, format: str
) -> None:
    assert guess_format(None if path is None else Path(path), first) == format


@pytest.mark.parametrize("template", ["{question", "{}", "{0}"])
def test_a_template_that_fits_no_object_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="--prompt"):
        check_template(template)


def test_parameters_are_json_and_what_is_no_json_is_a_string() -> None:
    assert parse_parameters(["seed=7", "user=me", "x=[1.0]", "e="]) == {
        "seed": b"7",
        "user": b'"me"',
        "x": b"[1.0]",
        "e": b'""',
    }
    for option in ("seed", "=7"):
        with pytest.raises(UsageError, match="--param seed=7"):
            parse_parameters([option])
