"""Runs a whole region on this machine, without root or Docker, and takes every trace of it down again."""
