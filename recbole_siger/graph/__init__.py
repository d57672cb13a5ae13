"""Graph builders: arrays and tensors in, sparse tensors out, without RecBole."""
