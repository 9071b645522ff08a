"""What of a recipe does not go with several devices."""

from __future__ import annotations

from grlo.errors import RecipeError
from grlo.settings import Recipe


def device_problems(recipe: Recipe, *, num_devices: int) -> list[str]:
    """Settings that would fail or be ignored on so many devices, each with its remedy."""
    if num_devices == 1:
        return []
    problems = []
    if recipe.training.overlap:
        problems.append(
            f"training.overlap: true on {num_devices} devices: the engines draw and the learners "
            "update together, one thing at a time. Set overlap = false."
        )
    if ":" in recipe.training.device:
        problems.append(
            f"training.device: {recipe.training.device!r} is one GPU, and there are {num_devices} "
            "devices, of which each process takes its own. Set it to 'auto' or 'cuda'."
        )
    if getattr(recipe.engine, "device", None) is not None:
        problems.append(
            f"engine.device: {getattr(recipe.engine, 'device', None)!r} on {num_devices} devices: "
            "each engine draws where its learner is. Remove it."
        )
    return problems


def require_sound(recipe: Recipe, *, num_devices: int) -> None:
    """Raises RecipeError with all `device_problems`, if there are any."""
    if problems := device_problems(recipe, num_devices=num_devices):
        raise RecipeError("\n".join(problems))
