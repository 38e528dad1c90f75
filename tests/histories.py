"""A world in which histories happen, on a real server, and the promises about cells; docs/design.md names them.

Beside each row it keeps what its file read, taken inside the run's own transaction just before the statement. An event
has an amount of its own, so that a changed date always shows: no rule sees late data that leave the row of their date.
"""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache, partial, partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import run_metrics
from config.database import Settings, load_settings
from src.db_manager import DatabaseManager
from src.errors import MetricsError, StatementError
from src.metric_file.file import parse
from src.metric_file.step import Step
from src.running.plan import RunArguments
from src.running.readers import Ahead, Readers
from src.server.interruption import Interruption
from tests.conftest import Database
from tests.random_histories import (
    MOST_METRICS,
    OLDEST,
    Cell,
    Content,
    Formula,
    History,
    Lost,
    Metric,
    closure,
    days_back,
    end_of,
    period_of,
)

TABLES = [f"t_{kind}{n}" for kind in "hw" for n in range(MOST_METRICS)]

SOURCE = f"""
CREATE TABLE events (id BIGINT AUTO_INCREMENT PRIMARY KEY, day DATE NOT NULL, amount BIGINT NOT NULL, KEY (day));
CREATE TABLE fails (metric INT NOT NULL, since DATE NOT NULL, until DATE NOT NULL, zero INT NOT NULL DEFAULT 0);
{"".join(f"CREATE TABLE {table} (day DATE PRIMARY KEY, n BIGINT NOT NULL);" for table in TABLES)}
"""
# One JSON text for all cells: the driver would take longer over as many rows than all else takes.
ROWS = "SELECT JSON_ARRAYAGG(JSON_ARRAY(metrics, metric_date, JSON_EXTRACT(value_list, '$'))) FROM bi_metrics"
ROWS_OF_A_HELPER = " UNION ALL SELECT JSON_ARRAYAGG(JSON_ARRAY('{0}', day, JSON_OBJECT('n', n))) FROM t_{0}"
STATES = "SELECT JSON_ARRAYAGG(JSON_ARRAY(metric, metric_date, state)) FROM bi_metric_state WHERE state <> 'missing'"
CURRENT = ("waiting", "final")


@dataclass(frozen=True)
class Seen:
    """What a file read when it wrote a row."""

    metric: Metric  # its definition
    formula: Formula  # of the file that ran
    rows: Mapping[Cell, Content]
    source: Mapping[date, int]
    moment: int  # seconds since the epoch
    number: int  # that follows


class Untrue(AssertionError):  # noqa: N818, it is a finding
    """A promise does not hold; the text tells the history up to there."""


