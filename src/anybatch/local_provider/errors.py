"""What goes wrong on purpose: answers in OpenAI's form, and connections that end without one."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An HTTP answer that refuses: raised by an endpoint or an engine, sent in OpenAI's form.

    Args:
        status: the HTTP status, or the `status_code` of a batch's row.
        message: a sentence for a person.
        code: a word for a program, such as `missing_required_parameter`.
        param: the parameter that is wrong.
        type: OpenAI's class of errors.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type: str = "invalid_request_error",
    ) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.type = type

    def body(self) -> dict[str, Any]:
        """Return the JSON body that OpenAI sends with such a status."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


class ConnectionDropped(Exception):
    """The fault plan ends this connection here, without an answer or in the middle of one.

    A `LocalProvider` that listens on a port turns it into a closed connection. Where the ASGI
    application is called without a server, it comes out of the call.
    """


class EngineUnavailable(RuntimeError):
    """The engine that was asked for by name cannot run here; the message says what to install."""


def missing(param: str) -> ApiError:
    """Return OpenAI's refusal of a body in which `param` is missing."""
    return ApiError(
        400,
        f"Missing required parameter: '{param}'.",
        code="missing_required_parameter",
        param=param,
    )


def invalid(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    """Return OpenAI's refusal of a body in which `param` has a value it cannot have."""
    return ApiError(400, message, code=code, param=param)
