"""Response bodies that say what the request said. Pure: the same body gives the same answer."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ._json import is_list, is_object
from .errors import invalid, missing

Body = Mapping[str, Any]

# An answer that is the same each time cannot tell the time: this is the year 2024.
CREATED = 1_704_067_200

_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def body_digest(body: object) -> str:
    """Return the digest under which statistics count a body: key order does not matter.

    Args:
        body: a JSON value.
    """
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:24]


def chat_completion(body: Body) -> dict[str, Any]:
    """Return a chat completion whose text is that of the last user message."""
    messages = body.get("messages")
    if not is_list(messages):
        raise missing("messages")
    if not messages:
        raise invalid("messages", "Invalid 'messages': empty array.", code="empty_array")
    text = last_user_text(messages)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text,
        "refusal": None,
        "annotations": [],
    }
    choice: dict[str, Any] = {"message": message, "logprobs": None, "finish_reason": "stop"}
    asked, answered = tokens_in(messages), count_tokens(text)
    return {
        "id": f"chatcmpl-{body_digest(body)}",
        "object": "chat.completion",
        "created": CREATED,
        "model": body["model"],
        "choices": [{"index": index, **choice} for index in range(body.get("n") or 1)],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "system_fingerprint": "fp_echo",
    }


def response(body: Body) -> dict[str, Any]:
    """Return a response (`/v1/responses`) whose text is that of the last user message."""
    asked = body.get("input")
    if asked is None:
        raise missing("input")
    text = asked if isinstance(asked, str) else last_user_text(asked)
    return response_of(body, text, tokens_in(asked), count_tokens(text))


def response_of(body: Body, text: str, asked: int, answered: int) -> dict[str, Any]:
    """Return a response (`/v1/responses`) with this text and these numbers of tokens."""
    digest = body_digest(body)
    content: dict[str, Any] = {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": [],
    }
    message: dict[str, Any] = {
        "id": f"msg_{digest}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [content],
    }
    return {
        "id": f"resp_{digest}",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "model": body["model"],
        "output": [message],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": body.get("temperature", 1.0),
        "tool_choice": "auto",
        "tools": [],
        "top_p": body.get("top_p", 1.0),
        "metadata": body.get("metadata") or {},
        "usage": {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + answered,
        },
    }


def embeddings(body: Body) -> dict[str, Any]:
    """Return a vector for each input, as numbers or as base64."""
    inputs = embedding_inputs(body)
    dimensions = body.get("dimensions") or 8
    if not isinstance(dimensions, int) or dimensions < 1:
        raise invalid("dimensions", f"Invalid 'dimensions': {dimensions!r}.")
    vectors = [_vector(orjson.dumps(one), dimensions) for one in inputs]
    as_text = body.get("encoding_format") == "base64"
    tokens = tokens_in(inputs)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(v) if as_text else v}
            for index, v in enumerate(vectors)
        ],
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def embedding_inputs(body: Body) -> Sequence[Any]:
    """Return the inputs of an embeddings request as a list: texts, or lists of token numbers."""
    inputs = body.get("input")
    if inputs is None:
        raise missing("input")
    if isinstance(inputs, str):
        return [inputs]
    if not is_list(inputs) or not inputs:
        raise invalid("input", "Invalid 'input': a text or a list that is not empty is needed.")
    return [inputs] if isinstance(inputs[0], int) else inputs


def _vector(seed: bytes, dimensions: int) -> list[float]:
    noise = hashlib.shake_128(seed).digest(2 * dimensions)
    numbers = [n / 65_535 - 0.5 for n in struct.unpack(f"<{dimensions}H", noise)]
    length = sum(n * n for n in numbers) ** 0.5 or 1.0
    return [n / length for n in numbers]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def moderation(body: Body) -> dict[str, Any]:
    """Return one result for each input, none of them flagged."""
    inputs = body.get("input")
    if inputs is None:
        raise missing("input")
    texts: list[Any] = inputs if is_list(inputs) else [inputs]
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {category: ["text"] for category in _CATEGORIES},
    }
    digest = body_digest(body)
    return {"id": f"modr-{digest}", "model": body["model"], "results": [result for _ in texts]}


def last_user_text(items: object) -> str:
    """Return the text of the last message by the user; `""` if there is none."""
    messages = items if is_list(items) else []
    for message in reversed(messages):
        if is_object(message) and message.get("role") == "user":
            return content_text(message.get("content"))
    return ""


def content_text(content: object) -> str:
    """Return the text of a message's content: a text, or parts of which some have one."""
    if isinstance(content, str):
        return content
    parts = content if is_list(content) else []
    texts = [part.get("text") for part in parts if is_object(part)]
    return "".join(text for text in texts if isinstance(text, str))


def count_tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return -(-len(text) // 4)


def tokens_in(value: object) -> int:
    """Return about how many tokens all the texts in a JSON value have; numbers are tokens."""
    if isinstance(value, str):
        return count_tokens(value)
    if is_object(value):
        return sum(tokens_in(part) for part in value.values())
    if is_list(value):
        return sum(tokens_in(part) for part in value)
    return 1 if isinstance(value, int) and not isinstance(value, bool) else 0
