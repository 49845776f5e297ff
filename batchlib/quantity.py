"""Amounts of memory and time, always written with their unit.

>>> Memory("2 GB") < Memory("2 GiB")
True
>>> Duration("1h30m") == Duration("01:30:00")
True
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import total_ordering
from typing import ClassVar, TypeVar

from .errors import InvalidValue

Q = TypeVar("Q", bound="Quantity")

#: Characters of the longest text that is looked at.
_LONGEST = 100
#: Units that amounts of memory are printed in.
_PRINTED = ("PiB", "TiB", "GiB", "MiB", "KiB", "PB", "TB", "GB", "MB", "kB", "B")

_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-zµ]+)\s*")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)")
_DAYS_HOURS = re.compile(r"(\d+)-(\d+)(?::([0-5]?\d))?")
_ISO = re.compile(
    r"P(?:(\d+)W)?(?:(\d+(?:\.\d+)?)D)?(?:T(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?)?"
)


@total_ordering
class Quantity:
    """An amount of something with a unit: immutable, comparable with its own kind only.

    It is kept to its smallest unit (a byte, a nanosecond), so that what is printed reads as the same amount again.

    Parameters
    ----------
    value : str or Quantity of the same kind
        Text such as ``"1.5 GB"``. A bare number is refused, as nobody can tell what it means.

    Raises
    ------
    InvalidValue
        The text can't be read, has no unit, or is negative.
    """

    __slots__ = ("_amount",)

    #: Name of the kind and examples of how to write it, for messages.
    kind: ClassVar[str]
    example: ClassVar[str]
    #: Size of each unit; how it is capitalised does not matter.
    units: ClassVar[dict[str, Fraction]]
    #: The unit in whole numbers of which it is kept.
    smallest: ClassVar[str]

    _amount: Fraction

    def __init__(self, value: str | Quantity) -> None:
        if isinstance(value, type(self)):
            amount = value._amount
        elif isinstance(value, str):
            if len(value) > _LONGEST:
                raise InvalidValue(f"{value[:20]!r}... is no {self.kind}: write it such as {self.example}")
            amount = self._parse(value.strip())
        else:
            raise InvalidValue(f"{value!r} is no {self.kind}: write it with its unit, such as {self.example}")
        self._set(amount)

    @classmethod
    def of(cls: type[Q], amount: float | Fraction, unit: str) -> Q:
        """Make a quantity of `amount` units.

        Parameters
        ----------
        amount : number
            How many; not negative.
        unit : str
            One of the kind's units.
        """
        if amount < 0 or not math.isfinite(amount):
            raise InvalidValue(f"{amount} {unit} is no {cls.kind}")
        return cls._make(Fraction(amount) * cls.units[unit.lower()])

    def amount(self, unit: str) -> float:
        """Give the amount in another unit."""
        return float(self._amount / self.units[unit.lower()])

    def ceil(self, unit: str) -> int:
        """Give the amount in whole units, rounded up: what a batch system must be asked for."""
        return math.ceil(self._amount / self.units[unit.lower()])

    @classmethod
    def _parse(cls, text: str) -> Fraction:
        total, at = Fraction(0), 0
        while match := _NUMBER_AND_UNIT.match(text, at):
            size = cls.units.get(match[2].lower())
            if size is None:
                raise InvalidValue(f"{match[2]!r} in {text!r} is no known unit: write it such as {cls.example}")
            total += Fraction(match[1]) * size
            at = match.end()
        if at == 0 or at != len(text):
            raise InvalidValue(f"{text!r} is no {cls.kind}: write it with its unit, such as {cls.example}")
        return total

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} can't be changed")

    def __reduce__(self) -> tuple[type[Quantity], tuple[str]]:
        return type(self), (str(self),)

    def __eq__(self, other: object) -> bool:
        return self._amount == other._amount if type(other) is type(self) else NotImplemented

    def __lt__(self, other: Quantity) -> bool:
        return self._amount < other._amount if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._amount))

    def __bool__(self) -> bool:
        return bool(self._amount)

    def __add__(self: Q, other: Q) -> Q:
        return self._make(self._amount + other._amount) if type(other) is type(self) else NotImplemented

    def __mul__(self: Q, factor: float | Fraction) -> Q:
        return self._make(self._amount * Fraction(factor))

    __rmul__ = __mul__

    def __truediv__(self, other: Quantity) -> float:
        return float(self._amount / other._amount) if type(other) is type(self) else NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @classmethod
    def _make(cls: type[Q], amount: Fraction) -> Q:
        made = cls.__new__(cls)
        made._set(amount)
        return made

    def _set(self, amount: Fraction) -> None:
        """Round to the smallest unit, but nothing that is there to nothing."""
        unit = self.units[self.smallest]
        number = round(amount / unit) or math.ceil(amount / unit)
        object.__setattr__(self, "_amount", number * unit)


def whole_number(text: str | None) -> int | None:
    """Read a whole number as programs print it; None for anything else."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


