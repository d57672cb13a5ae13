"""Graph builders: arrays and tensors in, sparse tensors out. Nothing here knows RecBole."""
