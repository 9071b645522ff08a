"""The command `grlo`: parses, then imports the stage it needs, so that help starts at once."""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # Before the imports: a run's ledger accounts for them too.

import atexit
import gc
import os
import sys
from typing import Annotated

import typer

from grlo import __version__
from grlo.cli import evaluating, exchange, miniature, prompts, reports, reward_models, training
from grlo.errors import GrloError

app = typer.Typer(
    help="Reinforcement learning from a base model on open-ended prompts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"grlo {__version__}")
        raise typer.Exit


@app.callback()
def _before_any_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """`--version` ends the program by its own callback."""


# Help lists commands in this order, then groups.
app.command()(training.check)
app.command()(training.train)
app.command()(training.sft)
app.command()(reports.study)
app.command()(miniature.quickstart)
app.command()(evaluating.chat)
app.command("pass-rate")(prompts.pass_rate)
app.command()(evaluating.evaluate)
app.command()(evaluating.grade)
app.command()(evaluating.compare)
app.command()(evaluating.winrate)
app.command()(reports.rollouts)
app.command()(reports.report)
app.command()(reports.cost)
app.command("build-nano")(miniature.build_nano)

prompts_app = typer.Typer(
    help="Prompt sets: built, described, audited for overlap with benchmarks.",
    no_args_is_help=True,
)
app.add_typer(prompts_app, name="prompts")
prompts_app.command("build")(prompts.prompts_build)
prompts_app.command("describe")(prompts.prompts_describe)
prompts_app.command("audit")(prompts.prompts_audit)

export_app = typer.Typer(help="Writes what other programs take.", no_args_is_help=True)
app.add_typer(export_app, name="export")
export_app.command("hf")(exchange.export_hf)
export_app.command("lm-eval")(exchange.export_lm_eval)
export_app.command("verl")(exchange.export_verl)

launch_app = typer.Typer(help="Trains on other people's trainers.", no_args_is_help=True)
app.add_typer(launch_app, name="launch")
launch_app.command("verl")(exchange.launch_verl)

import_app = typer.Typer(help="Brings in what other programs leave.", no_args_is_help=True)
app.add_typer(import_app, name="import")
import_app.command("verl")(exchange.import_verl)

reward_model_app = typer.Typer(
    help="Reward models on their own: scores, accuracy on preferences, training.",
    no_args_is_help=True,
)
app.add_typer(reward_model_app, name="reward-model")
reward_model_app.command("score")(reward_models.reward_model_score)
reward_model_app.command("accuracy")(reward_models.reward_model_accuracy)
reward_model_app.command("train")(reward_models.reward_model_train)


def main() -> None:
    """Runs the command; errors that a user can mend are one message, not a traceback."""
    # Otherwise transformers warns of heads that start afresh on purpose. What matters we report.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # A process that ends need not look for garbage: with torch loaded that takes a second.
    atexit.register(gc.freeze)
    try:
        app()
    except GrloError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
