"""Amounts of memory and time: what people write, what is printed, and what a batch system is asked for."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.errors import InvalidValue
from batchlib.quantity import Duration, Memory, Quantity

KINDS = (Memory, Duration)

memories = st.builds(
    lambda number, unit: Memory(f"{number} {unit}"),
    st.integers(0, 10**15) | st.decimals(0, 10**6, places=6, allow_nan=False),
    st.sampled_from(sorted(Memory.units)),
)
durations = st.builds(
    lambda number, unit: Duration(f"{number} {unit}"),
    st.integers(0, 10**12) | st.decimals(0, 10**6, places=6, allow_nan=False),
    st.sampled_from(sorted(Duration.units)),
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 GB", 2 * 10**9),
        ("2GB", 2 * 10**9),
        (" 2 gb ", 2 * 10**9),
        ("2 GiB", 2 * 2**30),
        ("4G", 4 * 2**30),
        ("4g", 4 * 2**30),
        ("512 MiB", 512 * 2**20),
        ("1.5 kB", 1500),
        (".5 KiB", 512),
        ("1 PB", 10**15),
        ("1 PiB", 2**50),
        ("0 B", 0),
        ("7 B", 7),
        ("0.3 B", 1),
    ],
)
def test_memory_as_people_write_it(text: str, number: int) -> None:
    assert Memory(text).bytes == number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90 s", 90),
        ("90sec", 90),
        ("8 hours", 8 * 3600),
        ("1 hour", 3600),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("1.5 h", 5400),
        ("72 hours", 72 * 3600),
        ("2 days", 172800),
        ("1w", 604800),
        ("01:30:00", 5400),
        ("1:2:3", 3723),
        ("100:00:00", 360000),
        ("1-12:00:00", 129600),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("PT1H", 3600),
        ("P1DT1H30M", 91800),
        ("PT0.5S", 0.5),
        ("P2W", 1209600),
        ("250 ms", 0.25),
        ("3 µs", 3e-6),
        ("0 s", 0),
    ],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert Duration(text).seconds == seconds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    ["", " ", "12", "1.5", "GB", "h", "-1 h", "-1 GB", "1e3 s", "one hour", "1 parsec", "1 h 2", "1,5 h", "1 h, 2 m",
     "P", "PT", "P1H", "1--2:00:00", "0x10 B", "1 GB\x00", "nan s", "inf B", "1 h -30 m"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_an_example(kind: type[Quantity], text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        kind(text)
    assert kind.example in str(caught.value) or "no known unit" in str(caught.value)


@pytest.mark.parametrize("value", [12, 1.5, None, True, b"1 GB", ["1 GB"]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_number_is_refused(kind: type[Quantity], value: object) -> None:
    with pytest.raises(InvalidValue, match="write it with its unit"):
        kind(value)  # type: ignore[arg-type]


def test_hours_and_minutes_alone_are_ambiguous() -> None:
    with pytest.raises(InvalidValue, match="'1:30:00'"):
        Duration("1:30")


def test_a_number_of_absurd_length_is_refused_as_any_other_nonsense() -> None:
    for kind in KINDS:
        for text in ("9" * 5000 + " B", "9" * 5000 + " s", "9" * 5000 + ":00:00", f"P{'9' * 5000}D", "1-" + "9" * 5000):
            with pytest.raises(InvalidValue):
                kind(text)


@given(st.text() | st.from_regex(r"\A[0-9.:\-PTHMSD kKmMgGiIbBhsd]{0,20}\Z"))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for kind in KINDS:
        try:
            made = kind(text)
        except InvalidValue:
            continue
        assert made >= type(made).of(0, "B" if kind is Memory else "s")


@given(memories | durations)
def test_printing_and_reading_again_gives_the_same(quantity: Quantity) -> None:
    kind = type(quantity)
    assert kind(str(quantity)) == quantity
    assert hash(kind(str(quantity))) == hash(quantity)
    assert eval(repr(quantity), {"Memory": Memory, "Duration": Duration}) == quantity
    assert pickle.loads(pickle.dumps(quantity)) == quantity
    assert kind(quantity) == quantity


@given(
    st.floats(0, 1e12, allow_nan=False) | st.fractions(0, 10**12) | st.integers(0, 10**15),
    st.sampled_from(["b", "kib", "gb"]),
)
def test_calculated_amounts_of_memory_survive_printing(amount: float | Fraction, unit: str) -> None:
    made = Memory.of(amount, unit)
    assert Memory(str(made)) == made
    assert Memory(str(made * Fraction(1, 3))) == made * Fraction(1, 3)


@given(st.floats(0, 1e12, allow_nan=False) | st.fractions(0, 10**12), st.sampled_from(["ns", "s", "h"]))
def test_calculated_durations_survive_printing(amount: float | Fraction, unit: str) -> None:
    made = Duration.of(amount, unit)
    assert Duration(str(made)) == made


@given(memories, memories)
def test_memory_compares_as_its_bytes_do(one: Memory, other: Memory) -> None:
    assert (one < other) is (one.bytes < other.bytes)
    assert (one == other) is (one.bytes == other.bytes)
    assert (one >= other) is (one.bytes >= other.bytes)
    assert (one + other).bytes == one.bytes + other.bytes


@given(durations, durations)
def test_durations_compare_as_their_nanoseconds_do(one: Duration, other: Duration) -> None:
    assert (one < other) is (one.ceil("ns") < other.ceil("ns"))
    assert (one == other) is (one.ceil("ns") == other.ceil("ns"))
    assert (one + other).ceil("ns") == one.ceil("ns") + other.ceil("ns")


@given(memories | durations, st.data())
def test_what_a_batch_system_is_asked_for_is_never_too_little_and_never_zero(
    quantity: Quantity, data: st.DataObject
) -> None:
    unit = data.draw(st.sampled_from(sorted(type(quantity).units)))
    asked = quantity.ceil(unit)
    assert type(quantity).of(asked, unit) >= quantity
    assert bool(asked) is bool(quantity)
    assert asked == 0 or type(quantity).of(asked - 1, unit) < quantity


@given(st.fractions(0, 10**6).filter(bool), st.sampled_from(KINDS))
def test_the_smallest_positive_amount_is_not_nothing(amount: Fraction, kind: type[Quantity]) -> None:
    unit = "b" if kind is Memory else "ns"
    assert kind.of(amount / 10**9, unit)
    assert kind.of(amount / 10**9, unit).ceil(unit) >= 1


def test_thirty_seconds_are_a_minute_for_a_system_that_counts_minutes() -> None:
    assert Duration("30 s").ceil("min") == 1
    assert Duration("61 s").ceil("min") == 2
    assert Duration("60 s").ceil("min") == 1


def test_a_share_of_memory_is_not_rounded_up_by_a_binary_fraction() -> None:
    assert (Memory("10 GiB") * Fraction(1, 10)).ceil("MiB") == 1024


def test_only_the_same_kind_compares() -> None:
    assert Memory("1 B") != Duration("1 s")
    with pytest.raises(TypeError):
        Memory("1 B") < Duration("1 s")  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError):
        Memory("1 B") < 2  # type: ignore[operator]  # noqa: B015
    with pytest.raises(InvalidValue):
        Memory(Duration("1 s"))


def test_arithmetic() -> None:
    assert Memory("1 GB") * 4 == 4 * Memory("1 GB") == Memory("4 GB")
    assert Memory("4 GB") / Memory("1 GB") == 4.0
    assert Duration("1 h").amount("min") == 60.0
    assert Memory("1 GB") + Memory("24 MB") == Memory("1024 MB")
    assert not Memory("0 B")
    assert math.isclose(Duration("1 h") / Duration("3 h"), 1 / 3)


@pytest.mark.parametrize("amount", [-1, -0.5, math.nan, math.inf, -math.inf])
def test_there_is_no_negative_or_endless_amount(amount: float) -> None:
    for kind, unit in ((Memory, "b"), (Duration, "s")):
        with pytest.raises(InvalidValue):
            kind.of(amount, unit)


def test_quantities_can_not_be_changed() -> None:
    amount = Memory("1 GB")
    with pytest.raises(AttributeError):
        amount._amount = Fraction(3)
    assert {Memory("1 GB"), Memory("1000 MB")} == {Memory("1 GB")}


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (Memory("2 GB"), "2 GB"),
        (Memory("2048 MiB"), "2 GiB"),
        (Memory("1023 B"), "1023 B"),
        (Memory("0 GB"), "0 B"),
        (Duration("8 hours"), "8 h"),
        (Duration("36 h"), "36 h"),
        (Duration("48 h"), "2 d"),
        (Duration("90 s"), "90 s"),
        (Duration("0.25 s"), "0.25 s"),
        (Duration("100 s"), "100 s"),
        (Duration("0 h"), "0 s"),
    ],
)
def test_how_they_print(quantity: Quantity, text: str) -> None:
    assert str(quantity) == text
    assert repr(quantity) == f"{type(quantity).__name__}({text!r})"
