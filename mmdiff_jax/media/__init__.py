"""Pictures and sound of files: clocks, streams, colours, mixing, writing."""
