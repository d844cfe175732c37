"""Chaos: a region of real processes, hurt on a schedule drawn from a seed, and judged by what everybody saw meanwhile."""
