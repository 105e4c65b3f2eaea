"""Values that every part of the library speaks: tokens, selections, budgets, reports, errors.

They know no method, no model and no command.
"""
