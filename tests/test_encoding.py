from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybatch._encoding import (
    decode,
    encode,
    full_line,
    one_line,
    plain,
    raw_fields,
    read_head,
    with_id,
)
from anybatch._exceptions import RequestRejected
from anybatch._models import RawRequest

CHAT = "/v1/chat/completions"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_what_is_encoded_is_decoded_again_whatever_the_length_of_its_numbers(value: Any) -> None:
    line = encode(value)
    assert b"\n" not in line
    assert decode(line) == value
    assert json.loads(line) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "nan"),
        ({"body": {"temperature": math.inf}}, "'body.temperature'"),
        ({"a": None, "b": [1.0, -math.inf]}, r"-inf at 'b\[1\]'"),
        ({"a": {1: 2}}, "no string at 'a': 1"),
        ({"a": b"x"}, "RawRequest"),
        ({"a": [bytearray(b"x")]}, "bytes at"),
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ({"a": {1, 2}}, "not JSON"),
        ({"a": dt.date(2025, 1, 1)}, "not JSON"),
        ({"a": [2**70, object()]}, "not JSON"),
        pytest.param({"a": 10**5000}, "not JSON", id="long"),
    ],
)
def test_what_is_no_json_is_rejected_by_name(value: Any, words: str) -> None:
    with pytest.raises(RequestRejected, match=words):
        encode(value)


def test_a_value_that_contains_itself_is_rejected() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RequestRejected, match="nested deeper"):
        encode(loop)


def test_null_and_the_word_null_pass() -> None:
    assert encode({"a": None, "b": "null"}) == b'{"a":null,"b":"null"}'


def test_a_raw_request_inside_a_value_keeps_its_spelling_beside_a_long_number() -> None:
    raw = RawRequest(b'{"t": 0.10,\n "n": 1E+2}')
    assert encode({"body": raw}) == b'{"body":{"t": 0.10,  "n": 1E+2}}'
    assert encode([2**80, raw]).startswith(b"[1208925819614629174706176,{")
    with pytest.raises(RequestRejected, match="not JSON"):
        encode({"body": RawRequest(b"{")})


@pytest.mark.parametrize(
    "text",
    [b"", b"NaN", b"[1,]", b'"\xff"', b'"\\ud800"', b'"\\ud800\\u0041"', b'"a\nb"', b"{} {}",
     b"01", b"1e999", b"[" * 3000 + b"]" * 3000],
)  # fmt: skip
def test_text_that_is_not_strict_json_is_rejected(text: bytes) -> None:
    with pytest.raises(RequestRejected, match="not JSON"):
        decode(text)
    with pytest.raises(RequestRejected, match="not JSON"):
        one_line(text)


def test_one_line_replaces_newlines_and_leaves_every_spelling() -> None:
    text = b'\xef\xbb\xbf {"a": 1.50,\r\n "b": [1E+2, 123456789012345678901234567890]}\n'
    assert one_line(text) == b'{"a": 1.50,   "b": [1E+2, 123456789012345678901234567890]}'
    assert one_line(b'"a\\nb"') == b'"a\\nb"'


def test_plain_decodes_raw_values_and_leaves_others_alone() -> None:
    value = {"a": 1}
    assert plain(value) is value
    assert plain(RawRequest(b"[1]")) == [1]
    assert plain({"a": RawRequest(b"{}"), "b": 2}) == {"a": {}, "b": 2}
    assert plain("text") == "text"


