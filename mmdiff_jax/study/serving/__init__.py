"""Raters take part: the rules, the web pages, simulated raters."""
