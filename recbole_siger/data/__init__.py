"""Interactions and item features, joined by item token."""
