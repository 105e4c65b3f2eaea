"""The host for any module of anybody's code: it needs torch alone."""
