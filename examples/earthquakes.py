"""Aggregate earthquakes by region and day, a whole batch with one statement.

This example shows `on_batch`, which gets up to 500 events that have arrived, in one transaction. The statement writes
its rows in a fixed order, so two listeners whose batches contain the same days cannot deadlock.

    oncecast up --app earthquakes:app --app-dir examples
    oncecast send examples/earthquakes.ndjson
    oncecast sql "select region, day, quakes, strongest from quakes_per_day
                  order by quakes desc, region, day limit 10"

The figures stay the same however often you send the file, because each event takes effect once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from tables import tables

from oncecast import App, Transaction

TABLES = """
    create table if not exists quakes_per_day (
        region text, day date, quakes integer not null, strongest double precision, primary key (region, day));
"""
ABBREVIATED = {"CA": "California", "MX": "Mexico", "NV": "Nevada"}

app = App("earthquakes", lifespan=tables(TABLES))


@dataclass
class Quake:
    """The members of the data that are used; others are ignored."""

    place: str
    occurred_ms: int
    mag: float | None

    @property
    def region(self) -> str:
        """The text after the last comma of the place: "2km E of San Marino, CA" is in California."""
        region = self.place.rpartition(", ")[2]
        return ABBREVIATED.get(region, region)

    @property
    def day(self) -> date:
        """The day in UTC."""
        return datetime.fromtimestamp(self.occurred_ms / 1000, UTC).date()


@app.on_batch("earthquake", max_events=500)
async def roll_up(quakes: list[Quake], tx: Transaction) -> None:
    """Count the batch by region and day in PostgreSQL, and add the counts to the table."""
    await tx.execute(
        """
        insert into quakes_per_day as t (region, day, quakes, strongest)
        select region, day, count(*), max(mag)
        from unnest(%s::text[], %s::date[], %s::float8[]) as q (region, day, mag)
        group by region, day
        order by region, day  -- rows are locked in this order
        on conflict (region, day) do update
        set quakes = t.quakes + excluded.quakes, strongest = greatest(t.strongest, excluded.strongest)
        """,
        ([q.region for q in quakes], [q.day for q in quakes], [q.mag for q in quakes]),
    )
