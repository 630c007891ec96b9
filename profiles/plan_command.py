"""A plan as a command: its options come from its signature, their texts from its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, Optional

import typer

from plans.catalogue import CataloguedPlan
from profiles.commands.help_texts import paragraphs
from profiles.commands.options import finish
from profiles.plan_arguments import PlanArgument, arguments_of

MORE_OPTIONS = "Options for every plan (--simulate, --dry-run, --shutter, --json, …): tandem run --help"


def run_command(plan: CataloguedPlan, texts: Sequence[str], work: Callable[[dict[str, Any]], int]) -> NoReturn:
    """Parse the options of a plan and do the work with them; ends the process with its exit code.

    Parameters
    ----------
    plan
        Which plan.
    texts
        What the command line has behind the plan's name.
    work
        Given the texts and numbers of those arguments that were given or have a default, by argument; returns the
        exit code.
    """
    arguments = arguments_of(plan.function, plan.options)

    def command(**given: Any) -> None:
        known = {name: value for name, value in given.items() if value not in (None, [], ())}
        finish(lambda: work(known))

    command.__doc__ = description_of(plan)
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(argument, plan) for argument in arguments]
    )
    command.__annotations__ = {argument.name: _annotation(argument) for argument in arguments}
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(epilog=MORE_OPTIONS)(command)
    typer.main.get_command(app).main(list(texts), prog_name=f"tandem run {plan.name}")
    raise AssertionError("a command ends the process")


def description_of(plan: CataloguedPlan) -> str:
    """Return what the plan's docstring says before its parameters, a line for each paragraph."""
    return paragraphs((inspect.getdoc(plan.function) or "").partition("\nParameters\n")[0])


def _parameter(argument: PlanArgument, plan: CataloguedPlan) -> inspect.Parameter:
    has_usual = argument.name in plan.usual
    default = inspect.Parameter.empty if argument.required and not has_usual else argument.default
    if argument.is_list and not argument.required:
        default = None
    return inspect.Parameter(
        argument.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_annotation(argument)
    )


def _annotation(argument: PlanArgument) -> Any:
    plain: dict[str, Any] = {"float": float, "int": int, "bool": bool}
    of_one = plain.get(argument.kind, str)
    text = argument.help + (" May be given several times." if argument.is_list else "")
    if argument.kind == "bool":
        option = typer.Option(f"--{argument.option}/--no-{argument.option}", help=text)
    else:
        option = typer.Option(f"--{argument.option}", help=text, metavar=argument.metavar)
    # typer evaluates annotations at run time and wants Optional for an option without a default.
    return Annotated[Optional[list[str]] if argument.is_list else Optional[of_one], option]  # noqa: UP045
