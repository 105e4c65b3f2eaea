"""The commands that reduce a model: ``run``, ``show``, ``methods``, ``verify`` and ``serve``.

The library does not import them. Typer and rich come with the extra ``cli``.
"""
