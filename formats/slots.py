"""The names of a linear layer's products and of their operands."""

from __future__ import annotations

SLOTS = ("x_fprop", "w_fprop", "g_dgrad", "w_dgrad", "g_wgrad", "x_wgrad")
GEMMS = {"fprop": ("x_fprop", "w_fprop"), "dgrad": ("g_dgrad", "w_dgrad"), "wgrad": ("g_wgrad", "x_wgrad")}
OUTPUTS = ("out_fprop", "out_dgrad", "out_wgrad")
