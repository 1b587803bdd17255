"""Files as they are kept: written whole, checked, by one writer at a time."""
