"""Hot reload in `dev`: changed files become new processes, and no call notices."""
