"""Payload work between a publisher and the broker: a namespace's steps, in order.

A namespace that has steps (`[[namespaces.NAME.pipeline]]`) has every publication of its topics go
through them before the broker sees it, whoever published it: the private API, a client, or a
backend through the inbox in Redis. A namespace without steps costs nothing.

    publishing   takes drafts, has them prepared, publishes them in their topic's order
    bench        the same for what backends leave in Redis
    lanes        who waits for whom: only drafts of one topic do
    preparation  where the steps run: at once, on the loop a little later, in the pool
    pool         processes, bounded in number, time and memory, that are replaced when they fail;
                 `turns` says whose job is next, `process` is one of them from outside, `child`
                 from inside, `work` what it can do
    chain        the steps of a namespace, made once in each process that runs them
    step         what a step is, and the document that it works on

What is promised
    Publications of one topic leave in the order in which they were accepted, however long each of
    them takes; those of different topics do not wait for each other. A publication that a step
    refuses, or whose process is killed, crashes, or takes too long, fails by itself, with a reason
    for its publisher; the next one of its topic goes on. None is published in part, unprocessed
    or twice.

Where a step runs
    Whatever may take longer than a moment runs in a process of the pool; the event loop never
    waits. What is small runs at once: to send it away would cost more than the work.

When there is too much
    Each namespace may have so many jobs waiting, and no more; beyond that its publishers are told
    when to come back (503). A namespace that is busy cannot take the pool from another one: free
    processes go to the namespaces in turn.
"""
