"""Tiny models with the data flow of research code: what is encoded, joined and put where.

Written for these tests, in torch alone. Each attention layer remembers its map, for references.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH, WORDS = 24, 32
IMAGE = -200  # where LLaVA's prompt has an image


class PackedAttention(nn.Module):
    """One projection for queries, keys and values: EVA's biases, or InternViT's norms."""

    def __init__(self, biases: bool, norms: bool) -> None:
        super().__init__()
        self.num_heads, self.scale = 3, (WIDTH // 3) ** -0.5
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=not biases)
        self.q_bias = nn.Parameter(torch.randn(WIDTH)) if biases else None
        self.v_bias = nn.Parameter(torch.randn(WIDTH)) if biases else None
        if norms:
            self.q_norm, self.k_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros(WIDTH), self.v_bias])
        q, k, v = nn.functional.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        return self.proj(_attend(self, q, k, v))


class SplitAttention(nn.Module):
    """Three projections, called by keyword, as CLIP's; returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.scale = 3, (WIDTH // 3) ** -0.5
        self.q_proj, self.k_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.v_proj, self.out_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states: Tensor, attention_mask: Any = None) -> tuple[Tensor, None]:
        q, k, v = (part(hidden_states) for part in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(_attend(self, q, k, v)), None


def _attend(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.unflatten(-1, (3, -1)).transpose(1, 2) for part in (q, k, v))
    module.keys, module.values = k, v
    module.map = (q * module.scale @ k.transpose(-1, -2)).softmax(dim=-1)
    return (module.map @ v).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(WIDTH), attention, nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.attn, SplitAttention):
            x = x + self.attn(hidden_states=self.norm(x), attention_mask=None)[0]
        else:
            x = x + self.attn(self.norm(x))
        return x + self.mlp(x).relu()


class Encoder(nn.Module):
    """A vision transformer, with a CLS token but for SigLIP's; returns the states of all layers."""

    def __init__(self, side: int, kind: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, int(kind != "siglip"), WIDTH))
        self.places = nn.Parameter(torch.randn(1, side * side + self.cls.shape[1], WIDTH))
        packed = {"eva": (True, False), "intern": (False, True), "siglip": (False, False)}
        make = (lambda: PackedAttention(*packed[kind])) if kind in packed else SplitAttention
        self.layers = nn.ModuleList(Layer(make()) for _ in range(3))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.places
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


class Language(nn.Module):
    """Any causal model of embeddings in which order matters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(60, WORDS)
        self.cells = nn.GRU(WORDS, WORDS, batch_first=True)
        self.head = nn.Linear(WORDS, 60)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.head(self.cells(embeds)[0])


class MiniGPT(nn.Module):
    """MiniGPT-4 and v2: four neighbours of a row are joined, or queries read all patches."""

    def __init__(self, side: int, queries: int = 0) -> None:
        super().__init__()
        self.visual_encoder = Encoder(side, "eva")
        self.query_tokens = nn.Parameter(torch.randn(1, queries, WIDTH)) if queries else None
        self.llama_proj = nn.Linear(WIDTH if queries else 4 * WIDTH, WORDS)
        self.llama_model = Language()

    def encode_img(self, image: Tensor) -> Tensor:
        states = self.visual_encoder(image)[-1]
        if self.query_tokens is not None:
            looks = (self.query_tokens @ states.transpose(1, 2)).softmax(dim=-1)
            return self.llama_proj(looks @ states)
        patches = states[:, 1:]
        batch, count, width = patches.shape
        return self.llama_proj(patches.reshape(batch, count // 4, width * 4))

    def answer(self, before: Tensor, images: list[Tensor], after: Tensor) -> Tensor:
        """What a chat does with the embeddings that it has put in a list."""
        words = self.llama_model.embed_tokens
        return self.llama_model(torch.cat([words(before), *images, words(after)], dim=1))

    def forward(self, image: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return self.answer(before, [self.encode_img(image)], after)


class LlavaTower(nn.Module):
    """CLIP's output before its last layer, without CLS; takes a list of images too."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.num_patches_per_side = side
        self.vision_tower = Encoder(side, "clip")

    def forward(self, images: Any) -> Any:
        if isinstance(images, list):
            return [self.vision_tower(image[None])[-2][:, 1:] for image in images]
        return self.vision_tower(images)[-2][:, 1:]


