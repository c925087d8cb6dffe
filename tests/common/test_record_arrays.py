"""Records in arrays are the records that were put in, in a fraction of the memory."""

import gc
import math
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from demotune.common.record_arrays import RecordArrays
from demotune.records import Pair, Response, ScoredDemonstration, ScoredPair, Triplet
from demotune.runs.rows import RewardRow


def ids(rng: random.Random, most: int = 40) -> tuple[int, ...]:
    return tuple(rng.choices(range(50_000), k=rng.randint(0, most)))


def response(rng: random.Random) -> Response:
    drawn = ids(rng)
    logps = tuple(-rng.random() for _ in drawn) if rng.random() < 0.5 else None
    return Response(drawn, rng.random() < 0.5, logps)


def pair(rng: random.Random) -> Pair:
    thoughts = rng.randint(0, 3), rng.randint(0, 3)
    return Pair(f"{rng.getrandbits(64):016x}", ids(rng), response(rng), response(rng), *thoughts)


def some(kind: type) -> list[object]:
    rng = random.Random(0)
    made: dict[type, Callable[[], object]] = {
        Response: lambda: response(rng),
        Pair: lambda: pair(rng),
        ScoredPair: lambda: ScoredPair(pair(rng), -rng.random(), -math.inf),
        Triplet: lambda: Triplet(pair(rng), response(rng)),
        RewardRow: lambda: RewardRow("ключ", rng.random() < 0.5, True, rng.random(), rng.random(), 3, 2**40),
    }
    return [made[kind]() for _ in range(50)]


@pytest.mark.parametrize("kind", [Response, Pair, ScoredPair, Triplet, RewardRow])
def test_they_are_the_records_that_were_put_in(kind: type) -> None:
    records = some(kind)
    kept = RecordArrays(kind, iter(records))
    assert len(kept) == 50
    assert list(kept) == records
    assert [one.logps for one in kept if isinstance(one, Response)] == [
        one.logps for one in records if isinstance(one, Response)
    ]
    assert (kept[0], kept[-1], kept[49]) == (records[0], records[-1], records[49])
    assert kept[10:14] == records[10:14]
    assert kept[::-1] == records[::-1]
    assert {type(kept[place]) for place in range(50)} == {kind}
    with pytest.raises(IndexError):
        kept[50]


def test_tuples_alone_can_be_kept() -> None:
    prompts = [(1, 2), (), (3,)]
    assert list(RecordArrays(tuple[int, ...], prompts)) == prompts


def test_what_no_array_holds_is_refused() -> None:
    @dataclass(frozen=True)
    class Named:
        names: tuple[str, ...]

    with pytest.raises(TypeError, match=r"tuple\[str, \.\.\.\] is kept in no array"):
        RecordArrays(Named)
    assert len(RecordArrays(ScoredDemonstration)) == 0


def test_they_take_a_fraction_of_the_memory() -> None:
    """A pair of 120 token ids: 480 bytes of ids and some of borders, where tuples of Python's numbers take 4,000."""
    rng = random.Random(0)

    def pairs() -> list[Pair]:
        long = [tuple(rng.choices(range(1000, 50_000), k=40)) for _ in range(3)]
        return [Pair("0" * 16, long[0], Response(long[1], True), Response(long[2], True))]

    def taken(keep: Callable[[], object]) -> int:
        gc.collect()
        tracemalloc.start()
        kept = keep()
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept
        return size

    arrays = taken(lambda: RecordArrays(Pair, (one for _ in range(2000) for one in pairs())))
    objects = taken(lambda: [one for _ in range(2000) for one in pairs()])
    assert arrays / 2000 < 700
    assert objects > 5 * arrays
