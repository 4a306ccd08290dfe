"""Clients, nodes and faults, and the proof afterwards: `python -m tests.faults`.

entities.py, .js  the functions: every model of history/models.py, in two languages
asking            what a client asks next, and of which entity
cuts              between a node and its database: commits lost, late and held
couriers.py       functions that talk by messages: accounts, players, a crowd, clocks
clockwork         random programs for clocks, and what is to ring
snapshots         all of that in one snapshot of the database, and what must be true of it
insisting         a call until it is answered
outside           messages from outside and questions that are handed on
naps              who sleeps while messages for it come and go
orders            requests to a server outside that counts keys
chimes            schedules of every minute, set back
talking           asks and looks, and sees it all to its end
nodes             `inversion serve`, some of them on one database, started again when they end
clients           HTTP clients that write the history
faults            what is done to them meanwhile
campaign          one run from start to last read
seeded            a node with a bug on purpose
detect            whether the campaign finds each of them
report            floors, figures, and what is wrong
"""
