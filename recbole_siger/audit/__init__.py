"""What an honest evaluation needs, held against a dataset, a model and a run."""
