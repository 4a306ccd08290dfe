"""The front door and the admin door: httptools on trio."""
