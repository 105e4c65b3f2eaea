"""The vision encoder: run once, evidence read off it, its output cut into items and reduced."""
