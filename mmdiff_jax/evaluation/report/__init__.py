"""What an evaluation prints and writes: text, report.json, a page, sheets."""
