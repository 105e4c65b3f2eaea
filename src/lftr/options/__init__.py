"""Options of methods, schedules and merges: names, checks, plain values, spelling."""
