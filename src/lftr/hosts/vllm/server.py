"""The stock server's command line for a reduced model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ...presets import Preset, known_as
from ...values.errors import ArgumentError, MissingExtraError, UnsupportedModelError
from . import api
from .architectures import Architecture, architecture_of, provided
from .request.request_setting import (
    KEY,
    RequestSetting,
    fitting,
    misses_text,
    of_preset,
    of_server,
)
from .start_options import StartOptions

_SERVERS = "one server a process; start several behind a router (docs/serving.md)"
_PROCESSED = "no such option: it lets clients send processed items, whose setting is not checked"
_REFUSED = {
    "--model": "the model as lftr serve's argument",
    "--video-pruning-rate": "none, since lftr prunes videos itself",
    "--no-trust-request-mm-kwargs": "no such option: requests bring their settings that way",
    # what the module that is started does not read: ``vllm serve`` alone does
    "--api-server-count": _SERVERS,
    "--headless": _SERVERS,
    "--data-parallel-multi-port-external-lb": _SERVERS,
    "--grpc": "no such option: lftr serve starts the server for HTTP",
    "--config": "its lines as options of lftr serve, which checks them and adds its own",
    "--enable-scale-out": _PROCESSED,
    "--tokens-only": _PROCESSED,
    "--enable-prompt-embeds": "no such option: embeddings that clients send have none of what lftr "
    "adds to those of images",
    "--ec-manager-config": "none, since lftr has a manager that counts the encoder's work",
}
_SHORT = {
    "-as": "--api-server-count",
    "-asc": "--api-server-count",
    "-dpm": "--data-parallel-multi-port-external-lb",
}
_SETTING = "--keep or --tokens, --method and --option, which state the server's own setting"
_GENERATING = {
    "--runner": ("auto", "generate"),
    "--convert": ("auto", "none"),
    "--model-impl": ("auto", "vllm"),
}
"""Options with the values under which the reduced architecture generates text."""

_GUARD = f"{__package__}.request.guard.Guard"
_CHECK = f"{__package__}.start_check.StartCheck"
_OVERRIDES, _TRUST, _SHARDING, _PROCESSOR = (
    "--hf-overrides",
    "--trust-request-mm-kwargs",
    "--mm-encoder-tp-mode",
    "--mm-processor-kwargs",
)
_LOOKED_AT = (_OVERRIDES, _TRUST, _SHARDING, _PROCESSOR)


@dataclass(frozen=True)
class ServerPlan:
    """A server that could be started.

    Attributes
    ----------
    model : str
        Hugging Face id or folder.
    architecture : Architecture
        What is served.
    setting : RequestSetting
        The setting of requests that have none.
    started : StartOptions
        What no request can change.
    fitting : list of str
        Methods that requests can choose.
    guided : bool
        Whether the server's own method is guided by the text of prompts.
    note : str or None
        A remark about the preset, or on a method that lacks the text.
    overrides : dict
        For the model's configuration, as given.
    options : list of str
        For vLLM, as given.
    """

    model: str
    architecture: Architecture
    setting: RequestSetting
    started: StartOptions
    fitting: list[str]
    guided: bool
    note: str | None
    overrides: dict[str, Any]
    options: list[str]

    @property
    def port(self) -> str:
        """The port, as the options have it."""
        return (_taken(self.options, "--port")[1] or ["8000"])[-1]

    @property
    def command(self) -> list[str]:
        """The command that starts the server."""
        trusting = _TRUST in self.options
        chosen = {**self.setting.to_plain(), **self.started.to_plain()}
        overrides = {**self.overrides, "architectures": [self.architecture.name], KEY: chosen}
        return [
            sys.executable,
            *("-m", "vllm.entrypoints.launchers.api_server.entry"),
            # vLLM takes a word that is left over for the model and does not read it: the first is
            # the model, so that another one is an error
            *(self.model, "--model", self.model),
            *(_OVERRIDES, json.dumps(overrides)),
            *("--middleware", _CHECK),
            *([] if trusting else [_TRUST, "--middleware", _GUARD]),
            *self.options,
        ]


def plan(
    model: str,
    config: Any,
    setting: dict[str, Any] | Preset,
    options: Sequence[str],
    started: Mapping[str, Any] | None = None,
    guide: str = "last",
) -> ServerPlan:
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
    started : mapping, optional
        `StartOptions` by name; those that are not there are the preset's, or have their defaults.
    guide : {"last", "first"}
        Which text guides the methods that compare with one, see `RequestSetting`.

    Raises
    ------
    ArgumentError, UnsupportedModelError
        If the model is not served, or the method does not fit; the message names those that do.
    """
    options = [_spelled(option) for option in options]
    _check_options(options)
    architecture = architecture_of(config)
    options, texts = _taken(options, _OVERRIDES)
    overrides = _merged(config, [_read_json(_OVERRIDES, text) for text in texts], architecture)
    preset = {}
    if isinstance(setting, Preset):
        preset = asdict(StartOptions.of_preset(setting, architecture))
    fixed = StartOptions.read({**preset, **(started or {})}, architecture)
    sharded = _taken(options, _SHARDING)[1][-1:] == ["data"]
    fields = provided(config, sharded, fixed.text_tower)
    note = None
    if isinstance(setting, Preset):
        chosen, note = of_preset(setting, fields, guide), _note(setting, model, fixed)
    else:
        chosen = of_server({**setting, "guide": guide}, fields, fixed.weights > 0)
    guided = chosen.guided(fields)
    if misses_text(chosen.method, fields):
        blind = f"without --text-tower {chosen.name} chooses without the prompt's text"
        note = "; ".join(one for one in (note, blind) if one)
    return ServerPlan(
        model, architecture, chosen, fixed, fitting(fields), guided, note, overrides, options
    )


