"""What the command line of ``lftr serve`` knows of vLLM's, by vLLM's own parser."""

from __future__ import annotations

import pytest

from lftr.hosts.vllm import server

_OFF = ("--no-", "--disable-")


@pytest.fixture(scope="module")
def parser() -> object:
    try:
        from vllm.entrypoints.common.cli_args import make_arg_parser
    except ModuleNotFoundError:  # vllm 0.32
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


def test_options_have_no_other_names(parser: object) -> None:
    """Under one that is not looked for, an option would not be refused."""
    known = {*server._REFUSED, *server._GENERATING, *server._LOOKED_AT}
    found = set()
    for action in parser._actions:  # type: ignore[attr-defined]
        names = {name for name in action.option_strings if not name.startswith(_OFF)}
        if names & known:
            assert names <= known | server._SHORT.keys(), names
            found |= names
    # these are names of the option that they switch off
    assert {one for one in known if not one.startswith("--no-")} <= found


def test_a_model_after_a_switch_is_refused(
    parser: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id of a hub that `split_model` takes for the value of a switch."""
    words = ["model", "--model", "model", "--enforce-eager", "owner/other"]
    with pytest.raises(SystemExit):
        parser.parse_args(words)  # type: ignore[attr-defined]
    assert "unrecognized arguments: owner/other" in capsys.readouterr().err
