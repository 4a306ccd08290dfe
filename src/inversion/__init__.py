"""inversion: any executable becomes a durable, stateful function behind HTTP, on nothing but PostgreSQL.

The modules in reading order. A module imports only what stands above it in this list (a test reads it):

    errors              whose fault it is; the closed list of codes
    json_text           the one JSON door: check, cut raw, splice
    names               what functions, keys, timers and topics may be called
    effects             what a message-out asks for beside its state
    protocol.cron       when a schedule fires: five fields and a time zone -> instants
    protocol.schedules  what people write of schedules, in inversion.toml and in a hello
    messages            the nouns, in the order of the six steps
    protocol.destination  where an outgoing request may go: URLs, the allow-list, addresses
    config              inversion.toml -> frozen Config
    config_values       durations, sizes, commands: what one value may be
    config_file         reads inversion.toml; one sentence for each fault
    config_guess        how to run one file that has no inversion.toml
    shipped             where the files of runtimes/ are that ship with the code
    conformance.cases   the cases of the conformance kit, as they stand in their files
    conformance.matching  does a line answer what a case expects
    conformance.faults  what programs do wrong, each under a name
    conformance.expecting  what a case expects, in words
    conformance.answers  which fault it is when the answer is another
    conformance.advice  from what was seen of a program to what is wrong with it
    conformance.verdict  what became of a case, and what is known to fail
    templates           a new function of a language, from what ships
    open_files          how many files we may open, and what we start
    ids                 request and turn ids
    last_words          what is kept of an error with the message that failed
    protocol.effects    the effects of an answer: checked, and folded over a turn
    protocol.outgoing   an outgoing request and its answer
    protocol.frames     bytes <-> lines <-> frames; sans-IO like all of protocol
    protocol.conversation  the life of one runtime as a table
    protocol.roster     the pool as a pure planner
    protocol.breaker    when a function's next process may start after others died
    protocol.retrying   (policy, failures, age) -> try again | give up: messages and outgoing requests
    protocol.verdict    (error, request, time left) -> run again | give up
    protocol.cgi        CGI/1.1: what a program is told of a request, what it says before its body
    observe.outlet      one line at a time to a stream, without ever blocking
    observe.logs        the only door to structlog
    observe.metrics     the only door to prometheus
    observe.merging     the metrics of several nodes as one page
    gate                where a turn parks until a gatherer resumes it
    watch               one epoll for all pipes, exits and sockets; how a walk waits for a file
    transition          THE STRAIGHT LINE: one turn, six steps, one screen
    mailbox             one queue per entity; starts the next turn
    calls               admission: makes a request of a call and waits for its answer
    state.sql           all SQL there is
    state.arrays        binary arrays for parameters
    state.dialing       how a connection comes about
    state.postgres      psycopg without its waits
    state.migrate       numbered SQL, applied once
    state.cache         states in memory, bounded in bytes
    state.consequence_rows  what a turn consumes and causes, as rows and arrays
    state.consequences  what a turn consumes and causes: decided
    state.rows          what goes into the gathered statements and comes out
    state.lane          one connection kept up for one gatherer
    state.resolver      unknown outcomes
    state.committer     gathers commits into one statement
    state.loader        gathers loads, checks and reads
    state.sweeper       forgets what nobody may ask for any more
    state.sending       gathers messages from outside into one statement
    state.outputs       their answers: looked up, waited for
    state.store         loads and commits in batches
    state.outbox        claims, leases, pauses and dead letters of messages
    state.publications  from what was published to a message for each subscriber
    state.agenda        the schedules' rows, and the statement that fires one
    state.letters       what people see of messages and decide about dead letters
    processes.child_exit  waits for a child that no spawner started: PostgreSQL, another node
    processes.log_lines what a child prints that is no frame
    processes.noise     what that may cost the loop
    processes.confine   what a spawner does to itself
    processes.spawner_process  a process that starts every child and outlives none
    processes.left_behind  what a killed spawner left behind
    processes.spawner   the node's side of one spawner
    processes.spawners  one for each way in which children are confined
    processes.sandbox   how a function's processes are confined
    processes.child     one OS process
    processes.flight    a message on its way through a process
    processes.worker    one process and one conversation
    processes.crashes   what a pool does about processes that die
    processes.lines_mode  a pool of long-lived processes
    processes.exec_call one process that answers one message
    processes.exec_mode one process per call
    processes.cgi_client  what the two sides of a CGI call know of each other
    processes.cgi_call  one process that answers one HTTP request
    processes.cgi_mode  one CGI process per request
    processes.supervisor  the nursery: executes the roster's plan
    conformance.peer    a process that is checked
    conformance.talking  what is said with it
    conformance.playing  the host's part of the cases, against a program
    delivery.pace       how many messages of a function a node holds
    delivery.aftermath  what becomes of a message whose turn did not come about
    delivery.fan_out    what was published, to its subscribers
    delivery.built_in   what the dispatcher asks of a function of ours
    delivery.hosts      how many outgoing requests to one host
    delivery.attempt    one attempt at an outgoing request
    delivery.outgoing   the built-in function that makes them
    delivery.dispatcher messages from the outbox to the mailboxes
    delivery.cron       looks what is due of the schedules, and fires it
    sends               admission of messages from outside
    http.framing        where one request ends; what is refused
    http.chunks         chunked bodies
    http.service        what the connections of one server share
    http.lending        a socket that is lent to a program for one request
    http.wire           one socket, read and written under deadlines
    http.connection     one socket, one walk, requests in order
    http.problem        errors as problem+json
    http.server         listeners, limits, sweeping of slow clients
    http.asked          what a request asks for by its path and its fields
    http.sending        sends, outputs and cancellations over HTTP
    http.programs       CGI programs over HTTP
    http.routes         the ingress: /v1/call, /v1/state
    http.letters        messages and dead letters at the admin door
    http.admin          the admin door
    embedded.binaries   which PostgreSQL
    embedded.place      where it lies and as whom it runs
    embedded.leftovers  what a killed owner left behind
    embedded.server     the local PostgreSQL as one more supervised child
    embedded            its public names
    exposition          what /metrics and /v1/functions show of a node
    reload.concern      which files matter, and whom a change concerns
    reload.lookout      which files changed; the only door to watchfiles
    reload.reloader     new processes in, old ones drained
    farewell            how a node takes leave of its clients
    garbage             what the collector looks at while a node serves
    opening             what stands before anything is served: options, doors, database
    app                 the composition root
    nodes.charge        what the parent of several nodes tells each, and hears of it
    nodes.handover      connections from hand to hand
    nodes.asking        one request to one node
    nodes.member        one node as its parent has it: started again when it ends
    nodes.front         the admin door of several nodes
    nodes.parent        it holds the doors and the database, the nodes serve
    nodes.node          the process of one node among several
    doctor.finding      one thing that was looked at, and what to do about it
    doctor.host         Python, the kernel, files, the folder, ports, the sandbox
    doctor.database     the PostgreSQL there would be, or is
    doctor.functions    does each command run, what does it say
    cli.printing        what the commands print, and how they end
    privacy             what functions cannot read of the node
    cli.secret          from the environment or a file
    cli.door            the admin door from outside
    cli.asking          invoke, send, state get, health
    cli.letters         messages list, show, retry, edit, drop
    cli.making          init
    cli.migrating       migrate
    cli.banner          what `dev` says when it is up
    cli.serving         dev, serve
    cli.noding          the node that a parent starts
    cli.examining       doctor
    cli.checking        check
    cli                 the `inversion` command
    pid_one             in a container: an init before the program
    __main__            the entry point
"""

__version__ = "0.1.0"
