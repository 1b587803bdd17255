"""Configurations: pure data, one `get_config()` per file."""
