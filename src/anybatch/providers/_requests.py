"""The requests of OpenAI's Batch API: completing a partial one, checking a full one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

from .._encoding import plain, raw_fields
from .._exceptions import RequestRejected
from .._models import RawRequest

CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
EMBEDDINGS: Final = "/v1/embeddings"
MODERATIONS: Final = "/v1/moderations"
ENDPOINTS: Final = (CHAT, RESPONSES, EMBEDDINGS, MODERATIONS)

# What may stand in a Responses body instead of an input.
_INSTEAD_OF_INPUT: Final = ("prompt", "conversation", "previous_response_id")


def complete_request(endpoint: str, partial: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A full request without an id, from a partial one and the request kwargs.

    Raises:
        RequestRejected: the partial request has no form this endpoint knows, or no model.
    """
    body = _body(endpoint, partial, kwargs)
    if "model" not in body and endpoint != MODERATIONS:
        _no_model(endpoint)
    return {"method": "POST", "url": endpoint, "body": body}


def _body(endpoint: str, partial: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(partial, RawRequest):
        return _raw_body(endpoint, partial.json, kwargs)
    if isinstance(partial, dict):
        return {**kwargs, **_fields(endpoint, cast("dict[str, Any]", partial))}
    if isinstance(partial, str):
        return {**kwargs, **_from_text(endpoint, partial)}
    if isinstance(partial, (list, tuple)):
        return {**kwargs, _key(endpoint): cast("list[Any]", partial)}
    raise RequestRejected(
        f"a partial request that is a {type(partial).__name__}: {show(partial)}; {_forms(endpoint)}"
    )


def _raw_body(endpoint: str, text: bytes, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A body whose parts that came as text keep their spelling."""
    value = plain(RawRequest(text))
    if isinstance(value, dict):
        return {**kwargs, **_fields(endpoint, raw_fields(text))}
    if isinstance(value, list):
        return {**kwargs, _key(endpoint): RawRequest(text)}
    return _body(endpoint, value, kwargs)


def _key(endpoint: str) -> str:
    return "messages" if endpoint == CHAT else "input"


def _from_text(endpoint: str, text: str) -> dict[str, Any]:
    if endpoint == CHAT:
        return {"messages": [{"role": "user", "content": text}]}
    return {"input": text}


def _fields(endpoint: str, partial: Mapping[str, Any]) -> Mapping[str, Any]:
    if _key(endpoint) in partial:
        return partial
    if endpoint == RESPONSES and any(key in partial for key in _INSTEAD_OF_INPUT):
        return partial
    if "body" in partial:
        raise RequestRejected(
            f"a full request where a partial one is expected: {show(partial)};"
            ' construct the dispatcher with requests_type="full"'
        )
    raise RequestRejected(
        f"a partial request without {_key(endpoint)!r}: {show(partial)}; {_forms(endpoint)}"
    )


def _forms(endpoint: str) -> str:
    if endpoint == CHAT:
        return 'give a text, a list of messages, or a dict with "messages"'
    return 'give a text, a list, or a dict with "input"'


def check_request(request: Mapping[str, Any], endpoint: str) -> None:
    """Refuse a full request that the provider would refuse.

    Args:
        endpoint: where it goes if it has no `url` of its own.

    Raises:
        RequestRejected: it names the offending value and the remedy.
    """
    _check_envelope(request)
    url = request.get("url", endpoint)
    if url not in ENDPOINTS:
        raise RequestRejected(f"unknown url {show(url)}; use one of {', '.join(ENDPOINTS)}")
    body = plain(request.get("body"))
    if not isinstance(body, dict):
        raise RequestRejected(f"a request without a body that is an object: {show(body)}; add it")
    _check_body(url, cast("dict[str, Any]", body))


def _check_envelope(request: Mapping[str, Any]) -> None:
    if request.get("method", "POST") != "POST":
        raise RequestRejected(f'method {show(request["method"])}; batches take "POST" alone')
    custom_id = request.get("custom_id", "-")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 512:
        raise RequestRejected(
            f"custom_id {show(custom_id)}; use a string of 1 to 512 characters, or leave it out"
        )


def _check_body(url: str, body: Mapping[str, Any]) -> None:
    model = body.get("model")
    if not (isinstance(model, str) and model):
        if model is not None:
            raise RequestRejected(f"model {show(model)}; name the model with a string")
        if url != MODERATIONS:
            _no_model(url)
    if url == CHAT:
        _check_messages(body.get("messages"))
    elif url != RESPONSES or not any(body.get(key) for key in _INSTEAD_OF_INPUT):
        _check_input(body.get("input"))


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise RequestRejected(
            f"messages {show(messages)}; give a list of at least one message,"
            ' such as {"role": "user", "content": "…"}'
        )
    for message in cast("list[object]", messages):
        if not isinstance(message, dict):
            raise RequestRejected(f"a message that is no object: {show(message)}; {_MESSAGE}")
        _check_message(cast("dict[str, Any]", message))


_MESSAGE: Final = 'write {"role": "user", "content": "…"}'


def _check_message(message: Mapping[str, Any]) -> None:
    role = message.get("role")
    if not (isinstance(role, str) and role):
        raise RequestRejected(f"a message with the role {show(role)}; {_MESSAGE}")
    content = message.get("content")
    if content is not None and not isinstance(content, (str, list)):
        raise RequestRejected(
            f"a message with the content {show(content)}; give a text or a list of parts"
        )


def _check_input(value: Any) -> None:
    if not isinstance(value, (str, list)) or not value:
        raise RequestRejected(
            f"input {show(cast('object', value))}; give a text or a list that is not empty"
        )


def _no_model(endpoint: str) -> NoReturn:
    raise RequestRejected(
        f'a request for {endpoint} without a model; give request_kwargs={{"model": "…"}}'
        " or put it into the body"
    )


def show(value: Any) -> str:
    """The beginning of a value, for an error."""
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "…"
