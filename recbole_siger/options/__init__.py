"""Typed parameters, options of commands, YAML values, resources and seeds; knows no RecBole."""
