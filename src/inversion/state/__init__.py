"""The Postgres wing: what the state manager promises stands in docs/state.md."""
