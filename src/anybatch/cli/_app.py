"""The commands of `anybatch`, their options and their help."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import anyio
from cyclopts import App, Parameter, validators
from cyclopts.exceptions import CycloptsError

from .._exceptions import AnybatchError
from . import _batches
from ._errors import UNANSWERED, USAGE, UsageError
from ._place import Place
from ._progress import Screen
from ._recipe import Format, Recipe, check_template, parse_parameters
from ._run import Settings, run_lines
from ._server import Server

app = App(
    name="anybatch",
    help_format="markdown",
    help="A stream of requests in, provider batches at half the price, every answer back.",
    version=lambda: version("anybatch"),
    result_action="return_value",
)

Backend = Annotated[Literal["asyncio", "trio"], Parameter(show=False)]
Above0 = Parameter(validator=validators.Number(gt=0))
Faults = Annotated[Path | None, Parameter(show=False)]


@app.command
def run(
    input: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    provider: Literal["local", "openai"] = "openai",
    engine: Literal["echo", "llama"] | None = None,
    base_url: str | None = None,
    model: str | None = None,
    prompt: str | None = None,
    format: Format | None = None,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    param: Annotated[list[str] | None, Parameter(negative=())] = None,
    queue_threshold: Annotated[int | None, Above0] = None,
    size_threshold: Annotated[int | None, Above0] = None,
    time_threshold: Annotated[float | None, Above0] = None,
    settle: Annotated[float | None, Above0] = None,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative=())] = False,
    faults: Faults = None,
    backend: Backend = "asyncio",
) -> int:
    """Send every line of INPUT as a request; append every answer to OUTPUT.

    Run the same command again after a stop of any kind, even a kill: lines that have their end are
    skipped, lines in a batch are waited for, and only the rest is sent. An input that has grown is
    taken from where it grew; one that was changed is refused. OUTPUT.anybatch/ is what makes this
    so: keep it as long as the run.

    Exit status: 0 all lines are answered; 1 some have an error or no end yet; 2 nothing was done;
    130 or 143 stopped by Ctrl-C or SIGTERM.

    Parameters
    ----------
    input
        JSON lines or plain text, a request a line; `-` is standard input. A line of JSON is a
        Batch API request, sent as it is; or `{"messages": ...}`, whose fields become the body; or
        `{"prompt": ...}`; or any object, with --prompt.
    output
        Where the rows go, in the form of OpenAI's output files with each line's number.
    provider
        `openai` needs OPENAI_API_KEY; `local` is started for this run, costs nothing and needs
        no key.
    engine
        What answers at the local provider: a language model (`llama`), or the question itself
        (`echo`). By default the model if one is installed.
    base_url
        Another server with OpenAI's Batch API, such as https://example.com/v1.
    model
        For requests that name none.
    prompt
        The prompt as a template of the object's fields, such as "{question}"; `{line}` is a line
        of plain text.
    format
        By default the name of INPUT (.jsonl, .ndjson, .txt) tells, else its first line.
    system
        A system message for requests that have none. Batch API requests stay as they are, here
        and with the next three options.
    temperature
        Of the body.
    max_tokens
        Of the body.
    param
        Another field of the body, as name=JSON: --param seed=7. May be repeated.
    queue_threshold
        Requests that make a batch.
    size_threshold
        Bytes that make a batch.
    time_threshold
        Seconds after which the oldest request makes a batch.
    settle
        Seconds after which a batch that the provider does not show counts as not created.
    verbose
        Say more of what goes on.
    """
    screen = _screen(engine, logging.INFO if verbose else logging.WARNING)
    place = Place.choose(provider, engine, base_url, faults)
    parameters = parse_parameters(
        [
            *([] if temperature is None else [f"temperature={temperature}"]),
            *([] if max_tokens is None else [f"max_tokens={max_tokens}"]),
            *(param or []),
        ]
    )
    if prompt is not None:
        check_template(prompt)
    model = model or place.default_model
    if model is None and (prompt is not None or format == "text"):
        raise UsageError("no model is named; add one, such as --model gpt-4o-mini")
    path = None if input == "-" else Path(input)
    if input != "-" and input.startswith("-"):
        raise UsageError(f"there is no option {input!r}; for a file of that name, write ./{input}")
    if path is not None and not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read: there is no such file, or it is not yours")
    settings = Settings(
        input=path,
        output=output,
        place=place,
        recipe=Recipe("", format or "jsonl", prompt, model, system, parameters),
        guess=format is None,
        queue_threshold=queue_threshold,
        size_threshold=size_threshold,
        time_threshold=time_threshold,
        settle=settle,
    )
    status: int = anyio.run(run_lines, settings, screen, backend=backend)
    return status


@app.command
def provider(
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    engine: Literal["echo", "llama"] | None = None,
    directory: Path | None = None,
    faults: Path | None = None,
    api_key: str | None = None,
    delay: float = 0.0,
    backend: Backend = "asyncio",
) -> int:
    """Serve OpenAI's Files and Batch API on this machine until stopped; print its base URL.

    Parameters
    ----------
    port
        0: one that is free.
    host
        The name or address it listens on.
    engine
        What answers: a language model (`llama`), or the question itself (`echo`). By default the
        model if one is installed.
    directory
        Where files and batches are kept, to go on after a stop; by default they go with it.
    faults
        A JSON file that says what shall go wrong: an `anybatch.local_provider.FaultPlan`.
    api_key
        What calls must bring as their bearer token; by default they need none.
    delay
        Seconds that a batch stays in each of its states.
    """
    _screen(engine, logging.WARNING)
    server = Server(
        engine=engine,
        host=host,
        port=port,
        directory=directory,
        faults=faults,
        api_key=api_key,
        delay=delay,
    )
    status: int = anyio.run(server.serve, backend=backend)
    return status


@app.command
def batches(*, store: Path | None = None) -> int:
    """Show the batches of a handler's store, the held ones too; nothing needs to be running.

    Parameters
    ----------
    store
        The directory: OUTPUT.anybatch of a run, or a handler's own (`anybatch paths` shows
        those). By default that of the handler named `default`.
    """
    return _batches.show(store)


@app.command
def resolve(
    batch_id: str,
    /,
    *,
    platform_id: str | None = None,
    not_created: Annotated[bool, Parameter(negative=())] = False,
    store: Path | None = None,
) -> int:
    """Decide a held batch: it was bought, and is this one; or it was not, and is created again.

    A batch is held when the reply to its create was lost, so that nobody knows whether it was
    bought. The provider's own list tells: the batch's metadata has its id. The decision is
    recorded; whoever enters the store next (the same `anybatch run` again) acts on it.

    Parameters
    ----------
    batch_id
        As `anybatch batches` shows it.
    platform_id
        The provider's id of it, such as batch_abc123.
    not_created
        The provider does not have it: create it again.
    store
        As with `anybatch batches`.
    """
    if (platform_id is None) is not not_created:
        raise UsageError("say one of --platform-id ID and --not-created")
    return _batches.decide(store, batch_id, platform_id)


@app.command
def paths() -> int:
    """Show where handlers keep their batches: one directory below the home for each name."""
    return _batches.show_paths()


def _screen(engine: str | None, level: int) -> Screen:
    screen = Screen()
    screen.take_logs(level)
    if engine == "echo":  # one that was not asked for is warned of by who chooses it
        screen.say("the engine echo answers: each answer is its question again")
    return screen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(app(tokens, exit_on_error=False) or 0)
    except CycloptsError:
        return USAGE  # it has said what is wrong
    except UsageError as error:
        Screen().say(f"anybatch: {error}")
        return USAGE
    except (AnybatchError, OSError) as error:
        Screen().say(f"anybatch: {error}; run the same command again to go on")
        return UNANSWERED
    except KeyboardInterrupt:
        return 130
