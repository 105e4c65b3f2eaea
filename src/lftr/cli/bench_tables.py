"""The tables of ``lftr bench``, and the same as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..profiling import CONVENTIONS, Row, Spread
from ..profiling.bench import PARTS
from ..profiling.memory import source_of
from .terminal import Table

_MIB = 2**20
_RATIOS = ("prefill", "after_encoder", "total", "decode")


def tables(rows: Sequence[Row], model: str, rounds: int) -> list[Table]:
    """Return times, sizes and, beside the full model, ratios."""
    found = [_times(rows, model, rounds), _sizes(rows)]
    return [*found, _ratios(rows)] if rows[0].setting.full else found


def plain(rows: Sequence[Row], model: str, rounds: int) -> dict[str, Any]:
    """Return everything as plain values: milliseconds, bytes, operations of a whole batch."""
    device = rows[0].call.model.device
    return {
        "model": model,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "peak": source_of(device),
        "rows": [_plain(row, rows) for row in rows],
    }


def _plain(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    full, limit = _full(row, rows), row.over_limit
    return {
        "setting": row.setting.label,
        "method": "full" if row.setting.full else str(row.setting.method),
        "keep": str(row.setting.keep),
        "call": row.call.label,
        "batch": len(row.call.texts),
        "tokens": row.sizes.tokens,
        "kept": row.sizes.kept,
        "average": row.sizes.average,
        "columns": row.sizes.columns,
        "ms": {name: spread.plain for name, spread in row.ms.items()},
        "kv_bytes": row.sizes.kv_bytes,
        "peak_bytes": row.sizes.peak_bytes,
        "flops": dict(row.sizes.flops),
        "limit_ms": Spread.of(row.limit).plain if row.limit else None,
        "over_limit": limit.plain if limit else None,
        "full_over_this": {name: spread.plain for name, spread in row.faster_than(full).items()}
        if full
        else None,
    }


def _times(rows: Sequence[Row], model: str, rounds: int) -> Table:
    parts = (*PARTS, "decode")
    device = rows[0].call.model.device
    where = "GPU, by events" if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    table = Table(
        ["setting", "picture", "tokens>", *(f"{part}>" for part in parts)],
        title=f"{model}: milliseconds of a batch, median (quartiles) of {rounds} ({where})",
        caption=(
            "Tokens: visual, into the model and mean over its layers. Prefill: the language model "
            "up to the first token. Host: bookkeeping around the method. Total: all before "
            "decoding. Decode: each token after the first."
        ),
    )
    for row in rows:
        table.add(*_head(row), _tokens(row), *(_ms(row.ms[part]) for part in parts))
        _rule(table, row, rows)
    return table


def _sizes(rows: Sequence[Row]) -> Table:
    table = Table(
        [
            "setting",
            "picture",
            "tokens>",
            "prompt>",
            "KV MiB>",
            "peak MiB>",
            *(f"GFLOPs {name}>" for name in CONVENTIONS),
        ],
        title="Memory and operations of the prefill of a batch",
        caption=(
            f"Peak: most memory above weights and inputs ({source_of(rows[0].call.model.device)}). "
            "FLOPs of the decoder's layers: fastv 4nd²+2n²d+2ndm, gated 4nd²+2n²d+3ndm, "
            "a multiply-add counted once; true: everything that ran, encoder and method too, a "
            "multiply-add counted twice."
        ),
    )
    for row in rows:
        flops = [row.sizes.flops[name] for name in CONVENTIONS]
        table.add(
            *_head(row),
            _tokens(row),
            str(row.sizes.columns),
            f"{row.sizes.kv_bytes / _MIB:.2f}",
            f"{row.sizes.peak_bytes / _MIB:.1f}",
            *("-" if count is None else f"{count / 1e9:.2f}" for count in flops),
        )
        _rule(table, row, rows)
    return table


def _ratios(rows: Sequence[Row]) -> Table:
    table = Table(
        [
            "setting",
            "picture",
            "tokens>",
            "prefill>",
            "after encoder>",
            "total>",
            "decode>",
            "KV>",
            "GFLOPs true>",
            "limit ms>",
            "over limit>",
        ],
        title="Full model over this setting, ratios within each round, median (quartiles)",
        caption=(
            "Limit: the plain language model on a prompt with so few visual tokens to begin with. "
            "Over limit: method, host and prefill, as a multiple of it."
        ),
    )
    for row in rows:
        full, limit = _full(row, rows), row.over_limit
        if full is None or row is full:
            continue
        ratios = row.faster_than(full)
        table.add(
            *_head(row),
            _tokens(row),
            *(_times_as(ratios[name]) for name in _RATIOS),
            _over(full.sizes.kv_bytes, row.sizes.kv_bytes),
            _over(full.sizes.flops["true"], row.sizes.flops["true"]),
            _ms(Spread.of(row.limit)) if row.limit else "-",
            _times_as(limit) if limit else "-",
        )
        _rule(table, row, rows)
    return table


def _full(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the full model's row of the same call."""
    return next((one for one in rows if one.setting.full and one.call is row.call), None)


def _head(row: Row) -> tuple[str, str]:
    return row.setting.label, row.call.label


def _rule(table: Table, row: Row, rows: Sequence[Row]) -> None:
    """Draw a line below the last row of a call."""
    last = [one for one in rows if one.call is row.call][-1]
    if row is last and row is not rows[-1]:
        table.rule()


def _tokens(row: Row) -> str:
    return f"{row.sizes.tokens} → {row.sizes.average:.4g}"


def _ms(spread: Spread) -> str:
    return f"{_short(spread.median)}\n({_short(spread.low)}-{_short(spread.high)})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times_as(spread: Spread) -> str:
    return f"{_short(spread.median)}x\n({_short(spread.low)}-{_short(spread.high)})"


def _over(full: int | None, own: int | None) -> str:
    return f"{full / own:.2f}x" if full and own else "-"
