"""JSON lines: the strict encoding of a request, and the little that is read back out of it.

Pure functions. A line is UTF-8 text of one JSON value without a newline; its spelling is the
user's wherever it came as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
import orjson

from ._exceptions import RequestRejected
from ._models import Head, RawRequest

_STRICT: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_BOM: Final = b"\xef\xbb\xbf"
_NEWLINES: Final = bytes.maketrans(b"\r\n", b"  ")
_INT64: Final = range(-(2**63), 2**64)
_DEEPEST: Final = 200  # orjson itself stops at 254


def encode(value: Any) -> bytes:
    """The JSON text of a Python value, on one line, in the strict sense of JSON.

    A `RawRequest` inside it is put in as it is spelled.

    Raises:
        RequestRejected: NaN, keys that are no strings, lone surrogates, bytes, other objects.
    """
    try:
        text = orjson.dumps(value, _embed, _STRICT)
    except TypeError as exc:
        text = _encode_long(value, exc)
    # orjson writes NaN and infinity as null, and says nothing.
    if b"null" in text:
        _refuse(value, "", 0)
    return text


def decode(text: bytes) -> Any:
    """The value of strict JSON text; whole numbers of any length stay whole numbers.

    Raises:
        RequestRejected: it is not JSON: NaN, invalid UTF-8, a lone surrogate even as an escape.
    """
    try:
        orjson.loads(text)  # the stricter reader; of a number over 64 bits it makes a float
        return msgspec.json.decode(text)  # the exact one
    except (orjson.JSONDecodeError, msgspec.DecodeError, RecursionError) as exc:
        raise RequestRejected(f"not JSON: {exc}: {_show(text)}; send strict UTF-8 JSON") from None


def one_line(text: bytes) -> bytes:
    """JSON text on one line: newlines between its tokens become spaces, nothing else changes.

    Raises:
        RequestRejected: it is not JSON.
    """
    text = text.removeprefix(_BOM).strip(b" \t\r\n")
    decode(text)  # so a newline can only stand between tokens: inside a string JSON forbids it
    return text.translate(_NEWLINES) if b"\n" in text or b"\r" in text else text


def plain(value: Any) -> Any:
    """The value of a `RawRequest`; of a mapping, with the `RawRequest`s among its values decoded."""
    if isinstance(value, RawRequest):
        return decode(one_line(value.json))
    if isinstance(value, dict):
        items: Any = cast("dict[str, Any]", value)
        if any(type(item) is RawRequest for item in items.values()):
            return {key: plain(item) for key, item in items.items()}
        return items
    return value


class _Body(msgspec.Struct, gc=False):
    model: str = ""
    input: msgspec.Raw = msgspec.Raw()


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    url: str
    body: _Body


class _Envelope(msgspec.Struct, gc=False):
    custom_id: Any = msgspec.UNSET
    method: Any = msgspec.UNSET
    url: Any = msgspec.UNSET


_line_decoder: Final = msgspec.json.Decoder(_Line)
_envelope_decoder: Final = msgspec.json.Decoder(_Envelope)
_items_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
_fields_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_head(number: int, line: bytes) -> Head:
    """What packing needs to know of a full request's line; the rest of the line is skipped.

    Raises:
        RequestRejected: the line is no full request.
    """
    try:
        request = _line_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RequestRejected(
            f"not a Batch API request: {exc}: {_show(line)}; it needs custom_id, url and body"
        ) from None
    inputs = _count(request.body.input) if request.url.endswith("/embeddings") else 1
    group = (request.url, request.body.model)
    return Head(number, request.custom_id, group, len(line) + 1, inputs)


def _count(text: msgspec.Raw) -> int:
    """How many texts an embeddings request has; a list of numbers is one text's tokens."""
    if not bytes(text).startswith(b"["):
        return 1
    items = _items_decoder.decode(text)
    return len(items) if items and bytes(items[0])[:1] in (b'"', b"[") else 1


def full_line(request: Mapping[str, Any] | RawRequest, custom_id: str, *, url: str) -> bytes:
    """The line of a full request; `custom_id`, `method` and `url` are added where they lack.

    Everything else stays as it is, in its order; of a `RawRequest`, to the byte.

    Raises:
        RequestRejected: it is no JSON object, not strict JSON, or has another custom id.
    """
    wanted = {"custom_id": custom_id, "method": "POST", "url": url}
    if isinstance(request, RawRequest):
        return _splice(one_line(request.json), wanted)
    _same_id(request.get("custom_id", custom_id), custom_id)
    lacking = {key: value for key, value in wanted.items() if key not in request}
    return encode({**lacking, **request})


