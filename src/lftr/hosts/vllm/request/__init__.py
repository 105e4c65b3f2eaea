"""A request before anything is encoded: its setting, its refusals, its placeholders."""
