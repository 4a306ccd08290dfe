"""The process wing: children, their conversations, and the pools they serve in."""
