"""Named time zones for a server: what mysql_tzinfo_to_sql does, which comes only with the whole MariaDB or MySQL."""

from __future__ import annotations

import struct
import zoneinfo
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HEADER = struct.Struct(">4s16x6L")  # of a TZif file, see RFC 8536: "TZif" and six counts
LATEST = 2**31  # the end of TIMESTAMP on many servers; up to it no zone has more changes than a server reads, 370
COVERED = 2_114_000_000  # a moment in 2036: only what comes after it may be left to the rule at the end of a file
TABLES = ("time_zone", "time_zone_name", "time_zone_transition", "time_zone_transition_type")


@dataclass(frozen=True)
class Zone:
    """The clock changes of a zone."""

    kinds: tuple[tuple[int, int, str], ...]  # offset from UTC in seconds, 1 if daylight saving time, abbreviation
    changes: tuple[tuple[int, int], ...]  # moment in seconds since 1970, and the index of the kind that begins then


def statements() -> Iterator[str]:
    """Yield the SQL that fills the server's time zone tables anew; nothing if this machine has no zone files."""
    names = _names_by_zone()
    if not names:
        return
    yield from (f"TRUNCATE mysql.{table}" for table in TABLES)
    numbered = list(enumerate(names, start=1))
    yield _insert("time_zone", ((number, "'N'") for number, _ in numbered))
    yield _insert(
        "time_zone_transition_type",
        (
            (number, kind, offset, is_summer, f"'{abbreviation}'")
            for number, zone in numbered
            for kind, (offset, is_summer, abbreviation) in enumerate(zone.kinds)
        ),
    )
    yield _insert(
        "time_zone_transition", ((number, at, kind) for number, zone in numbered for at, kind in zone.changes)
    )
    # The names last: a name that is there always has its zone.
    yield _insert("time_zone_name", ((f"'{name}'", number) for number, zone in numbered for name in names[zone]))


def _insert(table: str, rows: Iterable[tuple[object, ...]]) -> str:
    values = ",".join(f"({','.join(map(str, row))})" for row in rows)
    return f"INSERT INTO mysql.{table} VALUES {values}"


def _names_by_zone() -> dict[Zone, list[str]]:
    """Return each zone of this machine with its names: there are twice as many names as zones."""
    found: dict[Zone, list[str]] = {}
    for name in sorted(zoneinfo.available_timezones()):
        file = next((path for folder in zoneinfo.TZPATH if (path := Path(folder, name)).is_file()), None)
        zone = read(file.read_bytes()) if file else None
        if zone:
            found.setdefault(zone, []).append(name)
    return found


def read(data: bytes) -> Zone | None:
    """Read a TZif file; None if it leaves out the changes of the coming years: a server would get these wrong."""
    # The file holds everything twice: with moments of 32 bits, and then of 64.
    _, utc, standard, leaps, changes, kinds, letters = HEADER.unpack_from(data)
    begin = HEADER.size + 5 * changes + 6 * kinds + letters + 8 * leaps + standard + utc
    _, utc, standard, leaps, changes, kinds, letters = HEADER.unpack_from(data, begin)
    at = begin + HEADER.size
    moments = struct.unpack_from(f">{changes}q", data, at)
    began = data[at + 8 * changes : at + 9 * changes]
    kinds_at = at + 9 * changes
    text = data[kinds_at + 6 * kinds :][:letters]
    rule = data.rstrip(b"\n").rpartition(b"\n")[2]  # for the time after the last change, such as CET-1CEST,M3.5.0,...
    if b"," in rule and max(moments, default=0) < COVERED:
        return None
    return Zone(
        tuple(
            (offset, is_summer, text[place:].partition(b"\0")[0].decode())
            for offset, is_summer, place in struct.iter_unpack(">lBB", data[kinds_at : kinds_at + 6 * kinds])
        ),
        tuple((moment, kind) for moment, kind in zip(moments, began, strict=True) if moment < LATEST),
    )
