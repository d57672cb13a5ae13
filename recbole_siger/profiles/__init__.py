"""Profiles of items and users, written by a language model of the user's choice from training data."""
