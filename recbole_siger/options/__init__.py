"""Typed parameters, options of commands, YAML values, resources and seeds, without RecBole."""
