"""What compares reductions: questions, evaluation, tuning, profiling, reports, and their commands.

Nothing that changes a model imports this folder.
"""
