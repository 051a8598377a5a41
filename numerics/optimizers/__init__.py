"""Checks of optimizer states: what a codec does to Adam's moments and to weights."""