class World:
    """A simulated clock, the source, the metric files, and runs of the command within this process."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.root = database, folder
        self.runs = self.commits = self.rows_checked = 0  # figures over all histories
        database.execute(SOURCE)

    def begin(self, metrics: Sequence[Metric], **settings: Any) -> None:
        """Empty everything and write the files of the metrics; the settings are fields of History."""
        self.history = history = History(tuple(metrics), (), **settings)
        self.today = history.start
        self.names = {metric.name: metric.name for metric in metrics}  # and the name that it has now
        self.metrics: dict[str, Metric] = {}
        self.how: dict[str, str] = {}  # the file of each is: "there", "disabled" or "deleted"
        self.files: dict[str, tuple[Metric, Formula]] = {}
        self.journal: dict[Cell, Seen] = {}
        self.broken: list[tuple[str, date, date]] = []
        self.purged = OLDEST  # the first day of the source that was never purged
        self.lost: Lost | None = None
        self.story = str(history).split("\n  ")
        self.amounts: dict[date, int] = {}  # of the source; no run changes it
        self._events = self._minutes = 0
        shutil.rmtree(self.root / "sql", ignore_errors=True)
        self.settings: Settings = load_settings(self.root, {
            **self.database.env, "METRICS_TIMEZONE": "UTC", "METRICS_LOOKBACK_DAYS": str(history.lookback),
            "METRICS_MEND_DAYS": str(history.mend_days), "METRICS_ON_FAILURE": history.on_failure,
            "METRICS_READERS": str(history.readers),
        })  # fmt: skip
        tables = ["events", "fails", "bi_metrics", "bi_metric_state", "bi_metric_changes", *TABLES]
        self.database.execute("; ".join(f"DELETE FROM {table}" for table in tables))
        self.rows_query = ROWS + "".join(ROWS_OF_A_HELPER.format(name) for name in self.names if name[0] == "h")
        self.look()
        for metric in metrics:
            self.put(metric)

    # --- what happens; a metric is given by its first name, a date by how many days back it is ------------------------

    def put(self, metric: Metric, how: str = "there") -> None:
        """Write the files of a metric, or let them be disabled (_name.sql) or deleted."""
        for path, formula, text in metric.files():
            self.files[path] = metric, formula
            there = self.root / path
            there.parent.mkdir(parents=True, exist_ok=True)
            for file, state in ((there, "there"), (there.with_name(f"_{there.name}"), "disabled")):
                file.unlink(missing_ok=True)
                if state == how:
                    file.write_text(text)
        self.metrics[metric.name], self.how[metric.name] = metric, how
        self.tell(f"the file of {metric.name} is {how}")

    def switch(self, first_name: str, how: str) -> None:
        """Let a metric be disabled, deleted or renamed; or, if its file is not there, put it back."""
        name = self.names[first_name]
        # SQL that names a metric with neither a file nor rows is refused. A work table has no rows to keep.
        if name[0] == "w" or self.how[name] != "there":
            how = "there"
        elif (name[0] == "h" and how == "renamed") or not any(cell[0] == name for cell in self.contents):
            how = "disabled"
        self.put(self.metrics[name], "deleted" if how == "renamed" else how)
        if how == "renamed":
            self.names[first_name] = f"m{(int(name[1:]) + 10) % 20}"
            self.put(replace(self.metrics[name], name=self.names[first_name]))

    def redefine(self, first_name: str, factor: int) -> None:
        """Change the SQL of a metric: it multiplies by another number."""
        old = self.metrics[self.names[first_name]]
        initial = old.initial and replace(old.initial, factor=factor)
        if old.name in self.nightly and not old.copies:
            self.put(replace(old, formula=replace(old.formula, factor=factor), initial=initial))
            self.tell(f"{old.name} is multiplied by {factor}")

    def late(self, back: int) -> None:
        """Let an event arrive late, if its date was not purged."""
        day, amount = self.day(back), 2 ** (self._events % 38)
        if day >= self.purged:
            self.database.execute(f"INSERT INTO events (day, amount) VALUES ('{day}', {amount})")
            self.amounts[day] = self.amounts.get(day, 0) + amount
            self._events += 1
            self.tell(f"an event of {day}")

    def purge(self, keep: int) -> None:
        """Delete the events before so many days ago."""
        self.purged = max(self.purged, self.day(keep))
        self.database.execute(f"DELETE FROM events WHERE day < '{self.purged}'")
        self.amounts = {day: amount for day, amount in self.amounts.items() if day >= self.purged}
        self.tell(f"events before {self.purged} are deleted")

    def fail(self, first_name: str, back: int, for_good: bool = False) -> None:
        """From now on let a metric fail on a date, or on it and all later ones."""
        name = self.names[first_name]
        since = end_of(self.day(back), self.metrics[name].period)
        until = date(2099, 1, 1) if for_good else since
        self.broken.append((name, since, until))
        row = f"({name[1:]}, '{since}', '{until}')"
        self.database.execute(f"INSERT INTO fails (metric, since, until) VALUES {row}, {row}")
        self.tell(f"{name} fails from {since} to {until}")

    def repair(self) -> None:
        self.broken.clear()
        self.database.execute("DELETE FROM fails")
        self.tell("nothing fails any more")

    def night(self, days: int = 1, only: Collection[str] = (), lost: Lost | None = None) -> int:
        """Let days pass and run without dates; more than one day is a missed night, none a second run."""
        for _ in range(days):
            self.late(0)
            self.today += timedelta(days=1)
            self._minutes = 0
        return self.run(RunArguments(), only, lost)

    def dates(
        self, back: int, length: int = 1, only: Collection[str] = (), lost: Lost | None = None, initial: bool = False
    ) -> int:  # fmt: skip
        """Run `length` dates that end so many days back."""
        words = str(self.day(back + length - 1)), str(self.day(back))
        return self.run(RunArguments(dates=words, initial=initial), only, lost)

    initial = partialmethod(dates, initial=True)  # a load of the dates

    def run(self, call: RunArguments, only: Collection[str] = (), lost: Lost | None = None) -> int:
        """Run the command to its end and return its exit code; a failure without a reason is Untrue."""
        if not self.nightly:
            return run_metrics.NOTHING_TRIED
        chosen = sorted({self.names[first_name] for first_name in only} & {*self.nightly})
        retries = call.retries if lost is None or lost.is_retried else 0
        call = replace(call, metric=tuple(chosen), retries=retries, wait=20, quiet=True)
        self.lost, self._minutes, self.runs = lost, self._minutes + 1, self.runs + 1
        self.is_night, self.asked = call.is_night, {*chosen} or {*self.nightly}
        self.ran: list[tuple[date, list[str]]] = []  # first date and names of each transaction that was committed
        self.turns: list[date] = []  # the first date of each transaction, once for all its tries
        self.transactions, self._is_new_turn, self.is_again = 0, True, False
        words = ["run_metrics.py", *call.dates, *["--initial"] * call.initial, *(f"--metric {name}" for name in chosen)]
        self.tell(" ".join(words))
        code, said = self._run(call)
        loss = f", the {'reply to a COMMIT' if lost.after else 'connection'} was lost" if lost and not self.lost else ""
        ran = "; ".join(f"{day} {' '.join(names)}" for day, names in self.ran)
        self.story[-1] += f": exit {code}{loss}: {ran or 'nothing'}"
        # MySQL's EXPLAIN meets the error of a metric that fails too, so a range may not even start.
        if code != run_metrics.OK and not self.broken and not (loss and not retries):
            raise self.untrue(f"the run failed for no reason: {said}")
        ends = {end_of(self.today, self.metrics[name].period) for name in self.nightly} - {self.today}
        most = (2 + len(ends) + self.history.lookback + 31) * (1 + len({name for name, _, _ in self.broken}))
        if self.is_night and self.transactions > most + bool(loss):
            raise self.untrue(f"no progress: a night of {self.transactions} transactions, more than {most}")
        if code != run_metrics.NOTHING_TRIED and not loss:
            self.require_settled()
        if self.is_night and code == run_metrics.OK:
            self.require_running_rows()
        return code

    def _run(self, call: RunArguments) -> tuple[int, str]:
        said = io.StringIO()
        logging.disable(logging.CRITICAL)
        try:
            with (
                patch.object(run_metrics, "DatabaseManager", partial(_Watched, self)),
                patch.object(run_metrics, "Readers", _WatchedReaders),
                patch.object(Interruption, "sleep", lambda self, seconds: self.check()),  # waits for nothing
                patch("src.sql_loader.parse", _PARSE),
                redirect_stdout(said), redirect_stderr(said),
            ):  # fmt: skip
                run = run_metrics.Run(call, self.settings, Interruption(), self.today)
                with closing(run.database):
                    return run.start(), said.getvalue()
        except MetricsError as error:
            return run_metrics.NOTHING_TRIED, str(error)
        finally:
            logging.disable(logging.NOTSET)

    def live(self, history: History) -> None:
        """Let a history happen, then mend; Untrue if a promise does not hold."""
        self.begin(history.metrics, **history.settings)
        for name, *arguments in history.steps:
            getattr(self, name)(*arguments)
        self.mend()

    def counterexample(self, history: History) -> str:
        """Let a history happen; return the story of the simplest one that breaks a promise, empty if none does."""
        said, simpler = "", iter([history])
        while candidate := next(simpler, None):
            try:
                self.live(candidate)
            except Untrue as error:
                said, simpler = f"{error}\n{candidate}", filter(candidate.__ne__, candidate.simpler())
        return said

    def day(self, back: int) -> date:
        return self.today - timedelta(days=back)

    @property
    def moment(self) -> int:
        """The simulated time: an hour after midnight, and a minute more for each run of the day."""
        return _midnight(self.today) + 3600 + 60 * self._minutes

    @property
    def nightly(self) -> list[str]:
        """The metrics, and the helpers with dates, whose file is there."""
        return [name for name in self.metrics if self.how[name] == "there" and name[0] != "w"]

    def look(self) -> None:
        """Read the numbers and the states: a row without a state counts as reopened, a state without a row as none."""
        self.contents: dict[Cell, Content] = cells_of(self.database.rows(self.rows_query))
        stored: dict[Cell, str] = cells_of(self.database.rows(STATES))
        self.states = {cell: stored.get(cell, "reopened") for cell in self.contents if cell[0][0] == "m"}
        self.states |= {cell: state for cell, state in stored.items() if cell[0][0] == "h"}

    def state(self, name: str, back: int) -> str:
        return self.states.get((name, self.day(back)), "missing")

    def numbers(self, name: str) -> list[Content]:
        """Return the numbers of a name by date, without today's."""
        return [n for (other, day), n in sorted(self.contents.items()) if other == name and day < self.today]

    def due(self) -> list[Cell]:
        """Return what nights must compute: what is open, reopened, or missing after a first row."""
        found = []
        for name in sorted(self.nightly):
            metric = self.metrics[name]
            first = min((day for other, day in self.states if other == name), default=self.today)
            for day in days_back(self.today, self.history.mend_days, 1 + metric.final_after):
                if day >= first and day == end_of(day, metric.period) and self.states.get((name, day)) not in CURRENT:
                    found.append((name, day))
        return found

    def inputs(self, name: str) -> set[str]:
        """Return all names that one reads, directly or through others; a deleted metric may have read every other."""
        deleted = {other for other, how in self.how.items() if how == "deleted"}
        reads = {each: metric.reads - {h for h in deleted if h[0] == "h"} for each, metric in self.metrics.items()}
        return closure(reads | {each: {*reads} for each in deleted}, name)

    def is_stuck(self, cell: Cell) -> bool:
        """Tell whether a cell fails, or depends on one of its date that fails; yesterday may be all or nothing."""
        is_all_or_nothing = cell[1] == self.day(1) and self.history.on_failure == "date"
        names = {*self.metrics} if is_all_or_nothing else {cell[0], *self.inputs(cell[0])}
        return any(name in names and since <= cell[1] <= until for name, since, until in self.broken)

    def began(self, day: date) -> None:
        """Note that a transaction runs its first file."""
        self.transactions += 1
        if (self._is_new_turn and not self.is_again) or self.turns[-1:] != [day]:
            self.turns.append(day)
        self._is_new_turn = False

    def committed(self, written: Mapping[Cell, Seen]) -> None:
        """Look at everything after a COMMIT."""
        self.commits += 1
        before, is_again, self.is_again = self.states, self.is_again, False
        self.journal.update(written)
        self.look()
        self.require_fresh()
        if not written:
            return
        day, yesterday = min(day for _, day in written), self.day(1)
        self.ran.append((day, list(dict.fromkeys(name for name, _ in written))))
        self._is_new_turn = True
        if self.is_night:  # a date by hand that is before the first row makes gaps, which the end of the run notes
            self.require_settled()
        is_due_date = self.is_night and (day < self.day(1 + self.history.lookback) or self.turns.count(day) > 1)
        for cell in written:
            if before.get(cell) in CURRENT and (is_due_date or cell[0] not in self.asked) and not is_again:
                raise self.untrue(f"loss: {_shown(cell)} was computed, though it was current and nobody asked for it")
        for name in self.asked if self.is_night and len(self.turns) == 1 else ():
            ends = yesterday == end_of(yesterday, self.metrics[name].period)
            if ends and (name, yesterday) not in written and not self.is_stuck((name, yesterday)):
                raise self.untrue(f"not first: the night's first transaction left out {_shown((name, yesterday))}")

    def require_fresh(self) -> None:
        """What a current row of today's definition has read is still so, and each row is what its file computes."""
        for cell, content in self.contents.items():
            seen = self.journal[cell]
            if content != seen.number:
                raise self.untrue(f"{_shown(cell)} is {content}, and from what it read follows {seen.number}")
            if self.states.get(cell) not in CURRENT or seen.metric != self.metrics[cell[0]]:
                continue
            self.rows_checked += 1
            if seen.moment < _midnight(cell[1] + timedelta(days=1 + seen.metric.final_after)):
                raise self.untrue(f"{_shown(cell)} is current, and was computed before its period had ended")
            for read, was in seen.rows.items():
                if self.contents.get(read) != was:
                    raise self.untrue(f"not fresh: {_shown(cell)} is current, and it has read {_shown(read)} as {was}, "
                                      f"which is {self.contents.get(read)} now")  # fmt: skip

    def require_running_rows(self) -> None:
        """After a night, each period that runs has a row of today, or none if the metric wants none."""
        for name in self.asked:
            metric = self.metrics[name]
            row = self.journal.get((name, end_of(self.today, metric.period)))
            is_there = row is not None and row.moment >= _midnight(self.today)
            if is_there != metric.has_running_row:
                raise self.untrue(f"the row of {name} for the period that runs is {'' if is_there else 'not '}there")

    def require_settled(self) -> None:
        """Nothing that a final row has read, directly or through others, is due."""
        due = {*self.due()}
        below: dict[Cell, Cell | None] = {}  # what is due among what a cell has read

        def due_below(cell: Cell) -> Cell | None:
            if cell not in below:
                below[cell] = None
                is_known = cell in self.states and not (cell[0][0] == "h" and self.how.get(cell[0]) == "deleted")
                read = self.journal[cell].rows if is_known else ()
                below[cell] = next(filter(None, (each if each in due else due_below(each) for each in read)), None)
            return below[cell]

        for cell, state in self.states.items() if due else ():
            if state == "final" and (found := due_below(cell)):
                raise self.untrue(f"not settled: {_shown(cell)} is final over {_shown(found)}, which is due")

    def mend(self) -> None:
        """Put all files back, run each date again whose source has changed, then nights; Untrue if that leaves any."""
        self.tell("-- the mend")
        for name in [each for each in self.names.values() if self.how[each] != "there"]:
            self.put(self.metrics[name])
        for _ in range(1 + bool(self.broken)):
            for day in self.changed_dates():
                self.dates((self.today - day).days)
            for _ in range(8):  # nights, after which only what fails may be due
                self.night(0)
                if all(map(self.is_stuck, self.due())):
                    break
            else:
                raise self.untrue(f"no progress: still due: {', '.join(map(_shown, self.due()))}")
            self.require_final()
            if self.broken:
                self.repair()
        if self.purged == OLDEST:
            self.require_full_computation()

    def changed_dates(self) -> list[date]:
        """Return the dates whose source is not as some row has read it, other than by a purge."""
        found = set[date]()
        for name, day in self.contents:
            seen = self.journal[name, day]
            period = seen.formula.period
            for of, was in seen.source.items():
                if self.purged <= of < self.today and self.amounts.get(of, 0) != was:
                    # No rule can see what a file reads before its period: then the end of its period is such a date.
                    found.add(of if of in period_of(day, period) else end_of(of, period))
        return sorted(found)

    def require_final(self) -> None:
        """Every row is due, or waits for a due cell, or is final."""
        due = self.due()
        for (name, day), state in self.states.items():
            if name in self.nightly and day < self.today and state in CURRENT:
                reasons = [cell for cell in due if cell[0] in self.inputs(name) and cell[1] <= day]
                if (state == "waiting") != bool(reasons):
                    why = ", ".join(map(_shown, reasons)) or "nothing that it reads"
                    raise self.untrue(f"not mended: {_shown((name, day))} is {state}, and {why} is due")

    def require_full_computation(self) -> None:
        """Each row of today's definition, of the dates that nights mend, is as a computation of all gives it."""
        right: dict[Cell, Content] = {}

        def computed(cell: Cell) -> Content:
            name, day = cell
            if cell not in right:
                right[cell] = self.contents.get(cell)
                metric = self.metrics[name] if cell in self.contents and name in self.nightly else None
                age = (self.today - day).days
                is_mended = metric is not None and metric.final_after < age <= self.history.mend_days
                if metric and is_mended and self.journal[cell].metric == metric:
                    formula = metric.initial or metric.formula
                    rows = {each: computed(each) for each in formula.cells(name, day)}
                    right[cell] = formula.value(name, day, rows, self.amounts)
            return right[cell]

        for cell, content in sorted(self.contents.items()):
            if computed(cell) != content:
                raise self.untrue(f"not mended: {_shown(cell)} is {content}; computed anew it is {computed(cell)}")

    def tell(self, what: str) -> None:
        self.story.append(f"{self.today}  {what}")

    def untrue(self, what: str) -> Untrue:
        return Untrue("\n".join([what, *(f"    {line}" for line in self.story)]))


