"""The published networks that metrics look at clips through."""
