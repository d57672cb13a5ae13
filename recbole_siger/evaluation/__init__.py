"""Ranking evaluation on arrays; this room does not know RecBole."""
