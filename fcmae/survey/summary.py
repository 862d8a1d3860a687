"""The result of a survey, as plain data with names in place of numbers."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from fcmae.survey.result import ChannelSummary, StatsResult
from fcmae.survey.survey import Survey, endings


def summary(found: Survey) -> StatsResult:
    """What the command prints and writes."""
    facts, sizes, names = found.facts, found.facts.sizes, found.images.names

    def named(groups: Iterable[list[int]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(names[place] for place in group) for group in groups)

    return StatsResult(
        images=len(sizes.heights),
        total_bytes=found.images.total_bytes,
        endings=_by_count(endings(found.images)),
        kinds=_by_count(Counter({str(kind): count for kind, count in facts.kinds.items()})),
        short_side=_spread(sizes.short),
        long_side=_spread(np.maximum(sizes.heights, sizes.widths)),
        stacks=facts.stacks,
        in_chans=found.in_chans,
        sampled=found.sampled,
        channels=tuple(
            ChannelSummary(one.minimum, one.maximum, one.mean, one.std, one.nodata_share)
            for one in found.values.channels
        ),
        value_range=found.values.value_range,
        mean=found.values.mean,
        std=found.values.std,
        declared_nodata=dict(facts.declared),
        damaged=tuple(one.message for one in facts.unreadable),
        one_color=tuple(names[place] for place in facts.uniform),
        equal=named(found.equal),
        alike=named(found.alike),
        flags=tuple(found.flags),
        notes=tuple(found.notes),
    )


def _by_count(counter: Counter[str]) -> dict[str, int]:
    return dict(counter.most_common())


def _spread(sides: np.ndarray) -> tuple[int, int, int]:
    return int(sides.min()), int(np.median(sides)), int(sides.max())
