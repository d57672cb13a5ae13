"""Encode item texts and images to feature files, in shards that survive a kill, here or on Ray."""
