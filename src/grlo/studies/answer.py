"""The answer of a study in sentences: did it transfer, by how much, at what cost, and the controls.

Every sentence is made of numbers of the findings; none says more than its interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grlo.evaluation.stats import Estimate
from grlo.reporting.tables import duration
from grlo.studies.findings import AVERAGE, ArmFindings


def answer(arms: Sequence[ArmFindings]) -> tuple[str, ...]:
    """The sentences, those on treatments first.

    Args:
        arms: Of the study, base included, those with results.
    """
    treatments = [arm for arm in arms if arm.role == "treatment" and arm.domain_gains]
    controls = [arm for arm in arms if arm.role == "control" and arm.domain_gains]
    others = [arm for arm in arms if arm.role == "baseline" and arm.domain_gains]
    lines = [line for arm in treatments for line in _treatment(arm)]
    lines += [_control(arm) for arm in controls]
    if treatments and not controls:
        lines.append("No control has finished: what a reward without signal does is not known.")
    lines += [_against(treatments[0], arm) for arm in others if treatments]
    return tuple(lines)


def points(gain: Estimate) -> str:
    """A gain in points with its interval, such as `+48.6 [+45.1, +52.1]`."""
    return f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def rises(gain: Estimate) -> bool:
    """Whether a gain is above zero by more than its interval."""
    return gain.low > 0


def _treatment(arm: ArmFindings) -> Iterator[str]:
    transfer = {domain: arm.domain_gains[domain] for domain in arm.transfer_domains}
    if not transfer:
        yield f"{arm.label}: average {points(arm.domain_gains[AVERAGE])} points over the base."
        return
    risen = [domain for domain, gain in transfer.items() if rises(gain)]
    fallen = [domain for domain, gain in transfer.items() if gain.high < 0]
    if len(risen) == len(transfer):
        verdict = "Yes"
    elif risen:
        verdict = "In part"
    else:
        verdict = "No"
    trained = f", trained on {_words(arm.trains)} only," if arm.trains else ""
    changes = "; ".join(f"{_word(d)} {points(gain)}" for d, gain in transfer.items())
    yield (
        f"{verdict}: {arm.label}{trained} changed what it was not trained on by {changes} points "
        f"over the base (95 % intervals){_fallen(fallen)}."
    )
    if arm.cost is not None:
        own = "; ".join(
            f"{_word(d)} {points(arm.domain_gains[d])}" for d in arm.trains if d in arm.domain_gains
        )
        cost = arm.cost
        yield (
            (f"Where it was trained: {own}. " if own else "")
            + f"It took {cost.prompts:,.0f} prompts ({cost.distinct_prompts:,.0f} different ones), "
            f"{duration(3600 * cost.device_hours)} of {_words(cost.devices)} and {cost.flops:.2e} "
            "FLOPs with each seed."
        )


def _fallen(domains: Sequence[str]) -> str:
    return f"; {_words(domains)} fell" if domains else ""


def _control(arm: ArmFindings) -> str:
    gain = arm.domain_gains[AVERAGE]
    if rises(gain):
        return (
            f"The control {arm.label} RISES as well: average {points(gain)} points. What the "
            "treatment gains is not all due to its signal."
        )
    if gain.high < 0:
        return f"The control {arm.label} falls: average {points(gain)} points."
    return f"The control {arm.label} does not rise: average {points(gain)} points."


def _against(treatment: ArmFindings, other: ArmFindings) -> str:
    one, two = treatment.domain_gains[AVERAGE], other.domain_gains[AVERAGE]
    sentence = f"{other.label}: average {points(two)} points, {treatment.label} {points(one)}"
    if other.trains and (shared := _both_new(treatment, other)):
        listed = "; ".join(
            f"{_word(d)} {points(other.domain_gains[d])} against "
            f"{points(treatment.domain_gains[d])}"
            for d in shared
        )
        sentence += f"; in domains that neither was trained on {listed}"
    return sentence + "."


def _both_new(one: ArmFindings, other: ArmFindings) -> list[str]:
    return [d for d in one.transfer_domains if d in other.transfer_domains]


def _word(domain: str) -> str:
    return domain.replace("_", " ")


def _words(names: Sequence[str]) -> str:
    return ", ".join(map(_word, names))
