"""What tables of costs have beside seconds and tokens, where it is known: utilisation, energy and
money."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from grlo.ledger import PhaseTotal
from grlo.reporting.tables import percent
from grlo.settings import PriceSettings

Column = Callable[[PhaseTotal], str]

MFU = "MFU, %"


def recorded_prices(record: Mapping[str, Any]) -> PriceSettings:
    """The prices in the record of a run; a run from before there were any has none."""
    known = {item.name for item in fields(PriceSettings)}
    found = record.get("recipe", {}).get("prices", {})
    return PriceSettings(**{name: value for name, value in found.items() if name in known})


def money(total: PhaseTotal, prices: PriceSettings) -> float:
    """Device-hours at their price, and remote services where both are in dollars."""
    dollars = total.usage.dollars if prices.currency == "USD" else 0.0
    return total.device_hours * prices.device_hour + dollars


def known_columns(totals: Sequence[PhaseTotal], prices: PriceSettings) -> dict[str, Column]:
    """Name -> what writes its cell, of the columns that have anything to show for these rows."""
    columns: dict[str, Column] = {}
    if any(total.utilization is not None for total in totals):
        columns[MFU] = lambda total: percent(total.utilization)
    if any(total.energy_joules is not None for total in totals):
        columns["Wh"] = lambda total: (
            "-" if total.energy_joules is None else f"{total.energy_joules / 3600:,.2f}"
        )
    if prices.device_hour:
        columns[prices.currency] = lambda total: f"{money(total, prices):,.4f}"
    return columns
