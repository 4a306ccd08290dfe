"""The conformance kit: its cases, and how they are played against any program."""
