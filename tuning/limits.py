"""What a study may cost and fill: money while machines run, disk while trials rest. Rules on plain data."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

PRICE = "cents_per_hour"  # a Ray resource (whole numbers there) by which a node type of the cluster file says what an hour of it costs


class Kept(NamedTuple):
    """Files of a trial that can be computed again."""

    rank: tuple  # what is worth more sorts first
    size: int  # bytes
    paths: tuple[Path, ...]


def surplus(kept: Iterable[Kept], budget: int) -> list[Kept]:
    """What to remove, the least promising first, so that the rest takes at most `budget` bytes; the most promising one stays."""
    ranked = sorted(kept, key=lambda item: item.rank)
    total, removed = sum(item.size for item in ranked), []
    while total > budget and len(ranked) > 1:
        removed.append(ranked.pop())
        total -= removed[-1].size
    return removed


def hourly_price(nodes: Iterable[Mapping]) -> float:
    """Dollars an hour of all nodes (as `ray.nodes()` tells them) that are alive; busy or not, they are paid for."""
    return 0.01 * sum(node["Resources"].get(PRICE, 0.0) for node in nodes if node["Alive"])
