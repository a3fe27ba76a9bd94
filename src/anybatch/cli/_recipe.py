"""From a line of INPUT to a request: pure, and the same whenever the same line is seen again."""

from __future__ import annotations

import string
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import msgspec
from msgspec import Raw

from ._errors import UsageError

Format = Literal["jsonl", "text"]

DIGEST_SIZE = 16
"""Bytes of the digest of a line's request."""

_SUFFIXES: Mapping[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text"}
_SYSTEM_ROLES = ("system", "developer")
_fields = msgspec.json.Decoder(dict[str, Raw])
_items = msgspec.json.Decoder(list[Raw])


class BadLine(Exception):
    """A line that is no request; the message says why."""


@attrs.frozen
class Line:
    """A line of INPUT and what was made of it: a request, an error, or (blank) neither.

    Args:
        number: from 1.
        digest: tells whether the same line, built the same way, comes again.
        request: a full Batch API request as JSON text, under our `custom_id`.
        custom_id: the user's own, which OUTPUT has.
        error: why there is no request.
    """

    number: int
    digest: bytes
    request: bytes | None = None
    custom_id: str | None = None
    error: str | None = None

    @property
    def blank(self) -> bool:
        """Whether there is nothing in it: it gets no row."""
        return self.request is None and self.error is None


@attrs.frozen
class Recipe:
    """How requests are made of lines.

    Args:
        run_id: the request of line 7 gets the `custom_id` `<run_id>-7`.
        format: `jsonl`: each line is JSON; `text`: each line is a prompt.
        template: made into the prompt with the fields of a line's object (in a text: `line`).
        model: for lines that name none.
        system: a system message, before messages that have none.
        parameters: fields of the body, as JSON text, for lines that do not have them; they and
            `system` leave full Batch API requests alone.
    """

    run_id: str
    format: Format = "jsonl"
    template: str | None = None
    model: str | None = None
    system: str | None = None
    parameters: Mapping[str, bytes] = attrs.field(factory=dict[str, bytes])

    def line(self, number: int, raw: bytes) -> Line:
        """Make a request of a line; never raises: what is wrong with it is its error."""
        if not raw.strip():
            return Line(number, _digest(b"blank"))
        try:
            request, custom_id = self._request(number, raw)
        except BadLine as error:
            return Line(number, _digest(b"bad", raw), error=str(error))
        digest = _digest(b"request", request, (custom_id or "").encode())
        return Line(number, digest, request, custom_id)

    def _request(self, number: int, raw: bytes) -> tuple[bytes, str | None]:
        text = _decoded(raw)
        if self.format == "text":
            prompt = text if self.template is None else self._filled({"line": text})
            return self._with_id(number, self._prompt_body(prompt)), None
        return self._of_value(number, raw, _parsed(raw))

    def _of_value(self, number: int, raw: bytes, value: Any) -> tuple[bytes, str | None]:
        if isinstance(value, str) and self.template is None:
            return self._with_id(number, self._prompt_body(value)), None
        if not isinstance(value, dict):
            raise BadLine(f"the line is no JSON object but {_kind(value)}")
        fields = cast(dict[str, Any], value)
        custom_id = _custom_id(fields)
        if self.template is not None:
            request = self._with_id(number, self._prompt_body(self._filled(fields)))
        elif "body" in fields:
            request = self._full(number, raw, fields["body"])
        elif "messages" in fields:
            request = self._with_id(number, self._messages_body(raw))
        elif "prompt" in fields:
            request = self._with_id(number, self._prompt_body(_prompt(fields["prompt"])))
        else:
            names = ", ".join(fields) or "none"
            raise BadLine(
                f'no request in its fields ({names}); give it "messages", "prompt" or "body", or '
                'say how to make a prompt of them: --prompt "{field}"'
            )
        return request, custom_id

    def _filled(self, fields: Mapping[str, Any]) -> str:
        assert self.template is not None
        try:
            return self.template.format_map(fields)
        except KeyError as error:
            raise BadLine(f"the field {error.args[0]!r} of --prompt is missing") from error
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise BadLine(f"--prompt cannot be filled: {error}") from error

    def _prompt_body(self, prompt: str) -> bytes:
        messages = [{"role": "user", "content": prompt}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return msgspec.json.encode({**self._defaults(), "messages": messages})

    def _messages_body(self, raw: bytes) -> bytes:
        fields = _fields.decode(raw)
        fields.pop("custom_id", None)
        if self.system is not None and _lacks_system(fields["messages"]):
            system = msgspec.json.encode({"role": "system", "content": self.system})
            fields["messages"] = Raw(_encoded([Raw(system), *_items.decode(fields["messages"])]))
        return _encoded({**self._defaults(), **fields})

    def _full(self, number: int, raw: bytes, body: Any) -> bytes:
        fields = _fields.decode(raw)
        if self.model is not None and isinstance(body, dict) and "model" not in body:
            model = Raw(msgspec.json.encode(self.model))
            fields["body"] = Raw(_encoded({"model": model, **_fields.decode(fields["body"])}))
        fields["custom_id"] = Raw(msgspec.json.encode(self.custom_id(number)))
        method, url = Raw(b'"POST"'), Raw(b'"/v1/chat/completions"')
        return _encoded({"custom_id": None, "method": method, "url": url, **fields})

    def _with_id(self, number: int, body: bytes) -> bytes:
        return _encoded(
            {
                "custom_id": self.custom_id(number),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": Raw(body),
            }
        )

    def _defaults(self) -> dict[str, Any]:
        model = {} if self.model is None else {"model": Raw(msgspec.json.encode(self.model))}
        return {**model, **{name: Raw(value) for name, value in self.parameters.items()}}

    def custom_id(self, number: int) -> str:
        """The `custom_id` under which the line's request is sent."""
        return f"{self.run_id}-{number}"

    def number(self, custom_id: str) -> int | None:
        """The number of the line whose request has this id; None: it is not of this run."""
        run_id, _, number = custom_id.rpartition("-")
        return int(number) if run_id == self.run_id and number.isdecimal() else None


def guess_format(path: Path | None, first_line: bytes) -> Format:
    """What INPUT is, by its name, else by its first line that is not blank."""
    if path is not None and path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    return "jsonl" if first_line.lstrip().startswith(b"{") else "text"


def check_template(template: str) -> None:
    """Raise `UsageError` if this is no template of named fields."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UsageError(
            f"--prompt {template!r} is no template: {error}; write braces that are meant as such "
            "twice: {{ and }}"
        ) from error
    if any(not name or name[0].isdecimal() for name in names):
        raise UsageError(f'--prompt {template!r} has a field without a name; write "{{question}}"')


def parse_parameters(options: list[str]) -> dict[str, bytes]:
    """The fields that `--param name=value` options give; a value that is no JSON is a string.

    Raises:
        UsageError: for one without a name or a value.
    """
    parameters: dict[str, bytes] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise UsageError(f"--param {option!r} has no name or no value; write --param seed=7")
        parameters[name] = _json_text(value)
    return parameters


def _json_text(value: str) -> bytes:
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.json.encode(value)
    return value.encode()


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise BadLine(f"broken UTF-8: byte 0x{byte:02x} at position {error.start}") from error


def _parsed(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BadLine(f"broken JSON: {error}") from error


def _custom_id(fields: Mapping[str, Any]) -> str | None:
    custom_id = fields.get("custom_id")
    if custom_id is None or isinstance(custom_id, str):
        return custom_id
    raise BadLine(f"its custom_id is no string but {_kind(custom_id)}")


def _prompt(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise BadLine(f"its prompt is no string but {_kind(value)}")


class _Message(msgspec.Struct):
    role: Any = None


_messages = msgspec.json.Decoder(list[_Message])


def _lacks_system(messages: Raw) -> bool:
    try:
        found = _messages.decode(messages)
    except msgspec.ValidationError:
        return False  # they are no messages, as the provider's check will say
    return not any(message.role in _SYSTEM_ROLES for message in found)


_KINDS = ((dict, "an object"), (list, "an array"), (str, "a string"), (bool, "a boolean"))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "a number")
