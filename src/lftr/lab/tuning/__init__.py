"""`lftr tune`: the smallest budget that keeps the full model's answers, without labels."""
