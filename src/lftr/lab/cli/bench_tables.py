"""The tables of ``lftr bench``, and the same as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...cli.terminal import Table
from ...methods.encoder.spelling import spell_merge
from ..profiling import CONVENTIONS, Row, Spread
from ..profiling.bench import PARTS
from ..profiling.memory import source_of

_MIB = 2**20

Cell = Callable[[Row], str]


def tables(rows: Sequence[Row], model: str, rounds: int) -> list[Table]:
    """Return times, sizes and, beside the full model, ratios."""
    result = [_times(rows, model, rounds), _sizes(rows)]
    return [*result, _ratios(rows)] if rows[0].setting.full else result


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
        "encoder": row.setting.encoder and spell_merge(row.setting.encoder),
        "call": row.call.label,
        "batch": len(row.call.asked),
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
    device = rows[0].call.model.device
    where = "GPU, by events" if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return _table(
        rows,
        {part: _part(part) for part in (*PARTS, "decode")},
        title=f"{model}: milliseconds of a batch, median (quartiles) of {rounds} ({where})",
        caption="Tokens: visual, into the model and mean over its layers. Prefill: the language "
        "model up to the first token. Host: bookkeeping around the method. Total: all before "
        "decoding. Decode: each token after the first.",
    )


def _sizes(rows: Sequence[Row]) -> Table:
    columns: dict[str, Cell] = {
        "prompt": lambda row: str(row.sizes.columns),
        "KV MiB": lambda row: f"{row.sizes.kv_bytes / _MIB:.2f}",
        "peak MiB": lambda row: f"{row.sizes.peak_bytes / _MIB:.1f}",
    }
    return _table(
        rows,
        columns | {f"GFLOPs {name}": _giga(name) for name in CONVENTIONS},
        title="Memory and operations of the prefill of a batch",
        caption=f"Peak: most memory above weights and inputs "
        f"({source_of(rows[0].call.model.device)}). FLOPs of the decoder's layers: fastv "
        "4nd²+2n²d+2ndm, gated 4nd²+2n²d+3ndm, a multiply-add counted once; true: everything that "
        "ran, encoder and method too, a multiply-add counted twice.",
    )


def _ratios(rows: Sequence[Row]) -> Table:
    full = {id(row): _full(row, rows) or row for row in rows}
    columns: dict[str, Cell] = {
        head: _faster(part, full)
        for head, part in (
            ("prefill", "prefill"),
            ("after encoder", "after_encoder"),
            ("total", "total"),
            ("decode", "decode"),
        )
    }
    return _table(
        [row for row in rows if full[id(row)] is not row],
        columns
        | {
            "KV": lambda row: _ratio_text(full[id(row)].sizes.kv_bytes, row.sizes.kv_bytes),
            "GFLOPs true": lambda row: _ratio_text(
                full[id(row)].sizes.flops["true"], row.sizes.flops["true"]
            ),
            "limit ms": lambda row: _ms(Spread.of(row.limit)) if row.limit else "-",
            "over limit": lambda row: _times_as(row.over_limit) if row.over_limit else "-",
        },
        title="Full model over this setting, ratios within each round, median (quartiles)",
        caption="Limit: the plain language model on a prompt with so few visual tokens to begin "
        "with. Over limit: method, host and prefill, as a multiple of it.",
    )


def _table(rows: Sequence[Row], columns: Mapping[str, Cell], *, title: str, caption: str) -> Table:
    """Make a table of what stands in front of every row, and some columns of its own."""
    heads = ["tokens", *columns]
    table = Table(["setting", "picture", *(f"{head}>" for head in heads)], title, caption)
    for row in rows:
        table.add(
            row.setting.label,
            row.call.label,
            _tokens(row),
            *(cell(row) for cell in columns.values()),
        )
        _rule(table, row, rows)
    return table


def _part(name: str) -> Cell:
    return lambda row: _ms(row.ms[name])


def _giga(convention: str) -> Cell:
    def cell(row: Row) -> str:
        count = row.sizes.flops[convention]
        return "-" if count is None else f"{count / 1e9:.2f}"

    return cell


def _faster(part: str, full: Mapping[int, Row]) -> Cell:
    return lambda row: _times_as(row.faster_than(full[id(row)])[part])


def _full(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the full model's row of the same call."""
    return next((one for one in rows if one.setting.full and one.call is row.call), None)


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


def _ratio_text(full: int | None, reduced: int | None) -> str:
    return f"{full / reduced:.2f}x" if full and reduced else "-"
