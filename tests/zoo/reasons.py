"""Why plain transformers cannot do something, where several families share the reason.

Each is a part of `Traits.upstream`: ability -> reason.
"""

from __future__ import annotations

MROPE = {
    "second_turn": "positions need the grids of all images, the encoder those of the new ones; "
    "mm_encoder_outputs of the new image with the grids of all images works"
}
PLACED_AS_TEXT = {
    "mrope_second_turn": "on a filled cache every new token is placed as text, images too, "
    "without a word: _prepare_position_ids_for_generation does not look for new images"
}
NO_ROLLBACK = {"assisted": "refused: its state cannot be rolled back"}
INTERLEAVED = {"expansion": "interleaves the images of a row: A A B B, not A B A B"}
IMAGE_SPLIT = {"chunked_prefill": "an image that two chunks share is not seen whole"}
NO_POOLER_OUTPUT = {"chunked_prefill": "no pooler_output to cut into chunks"}
UNPROJECTED = NO_POOLER_OUTPUT | {
    "expansion": "the features live in last_hidden_state, which is not expanded"
}
CLIPS_AS_IMAGES = {
    "chunked_prefill": "looks for the clip's features at video_token_id, which its prompts do not "
    "have"
}
WINDOW = {"static_cache": "a prompt longer than the window: masks of another length than the keys"}
