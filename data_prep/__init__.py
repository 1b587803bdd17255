"""Offline data preparation; the package never imports it."""