class Memory(Quantity):
    """An amount of memory: ``B``, decimal ``kB`` to ``PB``, binary ``KiB`` to ``PiB``.

    Bare letters (``4G``) are binary, as every batch system reads them.
    """

    kind = "amount of memory"
    example = "'2 GB' or '512 MiB'"
    smallest = "b"
    units: ClassVar[dict[str, Fraction]] = {
        "b": Fraction(1),
        **{f"{letter}b": Fraction(1000**power) for power, letter in enumerate("kmgtp", 1)},
        **{f"{letter}ib": Fraction(1024**power) for power, letter in enumerate("kmgtp", 1)},
        **{letter: Fraction(1024**power) for power, letter in enumerate("kmgtp", 1)},
    }

    @property
    def bytes(self) -> int:
        """Whole bytes."""
        return int(self._amount)

    def __str__(self) -> str:
        sizes = {unit: int(self.units[unit.lower()]) for unit in _PRINTED}
        number, unit = min((self.bytes // size, unit) for unit, size in sizes.items() if self.bytes % size == 0)
        return f"{number} {unit}" if number else "0 B"


class Duration(Quantity):
    """A length of time: ``"90 s"``, ``"1h30m"``, ``"8 hours"``, ``"01:30:00"``, ``"1-12:00:00"``, ``"PT1H"``.

    ``HH:MM`` is refused: half of the batch systems read it as hours and minutes, the others as minutes and seconds.
    """

    kind = "duration"
    example = "'8 hours', '1h30m' or '01:30:00'"
    smallest = "ns"
    units: ClassVar[dict[str, Fraction]] = {
        **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Fraction(1)),
        **dict.fromkeys(("ms", "millisecond", "milliseconds"), Fraction(1, 1000)),
        **dict.fromkeys(("us", "µs", "microsecond", "microseconds"), Fraction(1, 10**6)),
        **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), Fraction(1, 10**9)),
        **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), Fraction(60)),
        **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), Fraction(3600)),
        **dict.fromkeys(("d", "day", "days"), Fraction(86400)),
        **dict.fromkeys(("w", "week", "weeks"), Fraction(604800)),
    }

    @classmethod
    def _parse(cls, text: str) -> Fraction:
        if match := _CLOCK.fullmatch(text):
            days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            return Fraction(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
        if match := _DAYS_HOURS.fullmatch(text):
            days, hours, minutes = (int(part or 0) for part in match.groups())
            return Fraction(((days * 24 + hours) * 60 + minutes) * 60)
        if text[:1] == "P" and (match := _ISO.fullmatch(text)) and any(match.groups()):
            weights = (604800, 86400, 3600, 60, 1)
            return sum((Fraction(part or 0) * w for part, w in zip(match.groups(), weights, strict=True)), Fraction(0))
        if re.fullmatch(r"\d+:\d+", text):
            raise InvalidValue(
                f"{text!r} may mean hours and minutes or minutes and seconds: write HH:MM:SS, such as '{text}:00'"
            )
        return super()._parse(text)

    @property
    def seconds(self) -> float:
        """Seconds."""
        return float(self._amount)

    def __str__(self) -> str:
        amount = self._amount
        for unit in ("w", "d", "h", "min"):
            if amount and amount % self.units[unit.lower()] == 0:
                return f"{amount // self.units[unit.lower()]} {unit}"
        whole, rest = divmod(int(amount * 10**9), 10**9)
        return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + " s"
