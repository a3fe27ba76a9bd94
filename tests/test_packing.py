"""Packing: every request in exactly one file, files within their limits, the order kept."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybatch._models import Head, Limits
from anybatch._packing import as_ranges, most_room, pack, part_id

GROUPS = [("/v1/chat/completions", "a"), ("/v1/chat/completions", "b"), ("/v1/embeddings", "a")]

heads_of = st.lists(
    st.tuples(
        st.sampled_from("uvwxyz"), st.sampled_from(GROUPS), st.integers(1, 40), st.integers(1, 5)
    ),
    max_size=60,
).map(lambda rows: [Head(number, *row) for number, row in enumerate(rows)])
distinct_heads = heads_of.map(lambda heads: [h._replace(custom_id=str(h.number)) for h in heads])
limits_of = st.builds(
    Limits,
    requests=st.integers(1, 8),
    size=st.integers(1, 100),
    inputs=st.none() | st.integers(1, 10),
)


@given(heads_of, limits_of)
def test_every_request_is_in_exactly_one_file(heads: list[Head], limits: Limits) -> None:
    numbers = [number for p in pack(heads, limits) for number in p.numbers]
    assert sorted(numbers) == [head.number for head in heads]


@given(heads_of, limits_of)
def test_a_file_has_one_group_and_each_id_once(heads: list[Head], limits: Limits) -> None:
    for p in pack(heads, limits):
        members = [heads[number] for number in p.numbers]
        assert {head.group for head in members} == {p.group}
        ids = [head.custom_id for head in members]
        assert len(set(ids)) == len(ids)
        assert list(p.custom_ids) == ids


@given(heads_of, limits_of)
def test_no_file_exceeds_a_limit_unless_one_request_does(heads: list[Head], limits: Limits) -> None:
    for p in pack(heads, limits):
        members = [heads[number] for number in p.numbers]
        assert (p.size, p.inputs) == (sum(h.size for h in members), sum(h.inputs for h in members))
        assert len(members) <= limits.requests
        if len(members) > 1:
            assert p.size <= limits.size
            assert limits.inputs is None or p.inputs <= limits.inputs


@given(heads_of, limits_of)
def test_the_order_is_kept_in_files_and_among_them(heads: list[Head], limits: Limits) -> None:
    packs = pack(heads, limits)
    assert all(p.numbers == sorted(p.numbers) for p in packs)
    firsts = [p.numbers[0] for p in packs]
    assert firsts == sorted(firsts)


@given(distinct_heads, limits_of)
def test_files_of_a_group_hold_neighbours(heads: list[Head], limits: Limits) -> None:
    packs = pack(heads, limits)
    for group in GROUPS:
        numbers = [number for p in packs if p.group == group for number in p.numbers]
        assert numbers == [head.number for head in heads if head.group == group]


@given(distinct_heads, limits_of)
def test_a_file_ends_only_where_the_next_request_has_no_room(
    heads: list[Head], limits: Limits
) -> None:
    packs = pack(heads, limits)
    for group in GROUPS:
        own = [p for p in packs if p.group == group]
        for full, following in pairwise(own):
            assert not full.has_room(heads[following.numbers[0]], limits)


def test_a_repeated_id_goes_into_the_groups_next_file() -> None:
    heads = [Head(n, custom_id, GROUPS[0], 1) for n, custom_id in enumerate("xyxzyx")]
    assert [p.numbers for p in pack(heads, Limits())] == [[0, 1, 3], [2, 4], [5]]


@given(st.sets(st.integers(0, 60)))
def test_ranges_tell_the_numbers_and_no_more_than_needed(numbers: set[int]) -> None:
    ranges = as_ranges(sorted(numbers))
    assert [n for start, stop in ranges for n in range(start, stop)] == sorted(numbers)
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_the_first_part_has_the_intervals_id() -> None:
    assert [part_id("i", n) for n in range(3)] == ["i", "i-2", "i-3"]


@pytest.mark.parametrize(
    ("rooms", "chosen"),
    [
        ([], None),
        ([(0, 1), (-2, 0)], None),
        ([(1, 0), (3, 9), (2, 0)], 1),
        ([(None, 5), (1_000, 0)], 0),
        ([(2, 4), (2, 1), (2, 1)], 1),
        ([(None, 1), (None, 0)], 1),
        ([(0, 0), (1, 99)], 1),
    ],
)
def test_the_batch_goes_where_most_room_is(
    rooms: list[tuple[int | None, int]], chosen: int | None
) -> None:
    assert most_room(rooms) == chosen


@given(st.lists(st.tuples(st.none() | st.integers(-1, 5), st.integers(0, 3)), max_size=6))
def test_nobody_else_has_more_room(rooms: list[tuple[int | None, int]]) -> None:
    chosen = most_room(rooms)
    if chosen is None:
        assert all(room is not None and room <= 0 for room, _ in rooms)
    else:
        room, live = rooms[chosen]
        for position, (other, others) in enumerate(rooms):
            assert room is None or (other is not None and other <= room)
            if other == room:
                assert (live, chosen) <= (others, position)