def split_model(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the model that stands among vLLM's options, and the options without it.

    A word is the value of the option before it. One that follows another word, or an option with
    its value (``--port=8000``), is the model.

    Raises
    ------
    ArgumentError
        If there are several such words, or none and a folder with a model follows an option, which
        may be one without a value.
    """
    before = ["", *words]
    spare = [
        place
        for place, word in enumerate(words)
        if not word.startswith("-") and (not before[place].startswith("-") or "=" in before[place])
    ]
    if len(spare) > 1:
        text = " ".join(words[place] for place in spare)
        raise ArgumentError.of("MODEL", text, "one model, best before the options of vLLM")
    if not spare:
        for option, word in zip(before, words, strict=False):
            if option.startswith("-") and Path(word, "config.json").is_file():
                allowed = "one model, before the options of vLLM"
                raise ArgumentError.of("MODEL", f"{option} {word}", allowed)
    rest = [word for place, word in enumerate(words) if place not in spare]
    return (words[spare[0]] if spare else None), rest


def check_version() -> tuple[str, str]:
    """Return the name and the version of the distribution of vLLM that is installed.

    Raises
    ------
    MissingExtraError
        If there is none.
    UnsupportedModelError
        If it is one that the plugin was not made for.
    """
    build = api.installed()
    if build is None:
        raise MissingExtraError.of(f"vllm=={'.'.join(map(str, api.OLDEST))}.*", "serve")
    release = tuple(int(part) for part in build[1].split(".")[:2])
    if not api.OLDEST <= release <= api.NEWEST:
        raise UnsupportedModelError(
            f"vllm = {build[1]}; allowed: {api.RELEASES}, whose internals lftr's plugin knows"
        )
    return build


def _note(preset: Preset, model: str, started: StartOptions) -> str | None:
    notes = [preset.note(known_as(model))]
    if preset.positions not in (None, started.positions):
        notes.append(
            f"the preset was found with {preset.positions} positions; here they are "
            f"{started.positions}"
        )
    return "; ".join(note for note in notes if note) or None


def _check_options(options: Sequence[str]) -> None:
    """Refuse options under which the server would do something else, or ignore a setting."""
    for name, allowed in _REFUSED.items():
        rest, values = _taken(options, name)
        if name in options or rest != options:
            raise ArgumentError.of(name, " ".join(values), allowed)
    for name, known in _GENERATING.items():
        for value in _taken(options, name)[1]:
            if value not in known:
                raise ArgumentError.of(
                    name, value, f"{' or '.join(known)}: what lftr serves generates text"
                )
    for name in (_OVERRIDES, _PROCESSOR):
        for text in _taken(options, name)[1]:
            if KEY in _read_json(name, text):
                raise ArgumentError.of(f"{name} with {KEY!r}", text, _SETTING)


def _merged(
    config: Any, several: Sequence[Mapping[str, Any]], architecture: Architecture
) -> dict[str, Any]:
    """Return overrides of a configuration as one, which does what vLLM does with one after another.

    In the configurations within the model's, vLLM overrides values one by one; any other object of
    JSON replaces what was there.

    Raises
    ------
    ArgumentError
        If they ask for another architecture.
    """
    merged: dict[str, Any] = {}
    for one in several:
        for key, value in one.items():
            within = isinstance(getattr(config, key, None), PreTrainedConfig)
            merged[key] = _updated(merged.get(key), value) if within else value
    names = merged.get("architectures", [architecture.stock])
    if names not in ([architecture.stock], [architecture.name]):
        raise ArgumentError.of(
            f"{_OVERRIDES} with 'architectures'", names, f"none: lftr serves {architecture.name}"
        )
    return merged


def _updated(value: Any, update: Any) -> Any:
    """Return a value of JSON with the keys of an update, or the update if either has no keys."""
    if not isinstance(value, Mapping) or not isinstance(update, Mapping):
        return update
    return {**value, **{key: _updated(value.get(key), one) for key, one in update.items()}}


def _read_json(name: str, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentError.of(name, text, f"an object of JSON ({error})") from None
    if not isinstance(values, dict):
        raise ArgumentError.of(name, text, "an object of JSON")
    return values


def _spelled(option: str) -> str:
    """Return an option in the one spelling that is looked for; vLLM takes others, too.

    Raises
    ------
    ArgumentError
        If it is shortened, or a part of one that is looked for.
    """
    name, equals, value = option.partition("=")
    if name in _SHORT:
        return _SHORT[name] + equals + value
    if not name.startswith("--"):
        return option
    head, dot, rest = name.partition(".")
    name = head.replace("_", "-") + dot + rest
    names = (*_REFUSED, *_GENERATING, *_LOOKED_AT)
    for known in names:
        shortened = len(name) > 4 and known.startswith(name) and name not in names
        if shortened or name.startswith(f"{known}."):
            raise ArgumentError.of("option", option, f"{known} in full, and whole")
    return name + equals + value


def _taken(options: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Return the options without one of them, and the values that it is given."""
    rest: list[str] = []
    values: list[str] = []
    words = iter(options)
    for word in words:
        if word.startswith(f"{name}="):
            values.append(word.partition("=")[2])
        elif word == name:
            value = next(words, None)
            if value is None:
                rest.append(word)  # vLLM says that its value is missing
            else:
                values.append(value)
        else:
            rest.append(word)
    return rest, values
