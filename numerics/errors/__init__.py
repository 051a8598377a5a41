"""`compare`: the distance of a tensor from its reference, in every measure."""
