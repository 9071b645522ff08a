"""One run on several devices: a leader that runs the loop, and processes that follow it.

The process of rank 0 leads: trainer, run directory, ledger, evaluations, judges and trackers are
its alone, so that nothing which depends on time or on a remote service can differ between ranks.
The others build the same engine, reward models and learner, wait for its commands, and do their
share of the work with it. `ranks` says who is there and carries messages, `commands` has the names
of what is asked, `parts` stands on the leader where engine and learner stand, `sharing` divides a
learner's work, `fsdp` a model's weights.
"""
