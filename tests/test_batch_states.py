from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybatch._batch_states import (
    FINISHED,
    LEGAL,
    Entry,
    Event,
    IllegalTransition,
    Record,
    State,
    Verdict,
    remote_from_json,
    remote_to_json,
    replay,
    verdict,
)
from anybatch._exceptions import NotSent, OutcomeUnknown, ProviderError, Refused
from anybatch._models import LineError, RemoteBatch

REMOTE = RemoteBatch(
    "b-1", "failed", errors=(LineError("bad", "no", 3),), metadata={"anybatch": "q-1-0"}
)
DETAILS: dict[Event, dict[str, Any]] = {
    Event.UPLOADED: {"file_id": "f-1"},
    Event.CREATED: {"platform_id": "b-1"},
    Event.REFUSED: {"code": "no", "message": "refused"},
    Event.UNKNOWN: {"message": "reset"},
    Event.NOT_CREATED: {"code": None, "message": "busy"},
    Event.ENDED: {"remote": remote_to_json(REMOTE)},
}


def record(state: State = State.ACCEPTED) -> Record:
    return Record("q-1-0", "q-1-0", "q", "q-1-0", "/v1", 3, 100, "fake", 1.0, state)


def entry(event: Event, time: float = 2.0) -> Entry:
    return Entry(event, time, DETAILS.get(event, {}))


def test_a_good_life_ends_done_and_knows_its_ids() -> None:
    events = [
        Event.UPLOAD,
        Event.UPLOADED,
        Event.CREATE,
        Event.CREATED,
        Event.ENDED,
        Event.COLLECTED,
        Event.PROCESSED,
    ]
    end = replay(record(), map(entry, events))
    assert (end.state, end.length) == (State.DONE, 7)
    assert (end.file_id, end.platform_id, end.bought_at) == ("f-1", "b-1", 2.0)
    assert end.remote == REMOTE


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_what_the_table_does_not_know_cannot_be_written(state: State, event: Event) -> None:
    if (state, event) in LEGAL:
        assert record(state).after(entry(event)).state is LEGAL[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"{event.value} of a batch that is"):
            record(state).after(entry(event))


def test_only_the_finished_states_have_nothing_after_them() -> None:
    assert {state for state, _ in LEGAL} == set(State) - FINISHED


def test_a_create_intent_is_never_followed_by_another_without_its_outcome() -> None:
    after = {event for state, event in LEGAL if state is State.CREATING}
    assert after == {Event.CREATED, Event.NOT_CREATED, Event.REFUSED, Event.UNKNOWN}


def test_a_held_batch_leaves_that_state_by_a_decision_alone() -> None:
    assert {event for state, event in LEGAL if state is State.HELD} == {Event.CREATED, Event.AGAIN}


def test_another_attempt_has_another_id_and_no_file() -> None:
    events = [Event.UPLOAD, Event.UPLOADED, Event.CREATE, Event.UNKNOWN, Event.AGAIN]
    again = replay(record(), map(entry, events))
    assert (again.state, again.attempt_id, again.file_id) == (State.ACCEPTED, "q-1-0-r2", None)


@given(st.lists(st.sampled_from(list(Event)), max_size=20))
def test_a_record_is_what_its_story_makes_of_it(events: list[Event]) -> None:
    now, story = record(), list[Entry]()
    for event in events:
        if (now.state, event) in LEGAL:
            story.append(entry(event))
            now = now.after(story[-1])
    assert replay(record(), story) == now
    assert now.length == len(story)


def test_a_providers_view_survives_json() -> None:
    assert remote_from_json(remote_to_json(REMOTE)) == REMOTE


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotSent("no route"), Verdict.AGAIN),
        (Refused("slow down", status=429), Verdict.AGAIN),
        (Refused("early", status=425, transient=True), Verdict.AGAIN),
        (Refused("key", status=401), Verdict.ACCOUNT),
        (Refused("pay", status=402), Verdict.ACCOUNT),
        (Refused("forbidden", status=403), Verdict.ACCOUNT),
        (Refused("bad", status=400), Verdict.REFUSED),
        (OutcomeUnknown("reset"), Verdict.UNKNOWN),
        (OutcomeUnknown("bad gateway", status=502, transient=True), Verdict.UNKNOWN),
        (ProviderError("?", status=503, transient=True), Verdict.UNKNOWN),
    ],
)
def test_only_what_was_surely_not_done_may_be_done_again(
    error: ProviderError, expected: Verdict
) -> None:
    assert verdict(error) is expected