class Llava(nn.Module):
    """LLaVA 1.5 and 1.6 (anyres): embeddings are concatenated where the prompt has -200.

    ``merging`` is ``mm_patch_merge_type``. ``unpadded`` is a module that was added to that code: it
    passes on the list of each image's tokens after the padding went.
    """

    def __init__(self, side: int = 6, merging: str = "flat") -> None:
        super().__init__()
        self.merging = merging
        self.vision_tower = LlavaTower(side)
        self.mm_projector = nn.Sequential(
            nn.Linear(WIDTH, WORDS), nn.GELU(), nn.Linear(WORDS, WORDS)
        )
        self.image_newline = nn.Parameter(torch.randn(WORDS))
        self.unpadded = nn.Identity()
        self.language = Language()

    def visual_tokens(self, images: Tensor | list[Tensor], rows: int = 0) -> list[Tensor]:
        """Tokens of each image; an image of several tiles has ``rows`` to leave out as padding."""
        if not isinstance(images, list):
            return list(self.mm_projector(self.vision_tower(images)))
        counts = [len(tiles) for tiles in images]
        each = self.mm_projector(self.vision_tower(torch.cat(images))).split(counts)
        if self.merging == "flat":
            return [tokens.flatten(0, 1) for tokens in each]
        merged = [self._spatial(tokens, rows) for tokens in each]
        return self.unpadded(merged)

    def _spatial(self, tokens: Tensor, rows: int) -> Tensor:
        base, tiles = tokens[0], tokens[1:]
        side = self.vision_tower.num_patches_per_side
        assert side * side == len(base)
        picture = tiles.reshape(2, 2, side, side, -1).permute(0, 2, 1, 3, 4).flatten(0, 1)
        picture = picture.flatten(1, 2)[rows : len(picture) - rows]
        newline = self.image_newline.expand(len(picture), 1, -1)
        return torch.cat([base, torch.cat([picture, newline], dim=1).flatten(0, 1)])

    def forward(self, ids: Tensor, images: Tensor | list[Tensor], rows: int = 0) -> list[Tensor]:
        logits = []
        for row, tokens in zip(ids, self.visual_tokens(images, rows), strict=True):
            at = int((row == IMAGE).nonzero())
            words = self.language.embed_tokens
            embeds = torch.cat([words(row[:at]), tokens, words(row[at + 1 :])])
            logits.append(self.language(embeds[None])[0])
        return logits


