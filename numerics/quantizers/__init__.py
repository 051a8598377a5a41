"""Checks of quantizers and casts: any callable against a scheme, the smallest failing input, the kind of the fault."""
