"""What holds on this host: each finding is one line, with a remedy where it does not."""
