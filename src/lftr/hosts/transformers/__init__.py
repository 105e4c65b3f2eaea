"""The host for Hugging Face transformers."""

from .api import check_release

check_release()