def test_the_head_of_a_line_names_its_group_and_counts_its_bytes() -> None:
    line = with_id({"method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}, "a")
    head = read_head(7, line)
    assert head == (7, "a", (CHAT, "m"), len(line) + 1, 1)
    assert line.startswith(b'{"custom_id":"a","method":"POST"')


@pytest.mark.parametrize(
    ("url", "value", "count"),
    [
        ("/v1/embeddings", "one", 1),
        ("/v1/embeddings", ["one", "two"], 2),
        ("/v1/embeddings", [[1, 2], [3], [4]], 3),
        ("/v1/embeddings", [1, 2, 3], 1),
        ("/v1/embeddings", [], 1),
        ("/v1/responses", ["a", "b"], 1),
    ],
)
def test_only_the_texts_of_embeddings_are_counted(url: str, value: Any, count: int) -> None:
    line = encode({"custom_id": "a", "url": url, "body": {"model": "m", "input": value}})
    assert read_head(0, line).inputs == count


def test_a_request_without_a_model_has_an_empty_one() -> None:
    line = encode({"custom_id": "a", "url": "/v1/moderations", "body": {"input": "x"}})
    assert read_head(0, line).group == ("/v1/moderations", "")


@pytest.mark.parametrize(
    "line",
    [b"[]", b"{", b'{"custom_id":"a","url":"/x"}', b'{"custom_id":7,"url":"/x","body":{}}',
     b'{"custom_id":"a","url":"/x","body":{"model":1}}', b'{"custom_id":"\xff"}'],
)  # fmt: skip
def test_a_line_that_is_no_full_request_has_no_head(line: bytes) -> None:
    with pytest.raises(RequestRejected, match="not a Batch API request"):
        read_head(0, line)


def test_a_full_request_gets_what_it_lacks_and_keeps_its_order() -> None:
    request = {"body": {"z": 1, "a": 2}, "extra": True}
    assert full_line(request, "a", url=CHAT) == (
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions",'
        b'"body":{"z":1,"a":2},"extra":true}'
    )
    whole = {"url": "/x", "custom_id": "a", "method": "POST", "body": {}}
    assert full_line(whole, "a", url=CHAT) == encode(whole)


def test_raw_text_is_kept_to_the_byte_and_only_spliced_into() -> None:
    whole = b'{ "body": {"t": 0.10}, "custom_id": "a", "method": "POST", "url": "/x" }'
    assert full_line(RawRequest(whole), "a", url=CHAT) == whole
    part = b'{ "body" : {"t": 0.10}, "method": "POST" }'
    line = full_line(RawRequest(part), "é", url=CHAT)
    assert line.endswith(b'"body" : {"t": 0.10}, "method": "POST" }')
    assert json.loads(line) == {
        "custom_id": "é", "url": CHAT, "body": {"t": 0.1}, "method": "POST",
    }  # fmt: skip
    assert json.loads(full_line(RawRequest(b"{ }"), "a", url=CHAT))["custom_id"] == "a"


def test_two_ids_for_one_request_are_rejected() -> None:
    with pytest.raises(RequestRejected, match="'b' in it and 'a' beside it"):
        full_line({"custom_id": "b"}, "a", url=CHAT)
    with pytest.raises(RequestRejected, match="two custom ids"):
        full_line(RawRequest(b'{"custom_id":"b"}'), "a", url=CHAT)
    with pytest.raises(RequestRejected, match="twice"):
        full_line(RawRequest(b'{"custom_id":"b","custom_id":"a"}'), "a", url=CHAT)
    nested = b'{"custom_id":"a","body":{"custom_id":"a"},"method":"POST","url":"/x"}'
    assert full_line(RawRequest(nested), "a", url=CHAT) == nested


def test_a_raw_request_that_is_no_object_is_rejected() -> None:
    with pytest.raises(RequestRejected, match="not a JSON object"):
        full_line(RawRequest(b"[]"), "a", url=CHAT)


def test_the_fields_of_raw_text_keep_their_spelling() -> None:
    assert raw_fields(b'{"a": 0.10,\n"b": [1E+2]}') == {
        "a": RawRequest(b"0.10"),
        "b": RawRequest(b"[1E+2]"),
    }


def test_what_the_exact_reader_cannot_read_is_rejected() -> None:
    for text in (b"[" * 100_000 + b"]" * 100_000, b"[" + b"9" * 305 + b"]" + b" " * 9 + b"9"):
        with pytest.raises(RequestRejected, match="not JSON"):
            decode(text)
