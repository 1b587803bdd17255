"""Hosts, their devices, and what lies where on them."""
