"""Ranking evaluation on arrays. Nothing here knows RecBole."""
