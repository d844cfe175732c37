"""Measures what is promised, beside what users would compare it with, in one run."""
