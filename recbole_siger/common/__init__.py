"""Files, logs, locks, tables and templates for all other rooms, without RecBole."""