_PARSE = lru_cache(100)(parse)  # most files are as they were in the run before
_TAG = re.compile(r"/\* bi_metrics (\S+) (\S+?)(?: to (\S+))? \*/ ")


class _Watched(DatabaseManager):
    """A real connection with a simulated clock, which notes what each file is about to read."""

    def __init__(self, world: World, settings: Settings, interruption: Interruption) -> None:
        super().__init__(settings, interruption)
        self._world = world
        self._commits = 0

    def connect(self) -> None:
        super().connect()
        super().execute(f"SET timestamp = {self._world.moment}")

    def transaction(self, keep: bool = True, may_end: bool = True) -> Any:
        self._written: dict[Cell, Seen] = {}
        return super().transaction(keep, may_end)

    def execute(self, sql: str, args: Any = None) -> int:
        if tag := _TAG.match(sql):
            self.note(tag[1], date.fromisoformat(tag[2]), date.fromisoformat(tag[3] or tag[2]))
        return super().execute(sql, args)

    def note(self, path: str, first: date, last: date) -> None:
        """Before a statement of a file, within its transaction: note what it will read for each of its dates."""
        metric, formula = self._world.files[path]
        if not self._written:
            self._world.began(first)
        contents = cells_of(self.query(self._world.rows_query)) if metric.reads else {}
        for day in (each for each in days_back(last, (last - first).days) if each == end_of(each, metric.period)):
            if metric.copies:  # the work table has read it
                rows, source = self._written[metric.copies, day].rows, self._written[metric.copies, day].source
            else:
                rows = {cell: contents.get(cell) for cell in formula.cells(metric.name, day)}
                source = {of: self._world.amounts.get(of, 0) for of in formula.days(day)}
            number = formula.value(metric.name, day, rows, source)
            self._written[metric.name, day] = Seen(metric, formula, rows, source, self._world.moment, number)

    def _end(self, statement: str) -> None:
        if statement != "COMMIT":
            return super()._end(statement)
        self._commits += 1
        lost = self._world.lost if self._world.lost and self._commits > self._world.lost.skip else None
        if not lost or lost.after:
            super()._end(statement)
            self._world.committed({cell: seen for cell, seen in self._written.items() if cell[0][0] != "w"})
        if lost:
            self._world.lost, self._world.is_again = None, True
            self.close()
            raise StatementError(2013, "the reply to COMMIT was lost: (2013) Lost connection to server during query")


class _WatchedReaders(Readers):
    """Real readers; what their files read is noted when their value is taken: no run changes the source."""

    def take(self, step: Step) -> Ahead | None:
        assert isinstance(self._db, _Watched)
        self._db.note(step.file.path, step.dates[0], step.dates[-1])
        return super().take(step)


def cells_of(texts: Collection[tuple[str | None]]) -> dict[Cell, Any]:
    """Return the number or the state of each cell; of a row that holds no number, the text."""
    return {(name, date.fromisoformat(day)): value["n"] if isinstance(value, dict) else value
            for (text,) in texts for name, day, value in json.loads(text or "[]")}  # fmt: skip


def _shown(cell: Cell) -> str:
    return f"{cell[0]} of {cell[1]}"


def _midnight(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86_400
