"""What clients saw, written down, and two programs that say whether it can be true.

operation   one line of a history; its writer and its reader
models      what each kind of entity answers when nobody disturbs it
deeds       the attempts with one key are one deed
verdict     what a checker says
programs    random ones for one client, and what must come of them
replay      checker 1: the versions are the order; replayed and held against the clock
search      checker 2: looks for an order by itself, for histories that hide versions
check       a whole history, entity by entity
simulate    clients and a store that keeps its promises, or breaks one
mutate      good histories, each made wrong in one place
__main__    `python -m tests.faults.history`: both checkers against many histories, in figures
"""
