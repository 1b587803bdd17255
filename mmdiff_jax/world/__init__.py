"""The sounding shapes: a world whose audio-video truth is known."""
