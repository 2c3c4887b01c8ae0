"""Experiments, a file each: train, compare, tune, attack, count."""
