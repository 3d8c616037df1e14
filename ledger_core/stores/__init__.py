"""Where blocks are kept: one atomic, durable commit per block."""
