"""Intake: what is submitted becomes the line it will be, or is refused with value and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from anybatch import RawRequest, RequestRejected
from anybatch._encoding import decode, encode
from anybatch._intake import FunctionIntake, ProviderIntake
from anybatch.abc import Provider
from anybatch.providers import OpenAI

MODEL = {"model": "a model"}
MESSAGES = [{"role": "user", "content": "hello"}]
FULL = {"body": {"messages": MESSAGES, **MODEL}}


def intake(
    *,
    partial: bool = True,
    settings: Mapping[str, Any] = MODEL,
    size: int = 1_000,
    provider: Provider | None = None,
) -> ProviderIntake:
    provider = OpenAI(api_key="none") if provider is None else provider
    return ProviderIntake(provider, partial=partial, settings=settings, size=size)


def refused(request: Any, *words: str, custom_id: str | None = None, **options: Any) -> None:
    """It is rejected, and the message has these words: the value and what to do."""
    with pytest.raises(RequestRejected) as caught:
        intake(**options).prepare(request, custom_id)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


# What is sent


def test_a_text_becomes_a_full_line_with_an_id() -> None:
    custom_id, line, given = intake().prepare("hello", None)
    assert decode(line) == {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "a model", "messages": MESSAGES},
    }
    assert not given


def test_each_request_gets_an_id_of_its_own_and_each_intake_a_series() -> None:
    one, two = intake(), intake()
    ids = [i.prepare("hello", None)[0] for i in (one, one, two, two)]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("request_", [MESSAGES, {"messages": MESSAGES}, RawRequest(b'"hello"')])
def test_a_partial_request_may_have_any_of_its_forms(request_: Any) -> None:
    _, line, given = intake().prepare(request_, "mine")
    assert decode(line)["body"] == {**MODEL, "messages": MESSAGES}
    assert (decode(line)["custom_id"], given) == ("mine", True)


def test_a_request_overrides_the_request_kwargs() -> None:
    settings = {"temperature": 0, **MODEL}
    request = {"messages": MESSAGES, "temperature": 1}
    _, line, _ = intake(settings=settings).prepare(request, None)
    assert decode(line)["body"] == {"temperature": 1, "messages": MESSAGES, **MODEL}


def test_the_order_of_keys_and_unknown_fields_are_the_users() -> None:
    body = {"z": 1, "messages": MESSAGES, "unknown": {"b": [], "a": None}, **MODEL}
    request = {"later": True, "body": body, "custom_id": "x"}
    _, line, _ = intake(partial=False).prepare(request, None)
    assert list(decode(line)) == ["method", "url", "later", "body", "custom_id"]
    assert encode(body) in line


def test_a_raw_request_keeps_the_spelling_of_its_numbers() -> None:
    body = b'{"z": 1.10, "model": "a model", "seed": 1E2, "big": 123456789012345678901234567890,'
    body += b'"messages": [{"role": "user", "content": "hello"}]}'
    text = b'{"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": ' + body
    assert intake(partial=False).prepare(RawRequest(text + b"}"), None)[1] == text + b"}"
    _, line, _ = intake().prepare(RawRequest(body), None)
    for spelled in (b"1.10", b"1E2", b"123456789012345678901234567890"):
        assert spelled in line


def test_a_raw_request_may_have_a_mark_and_lines() -> None:
    text = b'\xef\xbb\xbf{"messages":\r\n [{"role": "user", "content": "hello"}]}\n'
    _, line, _ = intake().prepare(RawRequest(text), None)
    assert decode(line)["body"] == {**MODEL, "messages": MESSAGES}
    assert b"\n" not in line
    full = b'\xef\xbb\xbf{"custom_id": "x",\n"body": ' + encode(FULL["body"]) + b"}\n"
    custom_id, line, given = intake(partial=False).prepare(RawRequest(full), None)
    assert (custom_id, given, b"\n" in line) == ("x", True, False)


def test_a_full_requests_own_id_counts_as_given() -> None:
    assert intake(partial=False).prepare({"custom_id": "x", **FULL}, None)[::2] == ("x", True)
    assert intake(partial=False).prepare({"custom_id": "x", **FULL}, "x")[::2] == ("x", True)
    assert intake(partial=False).prepare(FULL, "y")[::2] == ("y", True)
    custom_id, line, given = intake(partial=False).prepare(FULL, None)
    assert (decode(line)["custom_id"], given) == (custom_id, False)


def test_a_line_may_be_as_large_as_a_batch_its_newline_counted() -> None:
    _, line, _ = intake().prepare("hello", "x")
    assert intake(size=len(line) + 1).prepare("hello", "x")[1] == line
    refused("hello", f"{len(line) + 1:,} bytes", "shorten it", custom_id="x", size=len(line))


# What is refused


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (float("nan"), ["float", "nan", "give a text"]),
        ({"messages": MESSAGES, "temperature": float("nan")}, ["nan", "temperature", "leave"]),
        ({"messages": MESSAGES, "top_p": float("inf")}, ["inf", "top_p", "leave it out"]),
        ({"messages": MESSAGES, "metadata": {1: "x"}}, ["1", "metadata", "use a string"]),
        ({"messages": MESSAGES, 1: "x"}, ["1", "use a string"]),
        ("a \ud800 text", ["lone surrogate", "clean the text"]),
        ({"messages": MESSAGES, "user": "\udfff"}, ["lone surrogate", "user", "clean"]),
        ({"messages": MESSAGES, "\udfff": 1}, ["lone surrogate", "clean"]),
        (b"hello", ["bytes", "hello", "give a text"]),
        ({"messages": MESSAGES, "user": b"me"}, ["bytes", "user", "RawRequest"]),
        ({"messages": MESSAGES, "user": object()}, ["object", "JSON values"]),
        (5, ["int", "5", "give a text"]),
        (None, ["NoneType", "give a text"]),
        ([], ["[]", "at least one message"]),
        ({"messages": []}, ["[]", "at least one message"]),
        ({"prompt": "hello"}, ["messages", "hello", "give a text"]),
        (["hello"], ["hello", '"role"']),
        ([{"content": "hello"}], ["None", '"role"']),
        ([{"role": "user", "content": 5}], ["5", "give a text"]),
        (FULL, ["full request", 'requests_type="full"']),
        ({"messages": MESSAGES, "model": 5}, ["model", "5", "string"]),
        (RawRequest(b"{"), ["not JSON", "{", "send strict"]),
        (RawRequest(b'{"messages": NaN}'), ["not JSON", "NaN"]),
        (RawRequest(b"\xff"), ["not JSON"]),
        (RawRequest(b'"\\ud800"'), ["not JSON", "ud800"]),
        (RawRequest(b'{"messages": [], "\\udfff": 1}'), ["not JSON", "udfff"]),
        (RawRequest("text"), ["str", "bytes", ".encode()"]),  # type: ignore[arg-type]
    ],
)
def test_a_bad_partial_request_is_named_with_its_remedy(request_: Any, words: list[str]) -> None:
    refused(request_, *words)


def test_without_a_model_the_request_kwargs_are_named() -> None:
    refused("hello", 'request_kwargs={"model": "…"}', settings={})
    refused({"body": {"messages": MESSAGES}}, 'request_kwargs={"model": "…"}', partial=False)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("hello", ["str", 'requests_type="partial"']),
        (MESSAGES, ["list", 'requests_type="partial"']),
        (RawRequest(b'"hello"'), ["str", 'requests_type="partial"']),
        ({"messages": MESSAGES}, ["without a body"]),
        ({"body": "x", "custom_id": "x"}, ["body", "'x'"]),
        ({**FULL, "method": "GET"}, ["GET", "POST"]),
        ({**FULL, "url": "/v1/nowhere"}, ["/v1/nowhere", "/v1/responses"]),
        ({**FULL, "custom_id": ""}, ["''", "not empty"]),
        ({**FULL, "custom_id": 5}, ["5", "give a string"]),
        ({**FULL, "custom_id": None}, ["null", "leave it out"]),
        ({**FULL, "custom_id": "x" * 513}, ["xxx", "match"]),
        ({**FULL, 5: 5}, ["5", "use a string"]),
        (RawRequest(b'{"body": {}, "custom_id": null}'), ["null", "leave it out"]),
        (
            RawRequest(
                b'{"custom_id": "x", "custom_id": "y", "body": ' + encode(FULL["body"]) + b"}"
            ),
            ["custom_id"],
        ),
    ],
)
def test_a_bad_full_request_is_named_with_its_remedy(request_: Any, words: list[str]) -> None:
    refused(request_, *words, partial=False)


@pytest.mark.parametrize("custom_id", ["", "x" * 513, 5, "\ud800"])
@pytest.mark.parametrize("partial", [True, False])
def test_a_bad_id_is_refused(custom_id: Any, partial: bool) -> None:
    request = "hello" if partial else FULL
    refused(
        request, "custom_id" if custom_id != "\ud800" else "", custom_id=custom_id, partial=partial
    )


def test_two_different_ids_are_refused() -> None:
    refused({"custom_id": "x", **FULL}, "'x'", "'y'", "give one", custom_id="y", partial=False)


# Elements that came by another way


def test_a_bare_element_is_completed_with_the_plans_settings() -> None:
    line = intake(settings={}).finish(b'"hello"', "uid-1", {"model": "planned"})
    assert decode(line)["body"] == {"model": "planned", "messages": MESSAGES}
    assert decode(line)["custom_id"] == "uid-1"


def test_a_full_element_keeps_its_id_or_gets_one() -> None:
    for partial in (True, False):
        own = intake(partial=partial).finish(encode({"custom_id": "x", **FULL}), "uid-1", {})
        assert decode(own)["custom_id"] == "x"
        new = intake(partial=partial).finish(encode(FULL), "uid-1", {})
        assert decode(new)["custom_id"] == "uid-1"
        assert decode(new)["url"] == "/v1/chat/completions"


@pytest.mark.parametrize(
    "element",
    [
        b"{",
        b"5",
        b'{"no": "messages"}',
        encode({"custom_id": "", **FULL}),
        b'"' + b"x" * 2_000 + b'"',
    ],
)
def test_a_bad_element_is_refused(element: bytes) -> None:
    with pytest.raises(RequestRejected):
        intake().finish(element, "uid-1", MODEL)


# A provider that writes the lines itself, and a function


class Building(OpenAI):
    builds_partial = builds_full = True


def test_what_a_users_class_builds_is_queued_as_given() -> None:
    provider = Building(api_key="none")
    given = intake(provider=provider).prepare({"any": "thing"}, None)
    assert given[1:] == (b'{"any":"thing"}', False)
    full = intake(provider=provider, partial=False)
    assert full.prepare({"custom_id": "x"}, None) == ("x", b'{"custom_id":"x"}', True)
    assert full.prepare(RawRequest(b'{"custom_id": "x"}'), None)[::2] == ("x", True)
    assert full.prepare(["any"], "y")[::2] == ("y", True)
    refused({"custom_id": "x"}, "'x'", "'y'", custom_id="y", partial=False, provider=provider)
    refused({"any": b"thing"}, "bytes", provider=provider)
    refused("x" * 2_000, "2,003 bytes", provider=provider)


def test_a_function_takes_anything_and_ids_that_are_not_empty() -> None:
    intake_, anything = FunctionIntake(), object()
    first, request, given = intake_.prepare(anything, None)
    assert (request is anything, given) == (True, False)
    assert intake_.prepare(anything, "mine") == ("mine", anything, True)
    assert intake_.prepare(anything, None)[0] != first
    with pytest.raises(RequestRejected, match="not empty"):
        intake_.prepare(anything, "")
