"""What each kind of transaction may do: one file a kind, all of one shape.

Each file offers ``judge(view, signer, nonce, payload, signers)`` and returns
either the values to write, by path, or a fixed rejection code. A rule is pure:
it reads the view it is given, raises for nothing a sender can cause, and writes
nothing itself. ``signers`` are the keys whose signatures have been checked.
"""
