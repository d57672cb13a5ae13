"""Files, logs, locks, tables and templates: what every other room writes and reads with; knows no RecBole."""