def with_id(request: Mapping[str, Any], custom_id: str) -> bytes:
    """The line of a request that has no id yet."""
    return encode({"custom_id": custom_id, **request})


def raw_fields(text: bytes) -> dict[str, RawRequest]:
    """The members of a JSON object, each as it is spelled."""
    fields = _fields_decoder.decode(one_line(text))
    return {key: RawRequest(bytes(value)) for key, value in fields.items()}


def _splice(text: bytes, wanted: Mapping[str, str]) -> bytes:
    if not text.startswith(b"{"):
        raise RequestRejected(f"not a JSON object: {_show(text)}; a full request is one")
    envelope = _envelope_decoder.decode(text)
    if envelope.custom_id is not msgspec.UNSET:
        _same_id(envelope.custom_id, wanted["custom_id"])
        _only_once(text)
    lacking = {
        key: value for key, value in wanted.items() if getattr(envelope, key) is msgspec.UNSET
    }
    if not lacking:
        return text
    rest = text[1:].lstrip()
    return encode(lacking)[:-1] + (b"" if rest.startswith(b"}") else b",") + rest


def _same_id(found: Any, custom_id: str) -> None:
    if found != custom_id:
        raise RequestRejected(
            f"two custom ids for one request: {found!r} in it and {custom_id!r} beside it; give one"
        )


def _only_once(text: bytes) -> None:
    """Refuse a request with two ids: which of them counts, each reader decides for itself."""
    if text.count(b'"custom_id"') > 1 and _ids(text) > 1:
        raise RequestRejected(f"custom_id is there twice: {_show(text)}; give it once")


def _ids(text: bytes) -> int:
    """How often an object has the key: decoded as a list of pairs, which keeps repetitions."""
    import json  # the only reader that shows repeated keys; needed next to never

    top: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    return sum(key == "custom_id" for key, _ in top)


def _embed(value: Any) -> Any:
    if isinstance(value, RawRequest):
        return orjson.Fragment(one_line(value.json))
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _encode_long(value: Any, cause: TypeError) -> bytes:
    """Encode what orjson refuses because of a number over 64 bits; all else is refused."""
    _refuse(value, "", 0)
    try:
        return orjson.dumps(_with_fragments(value), _embed, _STRICT)
    except (TypeError, ValueError):
        reason = cause.__cause__ or cause
        raise RequestRejected(f"not JSON: {reason}: {_show(value)}; send JSON values") from cause


def _with_fragments(value: Any) -> Any:
    """A copy in which whole numbers over 64 bits are spelled out."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _with_fragments(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_with_fragments(item) for item in cast("list[Any]", value)]
    if isinstance(value, int) and value not in _INT64:
        return orjson.Fragment(str(value).encode())
    return value


def _refuse(value: Any, where: str, depth: int) -> None:
    """Find what is no JSON in the value, and name it and its place."""
    if depth > _DEEPEST:
        raise RequestRejected(f"nested deeper than {_DEEPEST} levels: {where[:80]}…; flatten it")
    if isinstance(value, dict):
        for key, item in cast("dict[object, Any]", value).items():
            if not isinstance(key, str):
                raise RequestRejected(f"a key that is no string{_at(where)}: {key!r}; use a string")
            _refuse(key, where, depth + 1)
            _refuse(item, f"{where}.{key}" if where else key, depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast("list[Any]", value)):
            _refuse(item, f"{where}[{index}]", depth + 1)
    else:
        _refuse_scalar(value, where)


def _refuse_scalar(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestRejected(f"{value!r}{_at(where)} has no form in JSON; leave it out")
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise RequestRejected(
            f"bytes{_at(where)} have no form in JSON: {_show(cast('Any', value))};"
            " decode them, or wrap JSON text in RawRequest"
        )
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RequestRejected(
                f"a lone surrogate{_at(where)}: {_show(value)};"
                ' clean the text: text.encode("utf-8", "replace").decode()'
            ) from None


def _at(where: str) -> str:
    return f" at {where[:200]!r}" if where else ""


def _show(value: Any) -> str:
    """The beginning of a value, for an error."""
    try:
        text = repr(value[:80] if isinstance(value, (str, bytes)) else cast("object", value))
    except ValueError:  # a whole number of more than 4,300 digits
        return "a number too long to show"
    return text if len(text) <= 100 else text[:100] + "…"
