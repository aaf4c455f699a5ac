"""Which of many parts get how many bits."""

import dataclasses

import numpy


@dataclasses.dataclass
class Units:
    """costs[u, c]: what unit u loses with choice c; bits[c]: what the choice costs a unit, ascending."""

    costs: numpy.ndarray
    bits: numpy.ndarray


def allocate(groups, budget):
    """The choice of each unit of each group (Units, units of different groups may have different choices) so that all bits together stay
    within the budget: an array of choices per group.

    Greedy on the lower convex hull of each unit's measured costs: the step that saves most per bit is taken as long as it fits, ties to the
    first unit. That is the least possible loss for the bits it spends (Shoham and Gersho, 1988). Raises ValueError below what the least
    choices need.
    """
    chosen = [numpy.zeros(len(group.costs), dtype=int) for group in groups]
    spent = sum(len(group.costs) * group.bits[0] for group in groups)
    if spent > budget * (1 + 1e-12):
        raise ValueError(f"calibrate: {budget:.6g} bits in all, the least choices need {spent:.6g}")
    steps = [[_best_step(group, unit, 0) for unit in range(len(group.costs))] for group in groups]
    while True:
        candidates = [
            (-rate, number, unit)
            for number, group in enumerate(steps)
            for unit, (rate, to) in enumerate(group)
            if rate > 0 and spent + _price(groups[number], chosen[number][unit], to) <= budget * (1 + 1e-12)
        ]
        if not candidates:
            return chosen
        _, number, unit = min(candidates)
        to = steps[number][unit][1]
        spent += _price(groups[number], chosen[number][unit], to)
        chosen[number][unit] = to
        steps[number][unit] = _best_step(groups[number], unit, to)


def _price(group, before, after):
    return group.bits[after] - group.bits[before]


def _best_step(group, unit, at):
    """(what is saved per bit, the choice) of the best step up; (0, at) if none saves."""
    best = (0.0, at)
    for to in range(at + 1, len(group.bits)):
        rate = (group.costs[unit, at] - group.costs[unit, to]) / _price(group, at, to)
        if rate > best[0]:
            best = (rate, to)
    return best
