"""Witnesses: somebody else who has seen the log, and says so under a key of their own.

For a university, an auditor or another hospital who runs one command on a small
machine, and for the ledger's operator who gathers their signatures. C2SP tlog-witness
and tlog-cosignature throughout, so other people's witnesses and logs fit.

    home, records, files    the directory of a witness and what it must not forget
    core, service, server   judging and signing what logs submit
    evidence, cases, blocks what contradictions prove, kept so that others can check it
    replay, replica, sources   a witness that recomputes the state before it signs
    client                  the operator's side
    commands                the command line
"""
