"""Ranking evaluation on arrays, without RecBole."""
