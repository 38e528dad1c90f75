"""How the page and the spreadsheet spell numbers."""

from __future__ import annotations

import pytest

from src.display.values import EXACT, ends_of


@pytest.mark.parametrize(("low", "high", "ends"), [
    ("3.3", "5.54", ("3.30", "5.54")), ("3.3", "5.5", ("3.3", "5.5")), ("-0.125", "3", ("-0.12", "3.00")),
    ("0", "24", ("0", "24")), ("0", "5.54", ("0", "5.54")), ("1999", "2408.4", ("1,999", "2,408")),
    ("980000", "1345187.02", ("0.98M", "1.35M")), ("-98300", "0", ("-98.3K", "0")), ("7", "7", ("7", "7")),
    ("1345187.02", "1345190.11", ("1.345187M", "1.345190M")), ("0.001", "0.02", ("0.001", "0.020")),
    ("0", "1e20", ("0", "1.0000E+20")), ("1.31e20", "1.32e20", ("1.3100E+20", "1.3200E+20")),
    ("1", "1.00000000000000000000000000001", ("1", "1")),
])  # fmt: skip
def test_the_ends_of_an_axis_have_one_unit_and_as_many_decimals(low: str, high: str, ends: tuple[str, str]) -> None:
    assert ends_of(EXACT.create_decimal(low), EXACT.create_decimal(high)) == ends