class InternVL(nn.Module):
    """InternVL: 2 x 2 patches make a token, which is assigned to its placeholder in the prompt."""

    context = 59

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        self.num_image_token = side * side // 4
        self.vision_model = Encoder(side, "intern")
        self.mlp1 = nn.Sequential(nn.LayerNorm(4 * WIDTH), nn.Linear(4 * WIDTH, WORDS))
        self.language_model = Language()

    def extract_feature(self, tiles: Tensor) -> Tensor:
        patches = self.vision_model(tiles)[-1][:, 1:]
        side = int(patches.shape[1] ** 0.5)
        blocks = patches.reshape(len(tiles), side // 2, 2, side // 2, 2, WIDTH)
        return self.mlp1(blocks.permute(0, 1, 3, 2, 4, 5).reshape(len(tiles), -1, 4 * WIDTH))

    def chat(self, tiles: Tensor, before: list[int], after: list[int]) -> Tensor:
        ids = [*before, *[self.context] * self.num_image_token * len(tiles), *after]
        return self.generate(tiles, torch.tensor(ids))

    def generate(self, tiles: Tensor, ids: Tensor) -> Tensor:
        embeds = self.language_model.embed_tokens(ids).clone()
        embeds[ids == self.context] = self.extract_feature(tiles).reshape(-1, WORDS)
        return self.language_model(embeds[None])[0]


class DeepSeekVL2(nn.Module):
    """DeepSeek-VL2: a global view and tiles, arranged as pictures with newlines, then scattered.

    ``arranged`` is a module that was added to that code: it passes on the list of the tokens of
    each image of a row.
    """

    context = 59

    def __init__(self, side: int = 5) -> None:
        super().__init__()
        self.patches, self.side = side, -(-side // 2)
        self.vision = Encoder(side, "siglip")
        self.projector = nn.Sequential(nn.Linear(4 * WIDTH, WORDS), nn.GELU())
        self.image_newline = nn.Parameter(torch.randn(WORDS))
        self.view_separator = nn.Parameter(torch.randn(WORDS))
        self.arranged = nn.Identity()
        self.language = Language()

    def tokenize(
        self, texts: list[list[int]], crops: list[tuple[int, int]], most: int | None = None
    ) -> tuple[list[int], list[bool]]:
        """Ids with placeholders between texts, and which are placeholders; ``most`` for an image.

        The processor of that code, and the slice that was added to it.
        """
        ids, mask = list(texts[0]), [False] * len(texts[0])
        for text, (wide, high) in zip(texts[1:], crops, strict=True):
            view = self.side * (self.side + 1)
            tiles = high * self.side * (wide * self.side + 1)
            placeholders = [self.context] * (view + 1 + tiles)
            placeholders = placeholders[:most]
            ids += [*placeholders, *text]
            mask += [True] * len(placeholders) + [False] * len(text)
        return ids, mask

    def prepare_inputs_embeds(
        self, ids: Tensor, tiles: Tensor, mask: Tensor, crops: Tensor
    ) -> Tensor:
        """Embeddings ``(B, T, C)`` of ids ``(B, T)``.

        ``tiles`` ``(B, most tiles of a row, 3, H, W)``; ``crops`` ``(B, most images of a row, 2)``
        has the columns and rows of tiles of each image, or zeros.
        """
        counts = [[1 + wide * high for wide, high in row if wide] for row in crops.tolist()]
        rows = [row[: sum(count)] for row, count in zip(tiles, counts, strict=True)]
        tokens = iter(self._joined(self.vision(torch.cat(rows))[-1]))
        embeds = self.language.embed_tokens(ids).clone()
        for row, sizes in enumerate(crops.tolist()):
            pictures = []
            for wide, high in sizes:
                if not wide:
                    break
                view = self._with_newlines(next(tokens)[None], 1, 1)
                local = torch.stack([next(tokens) for _ in range(wide * high)])
                parts = [view, self.view_separator[None], self._with_newlines(local, wide, high)]
                pictures.append(torch.cat(parts))
            if pictures:
                pictures = self.arranged(pictures)
                assert sum(map(len, pictures)) == mask[row].sum()
                embeds[row].masked_scatter_(mask[row].unsqueeze(-1), torch.cat(pictures))
        return embeds

    def _joined(self, states: Tensor) -> Tensor:
        """Tokens of 2 x 2 patches, where zeros fill up an odd side."""
        picture = states.unflatten(1, (self.patches, self.patches))
        odd = self.patches % 2
        blocks = nn.functional.pad(picture, (0, 0, 0, odd, 0, odd))
        blocks = blocks.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)
        return self.projector(blocks.flatten(3).flatten(1, 2))

    def _with_newlines(self, tokens: Tensor, wide: int, high: int) -> Tensor:
        blocks = tokens.reshape(high, wide, self.side, self.side, -1).transpose(1, 2)
        picture = blocks.reshape(high * self.side, wide * self.side, -1)
        newline = self.image_newline.expand(len(picture), 1, -1)
        return torch.cat([picture, newline], dim=1).flatten(0, 1)
