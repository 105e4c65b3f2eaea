"""Checks of requests whose kept tokens keep their positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from ....values.errors import ArgumentError
from .processing import MEDIA, Shortened, Shortening
from .request_setting import RequestSetting

ROOM = 4
"""Rotary angles are computed for so many times a model's longest prompt, where tokens are pruned
and positions are not."""


def highest_position(longest: int, max_model_len: int) -> int:
    """Return the highest position that a prompt may reach; its answer goes on from there."""
    return max((ROOM - 1) * longest, max_model_len)


class Reaching(Shortening):
    """Checks that positions stay among those whose rotary angles are computed."""

    def shortened(
        self, content: Any, setting: RequestSetting, medium: str, processed: Mapping[str, Any]
    ) -> Shortened:
        """Return the shorter placeholders of an item, with the number of its positions."""
        placeholders = super().shortened(content, setting, medium, processed)
        return replace(placeholders, reach=self.reach(placeholders, medium, processed))

    def reach(self, placeholders: Shortened, medium: str, processed: Mapping[str, Any]) -> int:
        """Return how many positions the whole item takes."""
        raise TypeError(f"{type(self).__name__} must define reach")

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        applied = super()._maybe_apply_prompt_updates(mm_items, mm_res)
        if self.started.positions == "compact":
            return applied
        ids, _ = applied
        items = [item.content for of in mm_res.prompt_updates.values() for (item,) in of]
        highest = len(ids) + sum(item.reach - len(item.full) for item in items)
        model = self.info.ctx.model_config
        longest = self.info.get_hf_config().get_text_config().max_position_embeddings
        most = highest_position(longest, model.max_model_len)  # the rest is for answers
        if highest > most:
            raise ArgumentError(
                f"the whole prompt reaches to position {highest}; allowed: {most}, however few "
                "tokens of its items are kept"
            )
        return applied


class Counting(Reaching):
    """Checks of requests to models whose positions have one dimension."""

    def reach(self, placeholders: Shortened, medium: str, processed: Mapping[str, Any]) -> int:
        """Return the number of tokens, of text around the item too."""
        return len(placeholders.full) + placeholders.total - placeholders.kept


class Placing(Reaching):
    """Checks of requests to models with M-RoPE: each item has text around it."""

    def check(self, processed: Any) -> None:
        """Check that every placeholder belongs to an item, with text before and after each item.

        Positions of an item count from the text before it, and decoding goes on from the last text.
        """
        ids, config = processed["prompt_token_ids"], self.info.get_hf_config()
        for medium in MEDIA:
            token = getattr(config, f"{medium}_token_id")
            items = processed["mm_placeholders"].get(medium, ())
            more = ids.count(token) - sum(one.get_num_embeds() for one in items)
            if more:
                raise ArgumentError(
                    f"the prompt has {more} {medium} placeholders without {medium}s; allowed: one "
                    f"for each {medium}"
                )
            if ids[-1] == token:
                raise ArgumentError(f"the prompt ends in {medium} tokens; allowed: text after them")
        spans = [
            (one.offset, one.length) for of in processed["mm_placeholders"].values() for one in of
        ]
        spans.sort()
        if any(first + length == after for (first, length), (after, _) in pairwise(spans)):
            raise ArgumentError("two items follow each other; allowed: text between them")

    def reach(self, placeholders: Shortened, medium: str, processed: Mapping[str, Any]) -> int:
        """Return how many positions the whole item takes."""
        vision = self.info.get_hf_config().vision_config
        side = int(vision.spatial_merge_size)
        t, h, w = map(int, processed[f"{medium}_grid_thw"].data)
        seconds = processed.get("second_per_grid_ts")
        step = 1.0 if seconds is None else float(seconds.data)
        rate = getattr(vision, "tokens_per_second", 1.0)
        return max(int((t - 1) * step * rate) + 1, max(h, w) // side)
