"""Several nodes on one host behind one port: a parent that holds the doors, and a process for each node."""
