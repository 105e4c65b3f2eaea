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
from .lab.cli.embeddings import embeddings
from .lab.cli.eval import evaluate
from .lab.cli.fit import fit
from .lab.cli.report import report
from .lab.cli.tune import tune
from .lab.cli.web import web
from .values.errors import LftrError

# options that became commands; the old spelling works for one release
_NOW_COMMANDS = {("eval", "--embeddings"): "embeddings", ("demo", "--web"): "web"}


class _CommandGroup(TyperGroup):
    """Verbs whose user errors are one line on stderr and exit code 1."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        for (verb, option), command in _NOW_COMMANDS.items():
            if args[:1] == [verb] and option in args:
                from .cli.terminal import remark

                remark(f"warning: `lftr {verb} {option}` is deprecated: use `lftr {command}`")
                args = [command, *(word for word in args[1:] if word != option)]
        return super().resolve_command(ctx, args)

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
    cls=_CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Multimodal LLMs that answer from a fraction of their visual tokens, without training.",
)
for _verb in (run, show, verify, methods, tune, fit, embeddings, report, bench, demo, web):
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
