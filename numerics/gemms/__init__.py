"""Checks of matrix products: any callable against the float64 product of the dequantised operands."""
