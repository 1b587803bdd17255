"""One kit for all pages: frame, players, plots, tables; nothing is fetched."""
