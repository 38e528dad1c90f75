"""Gathers what the HTML page shows: the values of the last days, and what is known of each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from config.database import Settings
from src.page import Cell, MetricPage, Page
from src.sql_loader import Catalog
from src.status import in_words, repair_commands, states
from src.store import LOOK_BACK_DAYS, MetricStore


def page_of(
    store: MetricStore, catalog: Catalog, settings: Settings, today: date, days: int,
    errors: Mapping[str, Sequence[str]],
) -> Page:  # fmt: skip
    """Return the page of all metrics that have a file; its lines end today and have `days` dates."""
    metrics: dict[str, MetricPage] = {}
    for state in states(store, catalog, today, errors):
        if state.file:
            metrics[state.name] = MetricPage(
                state,
                description=state.file.description,
                data_type=state.file.data_type,
                sql={file.path: file.script.text for file in catalog.files_of(state.name)},
                reads=sorted(catalog.reads.get(state.name, ())),
                rows={},
                edits=[],
            )  # fmt: skip
    since = today - timedelta(days=max(days, LOOK_BACK_DAYS) + 7)  # the first week is shown whole
    for name, day, row in store.rows(metrics, [since, today]):
        metrics[name].rows[day] = Cell(row.value_list, store.is_final(day, row.updated), row.f_list)
    for edit in store.edits(metrics, since):
        metrics[edit.metric].edits.append(edit)
    found = [metric.state for metric in metrics.values()]
    words, is_well = in_words(found, today)
    return Page(
        database=settings.db_name, moment=store.clock(), today=today, days=days, state=words,
        commands=repair_commands(found, found), is_well=is_well, metrics=list(metrics.values()),
    )  # fmt: skip
