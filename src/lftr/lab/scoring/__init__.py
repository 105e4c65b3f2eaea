"""Metrics for single answers, means with confidence intervals, and hallucination rates."""
