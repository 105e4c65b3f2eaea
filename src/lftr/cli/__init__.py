"""The commands that reduce a model: ``run``, ``show``, ``methods``, ``verify`` and ``serve``.

Nothing of it is imported by the library. Typer and rich come with the extra ``cli``.
"""
