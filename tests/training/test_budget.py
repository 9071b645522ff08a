import pytest

from grlo.settings import BudgetSettings
from grlo.training.budget import Budget
from grlo.types import LedgerEntry


def entry(
    step: int, phase: str, *, seconds: float = 60.0, tokens: int = 100, **more
) -> LedgerEntry:
    table = {
        "num_devices": 2,
        "device": "cpu",
        "flops": 1e9,
        "peak_memory_bytes": 0,
        "attempt": 0,
        "status": "ok",
    }
    return LedgerEntry(step=step, phase=phase, seconds=seconds, tokens=tokens, **(table | more))


def step(number: int, **more) -> list[LedgerEntry]:
    """One minute of drawing and two of learning on two devices."""
    return [
        entry(number, "generate", tokens=400, **more),
        entry(number, "update", seconds=120.0, tokens=1000, **more),
    ]


def last_step(settings: BudgetSettings, *, steps: int = 50) -> int:
    """The step after which a run ends; 0 if it does not."""
    budget = Budget(settings, prompts_per_step=8)
    for number in range(1, steps + 1):
        budget.charge(number, step(number))
        if budget.reason:
            return number
    return 0


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        (BudgetSettings(), 0),
        (BudgetSettings(prompts=40), 5),
        (BudgetSettings(prompts=43), 5),
        (BudgetSettings(prompts=45), 6),
        (BudgetSettings(prompts=1), 1),
        (BudgetSettings(generated_tokens=4000), 10),
        (BudgetSettings(trained_tokens=4000), 4),
        (BudgetSettings(flops=6e9), 3),
        (BudgetSettings(device_hours=1.0), 10),
        (BudgetSettings(device_hours=1.0, prompts=16), 2),
    ],
)
def test_a_run_ends_after_the_step_that_is_nearest_to_its_budget(settings, last):
    assert last_step(settings) == last


def test_only_training_is_charged():
    budget = Budget(BudgetSettings(device_hours=1.0), prompts_per_step=8)
    others = ["load", "evaluate", "checkpoint"]
    budget.charge(1, [entry(1, phase, seconds=1e6) for phase in others])
    budget.charge(1, [entry(1, "update", seconds=1e6, status="failed")])
    assert budget.reason == ""
    assert budget.spent["device_hours"] == 0


def test_a_resumed_run_is_charged_what_it_rests_on():
    ledger = [*step(1), *step(2), *step(3), *step(2, attempt=1), *step(3, attempt=1)]
    budget = Budget(BudgetSettings(prompts=100), prompts_per_step=8, ledger=ledger, step=2)
    assert budget.spent["prompts"] == 16
    assert budget.spent["trained_tokens"] == 2000
    assert (
        Budget(BudgetSettings(), prompts_per_step=8, ledger=ledger, step=3).spent["prompts"] == 24
    )


def test_a_run_that_has_spent_its_budget_says_so_when_it_is_opened_again():
    ledger = [item for number in range(1, 6) for item in step(number)]
    budget = Budget(BudgetSettings(prompts=40), prompts_per_step=8, ledger=ledger, step=5)
    assert budget.reason == "40 of 40 prompts are spent after step 5 (+0.0 %)"


def test_rows_of_fine_tuning_are_charged_with_their_update():
    budget = Budget(BudgetSettings(prompts=32), prompts_per_step=16)
    budget.charge(1, [entry(1, "update")])
    assert budget.spent["prompts"] == 16
    budget.charge(2, [entry(2, "update")])
    assert budget.reason


def test_every_draw_of_a_step_is_charged():
    budget = Budget(BudgetSettings(prompts=1000), prompts_per_step=8)
    budget.charge(1, [entry(1, "generate"), entry(1, "generate"), entry(1, "update")])
    assert budget.spent["prompts"] == 16


def test_what_was_drawn_ahead_is_charged_to_the_step_that_trains_on_it() -> None:
    def ahead(number: int) -> LedgerEntry:
        return entry(number, "generate", tokens=400, seconds=1.0, overlapped_seconds=59.0)

    budget = Budget(BudgetSettings(prompts=1000), prompts_per_step=8)
    ledger = [*step(1), ahead(1), entry(2, "update", tokens=1000), ahead(2)]
    budget.charge(1, ledger[:3])
    assert (budget.spent["prompts"], budget.spent["generated_tokens"]) == (8, 400)
    budget.charge(2, ledger[3:])
    assert (budget.spent["prompts"], budget.spent["generated_tokens"]) == (16, 800)
    # Opened again it knows the same, and goes on the same.
    again = Budget(BudgetSettings(prompts=1000), prompts_per_step=8, ledger=ledger, step=2)
    assert again.spent == budget.spent
    again.charge(3, [entry(3, "update", tokens=1000)])
    assert (again.spent["prompts"], again.spent["generated_tokens"]) == (24, 1200)


def test_the_expected_number_of_steps_follows_from_what_they_cost() -> None:
    budget = Budget(BudgetSettings(trained_tokens=1000.0, flops=1e9), prompts_per_step=4)
    assert budget.expected_steps(0, most=50) == 50
    budget.charge(1, [entry(1, "update", tokens=100, flops=1e6)])
    assert budget.expected_steps(1, most=50) == 10
    budget.charge(2, [entry(2, "update", tokens=300, flops=1e6)])
    assert budget.expected_steps(2, most=50) == 5
    assert budget.expected_steps(2, most=3) == 3
    assert Budget(BudgetSettings(), prompts_per_step=4).expected_steps(7, most=50) == 50
