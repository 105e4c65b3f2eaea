"""The application: its verbs, ``--version``, and how an error ends it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .cli.methods import methods
from .cli.run import run
from .cli.serve import serve
from .cli.show import show
from .cli.verify import verify
from .lab.cli.bench import bench
from .lab.cli.demo import demo
from .lab.cli.eval import evaluate
from .lab.cli.report import report
from .lab.cli.tune import tune
from .values.errors import LftrError


class _Group(TyperGroup):
    """Verbs whose user errors are one line on stderr and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LftrError as error:
            from .cli.terminal import stderr

            stderr().print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None


def _plain(error: LftrError) -> str:
    return " ".join(str(error).split()).replace("[", "\\[")


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Multimodal LLMs that answer from a fraction of their visual tokens, without training.",
)
for _verb in (run, demo, methods, show, bench, report, tune, verify):
    app.command()(_verb)
app.command("eval")(evaluate)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lftr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass
