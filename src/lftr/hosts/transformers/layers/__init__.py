"""Reduction inside the language model: what enters each decoder layer, and what it caches."""
