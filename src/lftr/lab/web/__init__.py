"""The demonstration in a browser: an image, a question, and two answers side by side.

`page` and `server` need the extra ``demo`` (gradio).
"""
